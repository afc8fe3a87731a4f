"""The way to a host: its jumps in order, each with its own ssh_config, as `ssh -J` goes it."""

from __future__ import annotations

import re
from dataclasses import replace

from ..errors import ConnectError
from ..inventory.model import Host, Ssh
from .access import Access, Keyring, hop, resolve

FARTHEST = 16  # hops
_JUMP = re.compile(
    r"(?:ssh://)?(?:(?P<user>(?!-)[^\s/\[\]]+)@)?"
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<bare>[0-9A-Fa-f]*(?::[0-9A-Fa-f.]*){2,})|(?P<name>[^\s:@\[\]/-][^\s:@\[\]/]*))"
    r"(?::(?P<port>\d{1,5}))?/?"
)


def way(host: Host, keyring: Keyring) -> tuple[Access, ...]:
    """All hops, the last one being the host itself; ConnectError where they go round in circles."""
    last = resolve(host, keyring)
    return (*_before(last, (last,), host, keyring), last)


def parse(jump: str, host: str) -> tuple[str | None, str, int | None]:
    """(user, name, port) of `[user@]host[:port]`, `[v6]:port` or ssh://…"""
    found = _JUMP.fullmatch(jump.strip())
    if not found or not 0 < int(found["port"] or 22) < 65536:
        raise ConnectError(
            f"{jump!r} is not a jump", host=host, hint="user@host:port; an IPv6 address in brackets"
        )
    name = found["v6"] or found["bare"] or found["name"]
    return found["user"], name, int(found["port"]) if found["port"] else None


def _before(target: Access, seen: tuple[Access, ...], host: Host, keyring: Keyring) -> tuple[Access, ...]:
    """The hops before `target`. The first of a list goes its own ssh_config's way, the others through it."""
    if target.jump is None:
        return ()
    hops: tuple[Access, ...] = ()
    for number, one in enumerate(target.jump.split(",")):
        user, name, port = parse(one, host.name)
        settings = Ssh(user=user, port=port, key=host.ssh.key, connect_timeout=host.ssh.connect_timeout)
        found = hop(name, settings, host.name, keyring, own=False)
        if number:
            found = replace(found, jump=None, odd=None if _proxied(found) else found.odd)
        path = (*seen, *hops, found)
        if any(_same(found, other) for other in (*seen, *hops)) or len(path) > FARTHEST:
            names = [a.name for a in path]
            shown = [*names[:4], "…", names[-1]] if len(names) > 6 else names
            raise ConnectError(
                f"the jumps go round in circles: {', behind '.join(shown)}",
                host=host.name,
                hint=f"give {found.name} `ProxyJump none` in ssh_config, before the rule that holds for all",
            )
        hops += (*_before(found, path, host, keyring), found)
    return hops


def _same(one: Access, other: Access) -> bool:
    """By name: addresses may recur behind another jump."""
    return (one.name.lower(), one.port, one.user) == (other.name.lower(), other.port, other.user)


def _proxied(access: Access) -> bool:
    return access.odd is not None and "ProxyCommand" in access.odd
