"""A model of what a power cut leaves of a log of changes: POSIX promises no more than this.

Names and contents reach the disk on their own and in any order until an fsync covers them: the folder's
for its names, the file's for its content and mode. A rename is one step, for both of its names. Of a
write that was not synced nothing, all, its first half, or zeros and its second half may be there.
What is below /run is gone.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ogen.agent.disk import Change, above

Tree = dict[str, tuple[str, int, bytes]]  # path → kind, mode, content (a symlink's target)


class Pending(NamedTuple):
    """A change that is not synced: names of a folder, a write at an offset, or a mode."""

    kind: str
    node: int
    names: tuple[tuple[str, int | None], ...] = ()
    offset: int = 0
    data: bytes = b""
    mode: int = 0
    number: int = 0  # of the change in the log

    @property
    def choices(self) -> int:
        return 4 if self.kind == "data" else 2


@dataclass
class Node:
    kind: str  # folder, file, link
    mode: int = 0o644
    names: dict[str, int] = field(default_factory=dict)
    data: bytes = b""

    def copy(self) -> Node:
        return Node(self.kind, self.mode, dict(self.names), self.data)


class FileSystem:
    """What programs see (`live`), what is on the disk (`disk`), and what is between them (`pending`)."""

    def __init__(self, root: Path) -> None:
        self.live: list[Node] = []
        self._load(root)
        self.disk = [node.copy() for node in self.live]
        self.pending: list[Pending] = []

    def _load(self, path: Path) -> int:
        number = len(self.live)
        if path.is_symlink():
            self.live.append(Node("link", data=str(path.readlink()).encode()))
        elif path.is_dir():
            node = Node("folder")
            self.live.append(node)
            for inner in sorted(path.iterdir()):
                node.names[inner.name] = self._load(inner)
        else:
            self.live.append(Node("file", path.stat().st_mode & 0o7777, data=path.read_bytes()))
        return number

    def find(self, path: str) -> int:
        at = 0
        for part in path.strip("/").split("/"):
            at = self.live[at].names[part] if part else at
        return at

    # ------------------------------------------------------------------------------- changes
    def do(self, change: Change, number: int = 0) -> None:
        getattr(self, "_" + change.operation)(change, number)

    def _new(self, change: Change, number: int, node: Node) -> None:
        self.live.append(node)
        self.disk.append(Node(node.kind, node.mode, data=node.data))
        self._names(change.path, number, [(change.path.rpartition("/")[2], len(self.live) - 1)])

    def _names(self, path: str, number: int, names: Sequence[tuple[str, int | None]]) -> None:
        folder = self.find(above(path))
        _name(self.live[folder], names)
        self.pending.append(Pending("names", folder, tuple(names), number=number))

    def _mkdir(self, change: Change, number: int) -> None:
        self._new(change, number, Node("folder", change.mode))

    def _create(self, change: Change, number: int) -> None:
        self._new(change, number, Node("file", change.mode))

    def _symlink(self, change: Change, number: int) -> None:
        self._new(change, number, Node("link", data=change.other.encode()))

    def _rename(self, change: Change, number: int) -> None:
        old, new = change.other.rpartition("/")[2], change.path.rpartition("/")[2]
        self._names(change.path, number, [(new, self.find(change.other)), (old, None)])

    def _unlink(self, change: Change, number: int) -> None:
        self._names(change.path, number, [(change.path.rpartition("/")[2], None)])

    _rmdir = _unlink

    def _write(self, change: Change, number: int) -> None:
        node = self.find(change.path)
        offset = len(self.live[node].data)
        self.live[node].data += change.data
        if change.data:
            self.pending.append(Pending("data", node, offset=offset, data=change.data, number=number))

    def _chmod(self, change: Change, number: int) -> None:
        node = self.find(change.path)
        self.live[node].mode = change.mode
        self.pending.append(Pending("mode", node, mode=change.mode, number=number))

    def _chown(self, change: Change, number: int) -> None:
        """Owners are not told apart in a folder."""

    def _fsync(self, change: Change, number: int) -> None:
        self._sync(self.find(change.path), ("names", "data", "mode"))

    def _fdatasync(self, change: Change, number: int) -> None:
        self._sync(self.find(change.path), ("data",))

    def _sync(self, node: int, kinds: Sequence[str]) -> None:
        done = [p for p in self.pending if p.node == node and p.kind in kinds]
        for one in done:
            _apply(self.disk[node], one, 1)
        self.pending = [p for p in self.pending if p not in done]

    # ----------------------------------------------------------------------------- power cuts
    def tree(self, chosen: Sequence[int]) -> Tree:
        """The files after a power cut; `chosen` says of each pending change what of it was written."""
        nodes = {}
        for pending, choice in zip(self.pending, chosen, strict=True):
            if choice:
                if pending.node not in nodes:
                    nodes[pending.node] = self.disk[pending.node].copy()
                _apply(nodes[pending.node], pending, choice)
        found: Tree = {}
        self._walk(0, "", nodes, found)
        return found

    def _walk(self, number: int, path: str, nodes: dict[int, Node], found: Tree) -> None:
        node = nodes.get(number) or self.disk[number]
        if path == "/run":
            return
        found[path] = (node.kind, node.mode, node.data)
        for name, inner in node.names.items():
            self._walk(inner, f"{path}/{name}", nodes, found)


def _name(node: Node, names: Sequence[tuple[str, int | None]]) -> None:
    for name, target in names:
        if target is None:
            node.names.pop(name, None)
        else:
            node.names[name] = target


def _apply(node: Node, pending: Pending, choice: int) -> None:
    """`choice` of a write: 1 all of it, 2 its first half, 3 zeros and its second half."""
    if pending.kind == "names":
        _name(node, pending.names)
    elif pending.kind == "mode":
        node.mode = pending.mode
    else:
        half = len(pending.data) // 2
        data = (pending.data, pending.data[:half], b"\0" * half + pending.data[half:])[choice - 1]
        before = node.data.ljust(pending.offset, b"\0")
        node.data = before[: pending.offset] + data + before[pending.offset + len(data) :]


def choices(pending: Sequence[Pending], bound: int, rng: random.Random) -> Iterator[tuple[int, ...]]:
    """All of them when there are at most `bound`; else none, all, all but one, torn ones, and random ones."""
    total = 1
    for one in pending:
        total *= one.choices
    if total <= bound:
        yield from itertools.product(*(range(one.choices) for one in pending))
        return
    whole = (1,) * len(pending)
    yield (0,) * len(pending)
    yield whole
    singles = [(n, c) for n, one in enumerate(pending) for c in range(one.choices) if c != 1]
    for number, choice in singles if len(singles) <= bound // 2 else rng.sample(singles, bound // 2):
        yield (*whole[:number], choice, *whole[number + 1 :])
    for _ in range(bound // 2):
        yield tuple(rng.randrange(one.choices) for one in pending)


def write(tree: Tree, folder: Path) -> None:
    """Makes the files of a tree."""
    for path, (kind, mode, data) in tree.items():
        place = folder / path[1:] if path else folder
        if kind == "folder":
            place.mkdir(parents=True, exist_ok=True)
        elif kind == "link":
            place.symlink_to(data.decode())
        else:
            place.write_bytes(data)
            place.chmod(mode)
