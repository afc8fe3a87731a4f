"""The way that most commands begin: an inventory becomes a plan, and the plan becomes releases."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import UsageError
from ..inventory import hosts_matching
from ..inventory.model import Inventory
from ..plan.model import Plan, Remark
from ..release.model import Release
from . import console


def compiled(path: Path) -> tuple[Plan, tuple[Release, ...]]:
    """The plan and the releases of the inventory at `path`."""
    from ..inventory import load
    from ..plan import plan
    from ..render import render

    planned = plan(load(path))
    return planned, render(planned)


def limited(inventory: Inventory, pattern: str | None) -> frozenset[str]:
    """The names of the hosts that --limit leaves; all without it. No match is an error."""
    if pattern is None:
        return frozenset(host.name for host in inventory.hosts)
    names = frozenset(host.name for host in hosts_matching(inventory, pattern))
    if not names:
        known = ", ".join([*(h.name for h in inventory.hosts), *inventory.groups][:12])
        raise UsageError(f"--limit {pattern} matches no host", hint=f"hosts and groups here: {known}")
    return names


def only(releases: Iterable[Release], names: frozenset[str]) -> tuple[Release, ...]:
    return tuple(release for release in releases if release.host in names)


def tell(remarks: Iterable[Remark]) -> None:
    """What a plan wants a person to know, on stderr."""
    for remark in remarks:
        place = f" ({remark.where})" if remark.where else ""
        console.say(f"{remark.severity}: {remark.message}{place}")
        if remark.hint:
            console.say(f"  hint: {remark.hint}")
