"""How a host is reached: the inventory's words first, then the user's ssh_config as OpenSSH reads it."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConnectError, UsageError
from ..inventory.model import Host, Secret, Ssh
from . import sshconfig
from .prompts import Ask, Once, Trials
from .sshconfig import Settings

Reveal = Callable[[Secret], str]


def _no_secrets(secret: Secret) -> str:
    raise UsageError(f"{secret} is needed to reach a host, but nothing resolves it here")


@dataclass(frozen=True, slots=True)
class Keyring:
    """Whom to trust and who we are: known hosts, the inventory's folder, secrets, a person to ask."""

    folder: str = "."
    known_hosts: tuple[Path, ...] = ()  # (): OGEN_KNOWN_HOSTS, else as ssh_config says
    reveal: Reveal = _no_secrets
    ask: Ask | None = None  # None: no terminal, nobody is asked
    once: Once = field(default_factory=Once, compare=False, repr=False)
    trials: Trials = field(default_factory=Trials, compare=False, repr=False)

    def named_files(self) -> tuple[Path, ...]:
        """The files that count instead of ssh_config's; () if none were named."""
        if self.known_hosts:
            return self.known_hosts
        named = os.environ.get("OGEN_KNOWN_HOSTS", "")
        return tuple(Path(n) for n in named.split(os.pathsep) if n)

    def files(self) -> tuple[Path, ...]:
        return self.named_files() or tuple(Path(f).expanduser() for f in sshconfig.KNOWN_HOSTS)

    def typed(self, key: tuple[str, ...], question: str) -> str | None:
        """What a person answers, asked once for each key; None where nobody can be asked."""
        ask = self.ask
        return self.once(("typed", *key), lambda: ask(question)) if ask else None

    def settings(self, name: str, user: str | None, port: int | None, host: str) -> Settings:
        """ssh_config's words on a name; many hosts have the same jump."""
        return self.once(("ssh -G", name, user, port), lambda: sshconfig.ask(name, user, port, host))


@dataclass(frozen=True, slots=True)
class Access:
    """One hop, resolved: where to connect to, as whom, with what."""

    address: str
    port: int
    user: str
    keys: tuple[str, ...]  # paths of private keys
    only_keys: bool  # IdentitiesOnly: of the agent's keys only those that are among `keys`
    password: str | None
    alias: str | None  # HostKeyAlias
    host_key: str | None
    jump: str | None  # as in ssh_config: the hops before this one, with commas between them
    timeout: float  # seconds until the handshake must have begun
    name: str = ""  # as the inventory or the jump names it
    files: tuple[Path, ...] = ()  # of known hosts
    agent: str | None = None  # the agent's socket
    certificates: tuple[str, ...] = ()  # CertificateFile
    own_key: str | None = None  # the inventory's
    kex: str | None = None  # KexAlgorithms
    odd: str | None = None  # what only OpenSSH's own client can do for this hop

    @property
    def known_as(self) -> str:
        """The name to look up among known hosts."""
        if self.alias:
            return self.alias.lower()
        address = self.address.lower()
        return address if self.port == 22 else f"[{address}]:{self.port}"


def resolve(host: Host, keyring: Keyring) -> Access:
    """The host's own hop."""
    password = keyring.reveal(host.ssh.password) if host.ssh.password else None
    return hop(host.address, host.ssh, host.name, keyring, password)


def hop(
    name: str, ssh: Ssh, host: str, keyring: Keyring, password: str | None = None, *, own: bool = True
) -> Access:
    """`name` with what `ssh` sets over ssh_config. `own`: the inventory's key is the only one to use."""
    own_key = _own_key(ssh, host, keyring)
    config = keyring.settings(name, ssh.user, ssh.port, host)
    address = config.first("hostname") or name
    port = ssh.port or int(config.first("port") or 22)
    user = ssh.user or config.first("user") or getpass.getuser()
    jump = ssh.proxy_jump or config.first("proxyjump")
    alias = config.first("hostkeyalias")
    known = sshconfig.tokens(name, address, port, user, jump, alias or address)
    listed = [] if own_key and own else config.all("identityfile")
    keys = [own_key] if own_key else []
    keys += [path for path in (sshconfig.expand(k, known) for k in listed) if Path(path).is_file()]
    return Access(
        address=address,
        port=port,
        user=user,
        keys=tuple(dict.fromkeys(keys)),
        only_keys=bool(own_key and own) or config.first("identitiesonly") == "yes",
        password=password,
        alias=alias,
        host_key=ssh.host_key,
        jump=None if jump in (None, "none") else sshconfig.expand(jump, known),
        timeout=ssh.connect_timeout,
        name=name,
        files=keyring.named_files() or _known_hosts(config, known),
        agent=_agent(config, known),
        certificates=tuple(sshconfig.expand(c, known) for c in config.all("certificatefile")),
        own_key=own_key,
        kex=config.first("kexalgorithms"),
        odd=_odd(config, jump, own_key),
    )


def _own_key(ssh: Ssh, host: str, keyring: Keyring) -> str | None:
    if not ssh.key:
        return None
    path = Path(keyring.folder, Path(ssh.key).expanduser())
    if not path.is_file():
        hint = f"it is looked up from {keyring.folder}"
        raise ConnectError(f"ssh.key {ssh.key} is not there", host=host, hint=hint)
    return str(path)


def _known_hosts(config: Settings, known: dict[str, str]) -> tuple[Path, ...]:
    listed = (*config.files("userknownhostsfile"), *config.files("globalknownhostsfile"))
    if "userknownhostsfile" not in config.said:
        listed = sshconfig.KNOWN_HOSTS
    return tuple(Path(sshconfig.expand(file, known)) for file in listed)


def _agent(config: Settings, known: dict[str, str]) -> str | None:
    named = config.first("identityagent")
    if named is None:
        return None if "identityagent" in config.said else os.environ.get("SSH_AUTH_SOCK")
    if named == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK")
    if named.startswith("$") and not named.startswith("${"):
        return os.environ.get(named[1:])
    return sshconfig.expand(named, known)


def _odd(config: Settings, jump: str | None, own_key: str | None) -> str | None:
    """Settings that paramiko has no counterpart for."""
    if config.first("proxycommand") and jump is None:
        return "ssh_config has a ProxyCommand for it"
    for key, name in (
        ("knownhostscommand", "KnownHostsCommand"),
        ("revokedhostkeys", "RevokedHostKeys"),
        ("pkcs11provider", "PKCS11Provider"),
        ("bindaddress", "BindAddress"),
        ("bindinterface", "BindInterface"),
    ):
        if config.first(key):
            return f"ssh_config has {name} for it"
    if own_key and _is_security_key(own_key):
        return "ssh.key is a security key"
    return None


def _is_security_key(path: str) -> bool:
    try:
        return Path(path + ".pub").read_text("utf-8", "replace").startswith("sk-")
    except OSError:
        return False
