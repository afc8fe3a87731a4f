"""What differs between two states of hosts: the words of a diff."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from ..agent import drift
from ..errors import Where
from .model import File


class Kind(Enum):
    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


class State(Enum):
    """Of a file with three versions: as ogen put it there, as the inventory wants it, as it is on the host.

    The agent finds the word (agent/drift.py has the table); "same" is no change.
    """

    PENDING = drift.PENDING  # not yet applied
    EDITED = drift.EDITED  # on the host; the inventory is as it was
    CONFLICT = drift.CONFLICT  # edited on the host, and not yet applied
    REMOVED = drift.REMOVED  # from the inventory
    REMOVED_EDITED = drift.REMOVED_EDITED  # from the inventory, and edited on the host
    CONVERGED = drift.CONVERGED  # edited on the host to what the inventory wants by now
    IN_THE_WAY = "in_the_way"  # something that apply does not replace, where a file of ogen's is to go
    FOREIGN = "foreign"  # somebody else's file beside ogen's: a drop-in for a unit of ogen's

    @property
    def is_drift(self) -> bool:
        """Whether somebody changed something on the host, whatever the inventory wants."""
        return self not in (State.PENDING, State.REMOVED)


class Hidden(Enum):
    """Why a change is shown without its lines."""

    SECRET = "secret"  # noqa: S105 — a word, no password
    BINARY = "binary"
    LARGE = "large"
    UNREAD = "not read"  # the host did not send the text


@dataclass(frozen=True, slots=True)
class Side:
    """A file as one side has it; `content` is None where nobody sent it."""

    content: bytes | None
    sha256: str
    mode: int
    owner: str
    group: str
    secret: bool = False

    @property
    def access(self) -> str:
        return f"{self.mode:04o} {self.owner}:{self.group}"

    @classmethod
    def of(cls, file: File | None) -> Side | None:
        if file is None:
            return None
        return cls(file.content, file.sha256, file.mode, file.owner, file.group, file.secret)


@dataclass(frozen=True, slots=True)
class Facet:
    """What is shown of a side beside its lines.

    Where the lines are hidden, `size` and `mark` (a hash's prefix, keyed for a secret) stand for them.
    """

    mode: int
    owner: str
    group: str
    size: int | None = None
    mark: str = ""

    @property
    def access(self) -> str:
        return f"{self.mode:04o} {self.owner}:{self.group}"


@dataclass(frozen=True, slots=True)
class Change:
    """One file that differs; equal on two hosts when all that is shown is equal."""

    path: str
    kind: Kind
    old: Facet | None
    new: Facet | None
    lines: tuple[str, ...] = ()  # a unified diff from the first @@ on
    hidden: Hidden | None = None
    state: State = State.PENDING
    edit: tuple[str, ...] = ()  # where the inventory has changed too: what somebody made of ogen's text
    remark: str = ""  # what is no content: a link that became a file, say
    where: Where | None = field(default=None, compare=False, repr=False)  # the inventory line behind it

    @property
    def added(self) -> int:
        return sum(line.startswith("+") for line in self.lines)

    @property
    def removed(self) -> int:
        return sum(line.startswith("-") for line in self.lines)


@dataclass(frozen=True, slots=True)
class Item:
    """Something that is no file and differs: a model to create, a view, a setting of a unit."""

    what: str
    name: str
    kind: Kind
    detail: str = ""
    drift: bool = False  # the host left the release in force: a unit that does not run, say


@dataclass(frozen=True, slots=True)
class HostDiff:
    host: str
    changes: tuple[Change, ...] = ()
    items: tuple[Item, ...] = ()
    note: str = ""  # "new host", "leaves the inventory"

    @property
    def changed(self) -> bool:
        return bool(self.changes or self.items or self.note)


@dataclass(frozen=True, slots=True)
class Group:
    """The same change on one or more hosts."""

    hosts: tuple[str, ...]
    change: Change | Item

    @property
    def on(self) -> str:
        return fold(self.hosts)


@dataclass(frozen=True, slots=True)
class Diff:
    """Hosts in the order of the new side; `old` and `new` name the sides."""

    hosts: tuple[HostDiff, ...]
    old: str = "in force"
    new: str = "inventory"
    unseen: tuple[tuple[str, str], ...] = ()  # (host, why): known, and not looked at; no change

    @property
    def changed(self) -> bool:
        return any(host.changed for host in self.hosts)

    def drift(self) -> Diff:
        """Only what happened on the hosts, without what is not applied yet."""
        kept = (
            HostDiff(
                host.host,
                tuple(change for change in host.changes if change.state.is_drift),
                tuple(item for item in host.items if item.drift),
            )
            for host in self.hosts
        )
        return replace(self, hosts=tuple(host for host in kept if host.changed))

    def groups(self) -> tuple[Group, ...]:
        """Identical changes folded; those of the same hosts together, items before files."""
        found: dict[Change | Item, list[tuple[str, Change | Item]]] = {}
        for host in self.hosts:
            both: tuple[Change | Item, ...] = host.items + host.changes
            for change in both:
                found.setdefault(_masked(change), []).append((host.host, change))
        order = {host.host: number for number, host in enumerate(self.hosts)}
        groups = [_group(masked, parts) for masked, parts in found.items()]
        return tuple(sorted(groups, key=lambda g: (tuple(order[h] for h in g.hosts), _rank(g.change))))

    def notes(self) -> tuple[tuple[str, str], ...]:
        """Each note with its hosts, folded."""
        found: dict[str, list[str]] = {}
        for host in self.hosts:
            if host.note:
                found.setdefault(host.note, []).append(host.host)
        return tuple((note, fold(hosts)) for note, hosts in found.items())

    def summary(self) -> str:
        """Such as "3 files on 2 hosts: 1 added, 2 changed"."""
        changes = [(change, host.host) for host in self.hosts for change in host.changes]
        touched = {host.host for host in self.hosts if host.changed}
        kinds = [f"{n} {k.value}" for k in Kind if (n := sum(c.kind is k for c, _ in changes))]
        edits = sum(change.state.is_drift for change, _ in changes)
        files, hosts = _count(len(changes), "file"), _count(len(touched), "host")
        by_hand = f"; {edits} of them by hand on the host" if edits else ""
        return f"{files} on {hosts}" + (f": {', '.join(kinds)}" if kinds else "") + by_hand


#: a unit's hash over its own text, host's name included: it alone does not make two changes different
_DERIVED = re.compile(r"(?<=OGEN_UNIT_HASH=)[0-9a-f]{16}")


def _masked(change: Change | Item) -> Change | Item:
    if isinstance(change, Item):
        return change
    lines, edit = (tuple(_DERIVED.sub("…", line) for line in part) for part in (change.lines, change.edit))
    return replace(change, lines=lines, edit=edit)


def _group(masked: Change | Item, parts: Sequence[tuple[str, Change | Item]]) -> Group:
    """The change as it is, where it is the same on all hosts to the last character."""
    same = len({change for _, change in parts}) == 1
    return Group(tuple(host for host, _ in parts), parts[0][1] if same else masked)


def _rank(change: Change | Item) -> tuple[int, str, str]:
    if isinstance(change, Item):
        return 0, change.what, change.name
    return 1, change.path, change.kind.value


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def fold(hosts: Iterable[str]) -> str:
    """Names in their order, runs of numbers folded: "edge, gpu01..gpu04"."""
    parts: list[list[str]] = []
    for host in hosts:
        if parts and _follows(parts[-1][-1], host):
            parts[-1].append(host)
        else:
            parts.append([host])
    return ", ".join(_run(part) for part in parts)


def _run(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 3 else f"{names[0]}..{names[-1]}"


def _follows(first: str, second: str) -> bool:
    a, b = re.fullmatch(r"(.*?)(\d+)", first), re.fullmatch(r"(.*?)(\d+)", second)
    if a is None or b is None or a[1] != b[1]:
        return False
    same_width = len(a[2]) == len(b[2]) or not (a[2].startswith("0") or b[2].startswith("0"))
    return same_width and int(b[2]) == int(a[2]) + 1
