"""The hosts as they are against the inventory: `ogen diff` without --base, and `apply --dry-run`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import HostError, Problems
from ..release.change import Change, Diff, HostDiff, Item, Kind, Origin, Side
from ..release.diff import Comparer
from . import console, project
from .fleet import Fleet, fleet, wish

if TYPE_CHECKING:
    from ..push import Comparison, Seen, Target

_ORIGIN = {"edited": Origin.EDITED}


def compare(path: Path, limit: str | None, context: int, parallel: int) -> Diff:
    """Asks every host what is in force; raises the hosts' errors, all at once, if any can't say."""
    ready = fleet(path, parallel)
    planned, targets = wish(ready, limit)
    project.tell(planned.remarks)
    found = seen(ready, targets)
    for name, comparison in found.items():
        if comparison.locked:
            console.say(f"note: {name} is held by another rollout: {comparison.locked}")
    return differences(targets, found, ready, context)


def seen(ready: Fleet, targets: Iterable[Target]) -> dict[str, Comparison]:
    """The hosts' own words. Raises HostErrors together as Problems."""
    from .. import push
    from .progress import progress

    wanted = tuple(targets)
    with progress(len(wanted), looking=True) as watch:
        answers = push.compare(wanted, ready.options, watch)
    errors = [answer for answer in answers.values() if isinstance(answer, HostError)]
    if errors:
        raise Problems(errors)
    return {name: answer for name, answer in answers.items() if not isinstance(answer, HostError)}


def differences(
    targets: Iterable[Target], found: Mapping[str, Comparison], ready: Fleet, context: int
) -> Diff:
    """Comparisons as a diff."""
    compare = Comparer(context, ready.vault.redactor())
    hosts = [_host(target, found[target.host.name], compare) for target in targets]
    return Diff(tuple(host for host in hosts if host.changed), "in force", "inventory")


def _host(target: Target, comparison: Comparison, compare: Comparer) -> HostDiff:
    wanted = {file.path: Side.of(file) for file in target.release.files}
    changes: list[Change] = []
    for one in comparison.files:
        wish = wanted.get(one.path)
        if one.state not in ("same", "gone"):
            old = _side(one, wish, foreign_owner=target.host.root is not None)
            change = compare(one.path, old, wish, _ORIGIN.get(one.state, Origin.PENDING))
            changes += [change] if change else []
    return HostDiff(target.host.name, tuple(changes), _items(target, comparison, {c.path for c in changes}))


def _side(one: Seen, wish: Side | None, *, foreign_owner: bool) -> Side | None:
    """What the host has. A host that is a folder has no owners to compare: the wish's stand for them."""
    if one.state == "missing":
        return None
    content = one.content
    if content is None and wish is not None and wish.sha256 == one.sha256:
        content = wish.content
    owner, group = one.owner or "root", one.group or "root"
    if foreign_owner:
        owner, group = (wish.owner, wish.group) if wish else ("root", "root")
    return Side(content, one.sha256 or "", one.mode or 0, owner, group, one.secret)


def _items(target: Target, comparison: Comparison, shown: set[str]) -> tuple[Item, ...]:
    """What an apply would do beside writing files."""
    sources = {model.name: model.source for model in target.release.models}
    models = [
        Item("model", name, Kind.ADDED, f"from {sources[name]}" if name in sources else "")
        for name in comparison.models
    ]
    todo = {
        "stop": comparison.stop,
        "restart": comparison.restart,
        "reload": comparison.reload,
        "relink": tuple(path for path in comparison.links if path not in shown),
    }
    return (*models, *(Item(verb, name, Kind.CHANGED) for verb, names in todo.items() for name in names))
