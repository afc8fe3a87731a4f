"""Several files become one inventory; the same thing defined twice names both places."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import Where
from ..source import Node
from .faults import Faults

_NAMED = ("models", "groups", "hosts", "balancers", "queues")  # their entries are things of their own


def combined(nodes: Sequence[Node], faults: Faults) -> Node | None:
    """One map of all files' maps; None where no file holds one.

    Maps of names hold each name once; other maps are merged deeply.
    """
    value: dict[str, Node] = {}
    keys: dict[str, Where] = {}
    for node in nodes:
        if node.value is None:
            faults.add("the file is empty", node.where, "an inventory begins with version: 1")
            continue
        if not node.is_map:
            faults.add("an inventory is a map: version, models, hosts, …", node.where)
            continue
        for key, child in node.items():
            _add(value, keys, key, child, node.keys.get(key, child.where), faults)
    return Node(value, nodes[0].where, keys=keys) if value or not faults.errors else None


def _add(
    value: dict[str, Node], keys: dict[str, Where], key: str, child: Node, where: Where, faults: Faults
) -> None:
    before = value.get(key)
    if before is None:
        value[key], keys[key] = child, where
    elif key == "version":
        if before.value != child.value:
            _twice(key, where, keys[key], faults)
    elif before.is_map and child.is_map:
        value[key] = _union(before, child, key, faults)
    else:
        _twice(key, where, keys[key], faults)


def _union(first: Node, second: Node, path: str, faults: Faults) -> Node:
    value, keys = dict(first.value), dict(first.keys)
    for key, child in second.items():
        where = second.keys.get(key, child.where)
        before = value.get(key)
        if before is None:
            value[key], keys[key] = child, where
        elif path.split(".")[0] not in _NAMED and before.is_map and child.is_map:
            value[key] = _union(before, child, f"{path}.{key}", faults)
        else:
            _twice(f"{path}.{key}", where, keys.get(key, before.where), faults)
    return Node(value, first.where, first.tag, keys=keys)


def _twice(path: str, where: Where, first: Where, faults: Faults) -> None:
    faults.add(f"{path!r} is defined twice", where, f"the first one is at {first}; keep one")
