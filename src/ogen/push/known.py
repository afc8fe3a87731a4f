"""Known hosts, read once for all connections: which keys a host may show. Unknown is refused, never added."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConnectError
from .access import Access

if TYPE_CHECKING:
    import paramiko


@lru_cache(maxsize=16)
def _read(files: tuple[Path, ...], stamps: tuple[float, ...]) -> paramiko.HostKeys:
    import paramiko

    keys = paramiko.HostKeys()
    for path in files:
        if path.is_file():
            keys.load(str(path))
    return keys


def keys_of(access: Access, files: tuple[Path, ...], host: str) -> Sequence[paramiko.PKey]:
    """The keys that the host may show: the inventory's pin alone, else the known hosts'."""
    if access.host_key:
        return (_pinned(access.host_key, host),)
    stamps = tuple(p.stat().st_mtime if p.is_file() else 0.0 for p in files)
    found = _read(files, stamps).lookup(access.known_as)
    if not found:
        raise ConnectError(
            f"the host key of {access.known_as} is not known",
            host=host,
            hint=f"compare its fingerprint and add it: ssh-keyscan -p {access.port} {access.alias}; "
            "or pin it as ssh.host_key in the inventory",
        )
    return tuple(found.values())


def _pinned(text: str, host: str) -> paramiko.PKey:
    import base64

    import paramiko

    parts = text.split()
    try:
        return paramiko.PKey.from_type_string(parts[0], base64.b64decode(parts[1]))
    except (IndexError, ValueError, paramiko.SSHException) as error:
        raise ConnectError(f"ssh.host_key is not a public key: {error}", host=host) from None


def place_of(access: Access, files: tuple[Path, ...]) -> str:
    """file:line of the known key that another one contradicts."""
    import paramiko

    for path in files:
        lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
        for number, line in enumerate(lines, 1):
            try:
                entry = paramiko.hostkeys.HostKeyEntry.from_line(line, number)
            except (paramiko.SSHException, ValueError):
                continue
            if entry and _matches(entry, access.known_as):
                return f"{path}:{number}"
    return "the inventory's host_key" if access.host_key else "known hosts"


def _matches(entry: paramiko.hostkeys.HostKeyEntry, name: str) -> bool:
    """Whether a line is about a name, hashed or not."""
    import paramiko

    keys = paramiko.HostKeys()
    for shown in entry.hostnames or ():
        keys.add(shown, entry.key.get_name(), entry.key)
    return keys.lookup(name) is not None
