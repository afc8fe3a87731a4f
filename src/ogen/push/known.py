"""Known hosts, read once for all connections: which keys a host may show. Unknown is refused, never added.

Hashed names, patterns and @revoked count as in OpenSSH; of certificate authorities only OpenSSH's own
client makes use (`transport: openssh`).
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import ConnectError
from .access import Access


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a known_hosts file; `key` is the public key's bytes."""

    place: str  # file:line
    marker: str  # "", "@revoked", "@cert-authority"
    names: tuple[str, ...]
    kind: str
    key: bytes

    def matches(self, name: str) -> bool:
        if any(_match(n[1:], name) for n in self.names if n.startswith("!")):
            return False
        return any(_match(n, name) for n in self.names if not n.startswith("!"))


def _match(pattern: str, name: str) -> bool:
    if pattern.startswith("|1|"):
        return _hashed(pattern, name)
    if "*" in pattern or "?" in pattern:
        return fnmatch.fnmatchcase(name.lower(), pattern.lower().replace("[", "[[]"))
    return pattern.lower() == name.lower()


def _hashed(pattern: str, name: str) -> bool:
    """`|1|salt|HMAC-SHA1 of the name`."""
    parts = pattern.split("|")
    try:
        salt, digest = base64.b64decode(parts[2]), base64.b64decode(parts[3])
    except (IndexError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)


def parse(text: str, file: str) -> tuple[Line, ...]:
    """The lines that can be understood; others are left out, as OpenSSH does."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#"):
            continue
        try:
            key = base64.b64decode(words[2], validate=True)
        except binascii.Error:
            continue
        found.append(Line(f"{file}:{number}", marker, tuple(words[0].split(",")), words[1], key))
    return tuple(found)


@lru_cache(maxsize=16)
def _read(path: Path, changed: float) -> tuple[Line, ...]:
    return parse(path.read_text("utf-8", "replace"), str(path))


def lines(access: Access, files: tuple[Path, ...], host: str) -> tuple[Line, ...]:
    """The lines with keys that the host may show: the inventory's pin alone, else the known hosts'."""
    if access.host_key:
        pinned = parse("* " + access.host_key, "the inventory's host_key")
        if not pinned:
            raise ConnectError("ssh.host_key is not a public key", host=host, hint="like: ssh-ed25519 AAAA…")
        return pinned
    there = [line for path in files if path.is_file() for line in _read(path, path.stat().st_mtime)]
    matching = [line for line in there if line.matches(access.known_as)]
    revoked = {line.key for line in matching if line.marker == "@revoked"}
    found = tuple(line for line in matching if not line.marker and line.key not in revoked)
    if not found:
        raise ConnectError(
            f"the host key of {access.known_as} is not known", host=host, hint=_advice(access, matching)
        )
    return found


def _advice(access: Access, matching: list[Line]) -> str:
    if any(line.marker == "@cert-authority" for line in matching):
        return "keys signed by a certificate authority need transport: openssh"
    if matching:
        return f"{matching[0].place} revokes it"
    return "`ogen trust INVENTORY` shows its fingerprint and pins it; or give ssh.host_key in the inventory"
