"""How a host is reached: the inventory's words first, then the user's ssh_config as OpenSSH reads it."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConnectError, UsageError
from ..inventory.model import Host, Secret, Ssh

Reveal = Callable[[Secret], str]


def _no_secrets(secret: Secret) -> str:
    raise UsageError(f"{secret} is needed to reach a host, but nothing resolves it here")


@dataclass(frozen=True, slots=True)
class Keyring:
    """Whom to trust and who we are: files of known hosts, the inventory's folder, secrets."""

    folder: str = "."
    known_hosts: tuple[Path, ...] = ()  # (): OGEN_KNOWN_HOSTS, else the user's and the system's
    reveal: Reveal = _no_secrets

    def files(self) -> tuple[Path, ...]:
        if self.known_hosts:
            return self.known_hosts
        named = os.environ.get("OGEN_KNOWN_HOSTS")
        if named:
            return tuple(Path(n) for n in named.split(os.pathsep) if n)
        return (Path("~/.ssh/known_hosts").expanduser(), Path("/etc/ssh/ssh_known_hosts"))


@dataclass(frozen=True, slots=True)
class Access:
    """One hop, resolved: where to connect to, as whom, with what."""

    address: str
    port: int
    user: str
    keys: tuple[str, ...]  # paths of private keys
    only_keys: bool  # IdentitiesOnly: do not offer the agent's
    password: str | None
    alias: str  # the name to look up among known hosts
    host_key: str | None
    jump: str | None
    timeout: float

    @property
    def known_as(self) -> str:
        return self.alias if self.port == 22 else f"[{self.alias}]:{self.port}"


def resolve(host: Host, keyring: Keyring) -> Access:
    ssh = host.ssh
    password = keyring.reveal(ssh.password) if ssh.password else None
    return _access(host.name, host.address, ssh, keyring.folder, password)


def resolve_jump(host: Host, jump: str, keyring: Keyring) -> Access:
    """`[user@]host[:port]`, with the ssh_config of that name; one hop."""
    if "," in jump:
        raise ConnectError(
            f"ProxyJump over several hops ({jump}) needs OpenSSH's client",
            host=host.name,
            hint="set transport: openssh",
        )
    user, _, rest = jump.rpartition("@")
    address, _, port = rest.partition(":") if rest.count(":") == 1 else (rest, "", "")
    ssh = Ssh(user=user or None, port=int(port) if port.isdigit() else None, key=host.ssh.key)
    return _access(host.name, address, ssh, keyring.folder, None)


def _access(name: str, address: str, ssh: Ssh, folder: str, password: str | None) -> Access:
    if ssh.key and not Path(folder, ssh.key).expanduser().is_file():
        raise ConnectError(
            f"ssh.key {ssh.key} is not there", host=name, hint=f"it is looked up from {folder}"
        )
    config = ssh_config(address)
    keys = [str(Path(folder, ssh.key).expanduser())] if ssh.key else config.get("identityfile", [])
    jump = ssh.proxy_jump or _first(config, "proxyjump")
    return Access(
        address=_first(config, "hostname") or address,
        port=ssh.port or int(_first(config, "port") or 22),
        user=ssh.user or _first(config, "user") or getpass.getuser(),
        keys=tuple(k for k in (str(Path(k).expanduser()) for k in keys) if Path(k).is_file()),
        only_keys=bool(ssh.key) or _first(config, "identitiesonly") == "yes",
        password=password,
        alias=_first(config, "hostkeyalias") or _first(config, "hostname") or address,
        host_key=ssh.host_key,
        jump=None if jump in (None, "none") else jump,
        timeout=ssh.connect_timeout,
    )


def _first(config: Mapping[str, list[str]], key: str) -> str | None:
    return config[key][0] if config.get(key) else None


def ssh_config(address: str) -> Mapping[str, list[str]]:
    """What `ssh -G` says about a name: exact Match, Include and token rules; {} without a client.

    Asked only where a configuration exists: 5 ms for each of a thousand hosts are 5 s.
    """
    there = Path("~/.ssh/config").expanduser().is_file() or _system_config()
    if not there or not shutil.which("ssh") or address.startswith("-"):
        return {"identityfile": [f"~/.ssh/{n}" for n in ("id_ed25519", "id_ecdsa", "id_rsa")]}
    done = subprocess.run(
        ["ssh", "-G", "--", address], capture_output=True, text=True, timeout=10, check=False
    )
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key.lower(), []).append(value)
    return found


def _system_config() -> bool:
    folder = Path("/etc/ssh/ssh_config.d")
    return folder.is_dir() and any(folder.glob("*.conf"))
