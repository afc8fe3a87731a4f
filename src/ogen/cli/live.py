"""The hosts as they are against the inventory: `ogen diff` without --base, and `apply --dry-run`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HostError, Problems
from ..release import derived
from ..release.change import Change, Diff, HostDiff, Item, Kind, Side, State
from ..release.diff import Comparer, Sides
from ..release.plaintext import visible
from . import console, leftover, project
from .fleet import Fleet, fleet, wish

if TYPE_CHECKING:
    from ..inventory.model import Inventory
    from ..push import Comparison, Seen, Target
    from ..push.results import Base
    from ..release.model import File


def compare(path: Path, limit: str | None, context: int, parallel: int) -> Diff:
    """Asks every host what is in force; raises the hosts' errors, all at once, if any can't say."""
    ready = fleet(path, parallel)
    planned, targets = wish(ready, limit)
    project.tell(planned.remarks)
    found = seen(ready, targets)
    for name, comparison in found.items():
        if comparison.locked:
            console.say(f"note: {name} is held by another rollout: {comparison.locked}")
    tell_absent(found)
    tell_mirror(ready, targets, found)
    diff = differences(targets, found, ready, context, foreign=True)
    return replace(diff, unseen=unseen(ready.inventory) if limit is None else ())


def tell_absent(found: Mapping[str, Comparison]) -> None:
    """What must be done before an apply can be, what will be loaded, and what stays of what goes."""
    for name, comparison in found.items():
        if comparison.unchanged:
            continue
        leftover.before(name, comparison)
        if comparison.short:
            console.say(f"note: {name} will be refused: {comparison.short}")
        elif comparison.room and comparison.room["sources"]:
            console.say(f"note: {name}: {_loads(comparison.room)}")
        if comparison.absent:
            console.say(
                f"note: {name} has no {comparison.absent} yet: run `ogen provision` before `ogen apply`"
            )


def tell_mirror(ready: Fleet, targets: Sequence[Target], found: Mapping[str, Comparison]) -> None:
    """What the mirror will load for others, beside what it needs itself."""
    from ..push import contact
    from ..push.supplies import for_others

    mirror = ready.inventory.mirror
    if mirror is None or mirror.host is None:
        return
    sources = for_others(mirror.host, targets, found)
    if not sources:
        return
    try:
        with contact(ready.inventory.host(mirror.host), ready.options) as one:
            room = one.mirror_room(sources)
    except HostError as error:
        console.say(f"note: the mirror {mirror.host}: {error.message}")
        return
    if room["sources"]:
        console.say(f"note: {mirror.host}, the mirror, has for others {_loads(room)}")


def _loads(room: Mapping[str, Any]) -> str:
    count = len(room["sources"])
    what = "1 model" if count == 1 else f"{count} models"
    need, free = room["need"] / 2**30, room["free"] / 2**30
    return f"{what} to load, {need:.1f} GiB; {free:.1f} GiB are free in {room['folder']}"


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
    targets: Iterable[Target],
    found: Mapping[str, Comparison],
    ready: Fleet,
    context: int,
    *,
    foreign: bool = False,
) -> Diff:
    """Comparisons as a diff; with `foreign` also of what an apply leaves alone."""
    compare = Comparer(context, ready.vault.redactor())
    hosts = [_host(target, found[target.host.name], compare, foreign=foreign) for target in targets]
    return Diff(tuple(host for host in hosts if host.changed), "in force", "inventory")


def unseen(inventory: Inventory) -> tuple[tuple[str, str], ...]:
    """Hosts that are known and were not asked: those that are out, and those that only the lock knows."""
    left = "what runs there is left as it is, and was not looked at"
    out = [
        (h.name, f"out{f' ({h.reason})' if h.reason else ''}; {left}")
        for h in inventory.hosts
        if h.state == "out"
    ]
    gone = [(name, f"removed from the inventory, the lock knows it; {left}") for name in inventory.forgotten]
    return (*out, *gone)


def _host(target: Target, comparison: Comparison, compare: Comparer, *, foreign: bool = False) -> HostDiff:
    wanted = {file.path: file for file in target.release.files}
    left_out = ("same",) if foreign else ("same", "foreign")
    changes = [
        _change(one, wanted.get(one.path), compare, foreign_owner=target.host.root is not None)
        for one in comparison.files
        if one.state not in left_out
    ]
    return HostDiff(target.host.name, tuple(changes), _items(target, comparison, {c.path for c in changes}))


def _change(one: Seen, file: File | None, compare: Comparer, *, foreign_owner: bool) -> Change:
    sides = _sides(one, Side.of(file), foreign_owner=foreign_owner)
    state = _by_text(State(one.state), sides)
    change = compare.three_way(one.path, state, sides)
    return replace(change, remark=_remark(one, sides), where=file.where if file else None)


def _by_text(state: State, sides: Sides) -> State:
    """The agent compares hashes; two texts that differ in hashes which ogen computes say the same."""
    base, mine, theirs = sides
    if state is not State.CONFLICT or base is None or mine is None or theirs is None:
        return state
    if theirs.access == mine.access and derived.same(theirs.content, mine.content):
        return State.CONVERGED
    if base.access == mine.access and derived.same(base.content, mine.content):
        return State.EDITED
    return state


def _sides(one: Seen, mine: Side | None, *, foreign_owner: bool) -> Sides:
    """A host that is a folder has no owners to compare: the wish's stand for them."""

    def side(of: Seen | Base) -> Side:
        content = of.content
        if content is None and mine is not None and mine.sha256 == of.sha256:
            content = mine.content
        owner, group = of.owner or "root", of.group or "root"
        if foreign_owner:
            owner, group = (mine.owner, mine.group) if mine else ("root", "root")
        return Side(content, of.sha256 or "", of.mode or 0, owner, group, one.secret)

    theirs = None if one.kind is None else side(one)
    if one.state == "pending":
        return Sides(theirs, mine, theirs)
    return Sides(side(one.base) if one.base else None, mine, theirs)


def _remark(one: Seen, sides: Sides) -> str:
    """What is no content."""
    parts = []
    if one.kind == "link":
        parts.append(
            "masked: `systemctl unmask` it" if one.target == "/dev/null" else f"a link to {one.target}"
        )
    elif one.kind == "other":
        parts.append("neither a file nor a link")
    elif one.replaced and sides.base is not None:
        parts.append("a file stands in place of ogen's link")
    if one.state == "removed_edited":
        parts.append("apply leaves it" if one.replaced else "apply keeps the edit under /etc/ogen/edited")
    if sides.base and sides.theirs is None:
        parts.append("removed on the host")
    elif (
        sides.base and sides.theirs and sides.base.access != sides.theirs.access and sides.base != sides.mine
    ):
        parts.append(f"access edited from {sides.base.access} to {sides.theirs.access}")
    return visible("; ".join(parts))


def _items(target: Target, comparison: Comparison, shown: set[str]) -> tuple[Item, ...]:
    """What an apply would do beside writing files; with the reason, where the host left its release."""
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
    why = {name: visible(text) for name, text in comparison.why.items()}
    verbs = [
        Item(verb, name, Kind.CHANGED, why.get(name, ""), drift=name in why)
        for verb, names in todo.items()
        for name in names
    ]
    return (*models, *verbs)
