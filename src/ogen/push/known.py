"""Known hosts, read once for all connections: which keys a host may show. Unknown is refused, never added.

Hashed names, patterns and @revoked count as in OpenSSH. A host that only a certificate authority vouches
for is left to OpenSSH's own client: it checks the signature, the principals and the time.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hmac
from dataclasses import dataclass, replace
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
    salt, digest = _salted(pattern)
    return bool(salt) and hmac.compare_digest(hmac.digest(salt, name.lower().encode(), "sha1"), digest)


@lru_cache(maxsize=100_000)
def _salted(pattern: str) -> tuple[bytes, bytes]:
    parts = pattern.split("|")
    try:
        return base64.b64decode(parts[2]), base64.b64decode(parts[3])
    except (IndexError, binascii.Error):
        return b"", b""


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


@lru_cache(maxsize=64)
def _read(path: Path, changed: int) -> tuple[Line, ...]:
    return parse(path.read_text("utf-8", "replace"), str(path))


@dataclass(frozen=True, slots=True)
class Known:
    """What the files say of one host: keys that it may show, keys that it must not, and who may vouch."""

    name: str  # as it was looked up
    lines: tuple[Line, ...]
    revoked: tuple[Line, ...] = ()
    authorities: tuple[Line, ...] = ()

    def expected(self, host: str) -> tuple[Line, ...]:
        """The lines with keys that the host may show; ConnectError if there are none."""
        gone = {line.key for line in self.revoked}
        found = tuple(line for line in self.lines if line.key not in gone)
        if found:
            return found
        if self.lines:
            hint = "the host needs a new key: make one there, then `ogen trust INVENTORY` pins it"
            message = f"{self.revoked[0].place} revokes the host key of {self.name}"
            raise ConnectError(message, host=host, hint=hint)
        hint = (
            "`ogen trust INVENTORY` shows its fingerprint and pins it; or give ssh.host_key in the inventory"
        )
        raise ConnectError(f"the host key of {self.name} is not known", host=host, hint=hint)

    def judge(self, key: bytes, told: str, host: str) -> None:
        """Whether the host may show this key; `told` is its type and fingerprint. ConnectError if not."""
        for line in self.revoked:
            if line.key == key:
                hint = "don't log in: whoever has the old key could be this host; give it a new one"
                message = f"{line.place} revokes the key that the host shows: {told}"
                raise ConnectError(message, host=host, hint=hint)
        expected = self.expected(host)
        if all(line.key != key for line in expected):
            kind = told.split()[0]
            line = next((line for line in expected if line.kind == kind), expected[0])
            raise ConnectError(
                f"the host shows another key than {line.place}: {told}", host=host, hint=CHANGED
            )


CHANGED = (
    "if it was installed anew, remove that line and run `ogen trust`; if not, somebody stands in between"
)


def look(access: Access, host: str) -> Known:
    """The inventory's pin alone, if there is one, else what the files of known hosts say.

    As in OpenSSH, a port of its own makes a name of its own, and a name without port counts where that
    one is not known.
    """
    if access.host_key:
        pinned = parse("* " + access.host_key, "the inventory's host_key")
        if not pinned:
            raise ConnectError("ssh.host_key is not a public key", host=host, hint="like: ssh-ed25519 AAAA…")
        return Known(access.known_as, tuple(replace(line, place="ssh.host_key") for line in pinned))
    files = tuple((path, path.stat().st_mtime_ns) for path in access.files if path.is_file())
    found = _sorted(files, access.known_as)
    if not found.lines and not found.authorities and not access.alias and access.port != 22:
        plain = _sorted(files, access.address.lower())
        return replace(found, lines=plain.lines, revoked=found.revoked + plain.revoked)
    return found


@lru_cache(maxsize=4096)
def _sorted(files: tuple[tuple[Path, int], ...], name: str) -> Known:
    """By name, once for each state of the files: a hashed name costs a computation for each line."""
    matching = [line for path, changed in files for line in _read(path, changed) if line.matches(name)]
    return Known(
        name,
        *(tuple(n for n in matching if n.marker == m) for m in ("", "@revoked", "@cert-authority")),
    )
