"""Defaults, groups and hosts become one map per host: maps merge deeply, lists replace.

The order is defaults, groups, ranges of hosts, the host itself; later wins. Between groups, and
between ranges, there is no order: where two of them disagree about one value, that is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import Where
from ..source import Node
from .faults import Faults
from .patterns import listed
from .ranges import RangeError, expand, has_range

DEFAULTS = ("ssh", "ollama", "monitoring", "autofit", "env", "transport", "python")
RANGED = ("address", "data_address", "root")  # whose ranges advance with the host's


@dataclass(slots=True)
class HostEntry:
    """What the inventory says of one host, before defaults and groups."""

    name: str
    where: Where
    ranges: list[Node] = field(default_factory=list)
    own: Node | None = None
    groups: list[str] = field(default_factory=list)


def entries(hosts: Node, faults: Faults) -> dict[str, HostEntry]:
    """Every host that the keys of `hosts:` name; ranges spelled out."""
    found: dict[str, HostEntry] = {}
    for key, record in hosts.items():
        where = hosts.keys.get(key, record.where)
        try:
            names = expand(key)
        except RangeError as error:
            faults.add(f"hosts: {error}", where)
            continue
        for number, name in enumerate(names):
            entry = found.setdefault(name, HostEntry(name, where))
            if has_range(key):
                entry.ranges.append(_member(record, number, len(names), faults))
            else:
                entry.own, entry.where = _member(record, 0, 1, faults), where
    return found


def _member(record: Node, number: int, count: int, faults: Faults) -> Node:
    """The record of a range's host: ranges in its values advance together with the names."""
    changed: dict[str, Node | None] = {}
    for key in RANGED:
        node = record.get(key)
        if node is None or not isinstance(node.value, str) or not has_range(node.value):
            continue
        try:
            values = expand(node.value)
        except RangeError as error:
            faults.add(f"hosts: {key}: {error}", node.where)
            changed[key] = None
            continue
        if len(values) != count:
            hint = f"the key of the host stands for {count} host{'s' if count > 1 else ''}"
            faults.add(f"hosts: {key} {node.value!r} stands for {len(values)} values", node.where, hint)
            changed[key] = None
            continue
        changed[key] = Node(values[number], node.where, None, values[number], node.quoted)
    if not changed:
        return record
    value = {key: node for key, node in {**record.value, **changed}.items() if node is not None}
    return Node(value, record.where, keys=record.keys)


def members(groups: Node, hosts: Mapping[str, HostEntry], faults: Faults) -> dict[str, tuple[str, ...]]:
    """The hosts of each group, in the hosts' order; groups may hold '@group'."""
    found = _Members(groups, list(hosts), faults)
    for name, _ in groups.items():
        for host in found.of(name, ()):
            hosts[host].groups.append(name)
    return found.done


class _Members:
    """Resolves groups that hold groups; one that holds itself is told."""

    def __init__(self, groups: Node, hosts: Sequence[str], faults: Faults) -> None:
        self.groups = groups
        self.hosts = hosts
        self.faults = faults
        self.done: dict[str, tuple[str, ...]] = {}
        self.looped = False

    def of(self, name: str, within: tuple[str, ...]) -> tuple[str, ...]:
        items = self.groups.value[name].get("hosts")
        if name not in self.done:
            good = [item for item in (items.value if items else ()) if self._resolved(item, (*within, name))]
            known = {**dict.fromkeys(self.groups.value, ()), **self.done}
            quiet = Faults() if self.looped else self.faults  # a loop leaves groups empty: told already
            self.done[name] = listed(self.hosts, known, good, "groups", quiet)
        return self.done[name]

    def _resolved(self, item: Node, within: tuple[str, ...]) -> bool:
        """Resolves the groups in an item; False, after telling it, where one holds itself."""
        for term in item.value.split(","):
            group = term.strip().removeprefix("!").removeprefix("@")
            if group in within:
                self.looped = True
                self.faults.add(f"groups: {group!r} holds itself", item.where)
                return False
            if group in self.groups.value and group not in self.hosts:
                self.of(group, within)
        return True


class Merger:
    """Merges each host's layers; hosts of the same groups share the work."""

    def __init__(self, top: Node, groups: Node, faults: Faults) -> None:
        self.defaults = Node({k: n for k, n in top.items() if k in DEFAULTS}, top.where, keys=top.keys)
        self.groups = groups
        self.faults = faults
        self._bases: dict[tuple[str, ...], Node] = {}

    def merged(self, entry: HostEntry) -> Node:
        node = self._base(tuple(entry.groups))
        if entry.ranges:
            node = deep(node, self._agreed([("the range", r) for r in entry.ranges], entry.name))
        return deep(node, entry.own) if entry.own is not None else node

    def _base(self, names: tuple[str, ...]) -> Node:
        if names not in self._bases:
            layers = [(f"group {name!r}", _settings(self.groups.value[name])) for name in names]
            agreed = self._agreed(layers, f"the hosts of {' and '.join(map(repr, names))}")
            self._bases[names] = deep(self.defaults, agreed)
        return self._bases[names]

    def _agreed(self, layers: Sequence[tuple[str, Node]], who: str) -> Node:
        """All layers in one, after telling where two of them disagree."""
        total = Node({}, layers[0][1].where) if layers else Node({}, self.defaults.where)
        for number, (name, layer) in enumerate(layers):
            for other, before in layers[:number]:
                for path, first, second in disagreements(before, layer):
                    self.faults.add(
                        f"{other} and {name} disagree about {path!r} of {who}",
                        second.where,
                        f"the other value is at {first.where}; set it for the host, or in one place only",
                        kind=f"disagree {first.where}",
                    )
            total = union(total, layer)
        return total


def _settings(group: Node) -> Node:
    return Node({k: n for k, n in group.items() if k != "hosts"}, group.where, keys=group.keys)


def deep(base: Node, over: Node) -> Node:
    """`over` merged over `base`: maps deeply, a map over a list changes its items by number, else `over`."""
    if not over.is_map or not (base.is_map or base.is_list):
        return over
    if base.is_list:
        base = numbered(base)
    value = dict(base.value)
    for key, node in over.items():
        value[key] = deep(value[key], node) if key in value else node
    return Node(value, over.where, keys={**base.keys, **over.keys})


def union(first: Node, second: Node) -> Node:
    """Two maps that do not disagree, in one: their order does not matter, nor which has the list."""
    if first.is_map and second.is_list:
        first, second = second, first
    if first.is_list and second.is_map:
        first = numbered(first)
    if not (first.is_map and second.is_map):
        return second
    value = dict(first.value)
    for key, node in second.items():
        value[key] = union(value[key], node) if key in value else node
    return Node(value, second.where, keys={**first.keys, **second.keys})


def numbered(node: Node) -> Node:
    """A list as a map by number."""
    value = {str(number): item for number, item in enumerate(node.value)}
    return Node(value, node.where, keys={key: item.where for key, item in value.items()})


def disagreements(first: Node, second: Node, path: str = "") -> Iterator[tuple[str, Node, Node]]:
    """The leaves about which two maps disagree."""
    if first.is_map and second.is_map:
        for key, node in second.items():
            other = first.get(key)
            if other is not None:
                yield from disagreements(other, node, f"{path}.{key}" if path else key)
    elif first.is_list and second.is_map:
        yield from disagreements(numbered(first), second, path)
    elif first.is_map and second.is_list:
        yield from disagreements(first, numbered(second), path)
    elif bare(first) != bare(second):
        yield path, first, second


def bare(node: Node) -> Any:
    """Values without places; lists as tuples."""
    if isinstance(node.value, dict):
        return {key: bare(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return tuple(bare(child) for child in node.value)
    return node.value
