"""Where a setting stands in the inventory's text: the line to change, or the entry to add it to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ..errors import OgenError, Text, Where
from ..inventory.model import Host, Inventory
from ..inventory.ranges import RangeError, expand
from ..source import Node, parse

#: where, and the line to write there
Change = tuple[Where | None, str]


Spot = tuple[str, int, int]


class Places:
    """The files that the inventory's own places name, read again from their text when first asked for."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._roots: list[Node] | None = None
        self._values: dict[Spot, Node] = {}  # by where a value begins
        self._keyed: dict[Spot, Node] = {}  # by where its key stands

    def set(self, where: Where | None, value: object, *path: str) -> Change:
        """What to write, and where, so that `path` of the entry at `where` is `value`."""
        found = self.under(where, *path)
        depth = next((n for n in range(len(path)) if self.under(where, *path[: n + 1]) == found), 0)
        return found, _nested(path if found == where else path[depth:], value)

    def set_host(self, host: Host, value: object, *path: str) -> Change:
        """As `set`, for a setting that a host, a group or the defaults may hold."""
        found = next((w for node in self._layers(host) if (w := _deepest(node, path, whole=True))), None)
        return (found, _nested(path[-1:], value)) if found else self.set(host.where, value, *path)

    def under(self, where: Where | None, *path: str) -> Where | None:
        """The deepest key of `path` that is written in the entry at `where`; else `where`."""
        self._read()
        if where is None:
            return None
        # a map in block style begins where its first key stands: the entry is the one that has the setting
        nodes = (self._keyed.get(_spot(where)), self._values.get(_spot(where)))
        return next((found for node in nodes if (found := _deepest(node, path))), where)

    def of_host(self, host: Host, *path: str) -> Where | None:
        """A host's setting: its own, its groups', or the default, where it is written; else the host."""
        for node in self._layers(host):
            found = _deepest(node, path, whole=True)
            if found:
                return found
        return self.under(host.where, *path)

    def _layers(self, host: Host) -> Iterator[Node]:
        roots = self._read()
        for root in roots:
            hosts = root.get("hosts")
            yield from (node for key, node in (hosts.items() if hosts else ()) if _names(key, host.name))
        for root in roots:
            groups = root.get("groups")
            yield from (node for key, node in (groups.items() if groups else ()) if key in host.groups)
        yield from roots

    def _read(self) -> list[Node]:
        if self._roots is None:
            self._roots = []
            for text in _texts(self._inventory):
                try:
                    root = parse("\n".join(text.lines), text.name)
                except OgenError:
                    continue  # it was read before, so this can't be; without a place a finding has its host's
                self._roots.append(root)
                self._index(root)
        return self._roots

    def _index(self, root: Node) -> None:
        todo = [root]
        while todo:
            node = todo.pop()
            self._values.setdefault(_spot(node.where), node)
            children = node.value if node.is_list else [child for _, child in node.items()]
            todo += children
            self._keyed.update({_spot(node.keys[key]): child for key, child in node.items()})


def _deepest(node: Node | None, path: Iterable[str], *, whole: bool = False) -> Where | None:
    """Where the last key of `path` that exists stands; with `whole` only that of the last one of all."""
    found: Where | None = None
    for step in path:
        if node is None or step not in node.keys:
            return None if whole else found
        found, node = node.keys[step], node.get(step)
    return found


def _nested(path: Sequence[str], value: object) -> str:
    """gate, queue and 5 as one line: "gate: {queue: 5}"."""
    text = f"{path[-1]}: {value}"
    for key in reversed(path[:-1]):
        text = f"{key}: {{{text}}}"
    return text


def _spot(where: Where) -> Spot:
    return where.file, where.line, where.column


def _names(key: str, host: str) -> bool:
    try:
        return host in expand(key)
    except RangeError:
        return False


def _texts(inventory: Inventory) -> list[Text]:
    """The texts of all places that the inventory kept, each once."""
    places = [host.where for host in inventory.hosts]
    places += [model.where for model in inventory.models]
    places += [balancer.where for balancer in inventory.balancers]
    places += [gpu.where for host in inventory.hosts for gpu in host.gpus]
    return list({where.file: where.text for where in places if where}.values())
