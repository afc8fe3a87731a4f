"""The system's own ssh client as the carrier: security keys, GSSAPI, certificate authorities, odd settings.

It gets the same way, the same strictness and the same known hosts as paramiko; what it says when it fails
becomes the same ConnectError.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack

from ..errors import ConnectError, HostError, OfflineError
from . import known, sshconfig
from .access import Access, Keyring
from .handshakes import turn
from .pipes import ProcessPipe

#: what the client must not do, whatever ssh_config says: ask, learn keys, forward, run anything else
_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "NoHostAuthenticationForLocalhost": "no",
    "UpdateHostKeys": "no",
    "ServerAliveInterval": "15",
    "ControlMaster": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "LogLevel": "ERROR",
}
#: the cheap ones first, where ssh_config leaves the choice to us: sntrup costs 70 ms of CPU for each host
_ORDER = {
    "KexAlgorithms": "^curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256",
    "Ciphers": "^aes128-gcm@openssh.com",
}


class Client(ProcessPipe):
    """One run of the client. It holds a place among the handshakes until something came from the host."""

    def __init__(self, host: str, hops: Sequence[Access], line: str, keyring: Keyring) -> None:
        self.hops = hops
        self._stack = ExitStack()
        try:
            pin = self._pin(hops[-1], host)
            words = command(hops, line, keyring, pin)
            self._place = self._stack.enter_context(ExitStack())
            self._place.enter_context(turn(hops[0], host))
            super().__init__(host, words, user=hops[-1].user, env={**os.environ, "LC_ALL": "C"})
        except BaseException:
            self._stack.close()
            raise
        self.patience = sum(hop.timeout for hop in hops)

    def _pin(self, access: Access, host: str) -> str | None:
        """The inventory's host key as a file of known hosts, for as long as the client runs."""
        if access.host_key is None:
            return None
        known.look(access, host)  # it is a key
        file = tempfile.NamedTemporaryFile("w", prefix="ogen-known-hosts-")  # noqa: SIM115
        self._stack.enter_context(file)
        file.write(f"* {access.host_key}\n")
        file.flush()
        return file.name

    def wait(self, seconds: float) -> bool:
        came = super().wait(seconds)
        if came:
            self._place.close()
        return came

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._stack.close()

    def failure(self) -> HostError | None:
        """The client ends with 255 for failures of its own; a program on the host hardly ever does."""
        return failure(self.host, self.hops, self.said()) if self.status() == 255 else None


def command(hops: Sequence[Access], line: str, keyring: Keyring, pin: str | None = None) -> list[str]:
    """The client's command line. Each jump is a ProxyCommand: `ssh -J` would give it none of our options."""
    proxy: str | None = None
    for number, access in enumerate(hops[:-1]):
        words = _words(access, proxy, keyring, None, jumped=number > 0)
        after = hops[number + 1]
        proxy = shlex.join([*words, "-W", f"[{after.address}]:{after.port}", "--", access.name])
    last = hops[-1]
    words = _words(last, proxy, keyring, pin, jumped=len(hops) > 1)
    return [*words, "--", last.name, line]


def _words(
    access: Access, proxy: str | None, keyring: Keyring, pin: str | None, *, jumped: bool
) -> list[str]:
    options = {**_OPTIONS, "ConnectTimeout": str(max(1, round(access.timeout)))}
    options |= _ORDER if access.kex in (None, keyring.once("kex", sshconfig.usual_kex)) else {}
    files = [pin] if pin else [str(path) for path in keyring.named_files()]
    if files:
        options["UserKnownHostsFile"] = " ".join(f'"{file}"' for file in files)
        options["GlobalKnownHostsFile"] = "none"
    if proxy is not None:
        options["ProxyCommand"] = proxy.replace("%", "%%")
    elif access.jump is None and access.odd is None and not jumped:
        options["ProxyJump"] = "none"
    words = ["ssh", *sshconfig.flags(), "-T"]
    words += [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    words += ["-p", str(access.port), "-l", access.user]
    if access.own_key:
        words += ["-i", access.own_key]
        words += ["-o", "IdentitiesOnly=yes"] if access.only_keys else []
    return words


# -------------------------------------------------------------------------------------- failures
_SAID = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "the host shows another key than {offending}",
        known.CHANGED,
    ),
    (
        r"(?:REVOKED HOST KEY|marked as revoked|revoked by file)",
        "the key that the host shows is revoked",
        "{revoked}",
    ),
    (
        r"[Cc]ertificate (?:invalid|has expired|not yet valid|authority)|name is not a listed principal",
        "the host's certificate does not count: {said}",
        "sign the host's key anew on its authority, for this name, and put it in HostCertificate",
    ),
    (
        r"No \S+ host key is known for (?P<name>\S+)|Host key verification failed",
        "the host key of {name} is not known",
        "`ogen trust INVENTORY` shows its fingerprint and pins it; or give ssh.host_key in the inventory",
    ),
    (
        r"Permission denied|Too many authentication failures|No more authentication methods",
        "{user}@{address} does not let us in ({said})",
        "set ssh.user and ssh.key, or add the public key to ~/.ssh/authorized_keys of that user",
    ),
    (
        r"Could not resolve hostname \S+",
        "{address}: that name is not known",
        "check `address`, or the name's entry in DNS or ssh_config",
    ),
    (
        r"Connection refused",
        "{address}:{port}: connection refused",
        "is sshd running there, and ssh.port right?",
    ),
    (
        r"stdio forwarding failed|open failed",
        "the jump does not reach {address}:{port}",
        "is the host on? Else the jump's sshd_config needs AllowTcpForwarding, and PermitOpen for it",
    ),
    (
        r"banner exchange|[Bb]anner line contains invalid|identification string|protocol identification|"
        r"kex_exchange_id|Connection (?:closed|reset) by",
        "{address}:{port}: it does not speak SSH, or closes at once: {said}",
        "is that port sshd's, and the host not overloaded? sshd's log tells more",
    ),
    (
        r"timed out|No route to host|Network is unreachable|Timeout, server",
        "{address}:{port}: {said}",
        "is the host on, its address right, and no firewall in between? ssh.connect_timeout is the patience",
    ),
    (r"jumphost loop|[Bb]ad configuration|Bad owner|terminating,", "{said}", "`ssh -G {name}` says the same"),
)


#: of these, what says that nothing answers there as an SSH server
_OFF = re.compile(
    r"Connection refused|stdio forwarding failed|open failed|banner exchange|timed out|No route to host|"
    r"Network is unreachable|Timeout, server|identification string|Connection (?:closed|reset) by"
)


def failure(host: str, hops: Sequence[Access], said: str) -> ConnectError:
    """What the client said, as what is wrong and what to do."""
    last = hops[-1]
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it says nothing"]
    offending = re.search(r"^Offending .* key in (\S+?:\d+)", said, re.MULTILINE)
    values = {
        "offending": offending[1] if offending else "is known",
        "address": last.address,
        "port": last.port,
        "user": last.user,
        "name": last.known_as,
        "revoked": "don't log in: whoever has the old key could be this host; give it a new one",
    }
    for pattern, message, hint in _SAID:
        found = re.search(pattern, said)
        if found:
            line = next(line for line in lines if re.search(pattern, line))
            values |= {"said": line, **found.groupdict()}
            values["name"] = str(values["name"] or last.known_as).rstrip(".")
            text = message.format(**values)
            kind = OfflineError if _OFF.search(line) else ConnectError
            return kind(text, host=host, hint=hint.format(**values), log=lines[-20:])
    hint = f"`ssh {last.name} true` should work without a question"
    return ConnectError(f"OpenSSH's client ended: {lines[-1]}", host=host, hint=hint, log=lines[-20:])
