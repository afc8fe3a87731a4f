"""The laws of merging: maps deeply, lists replace, later wins, groups have no order."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ogen.inventory.merging import bare, deep, disagreements, union
from ogen.source import Node, parse

KEYS = st.sampled_from(["a", "b", "c", "d"])
LEAVES = st.integers(0, 3) | st.lists(st.integers(0, 2), max_size=2)
MAPS = st.recursive(
    st.dictionaries(KEYS, LEAVES, max_size=4),
    lambda inner: st.dictionaries(KEYS, LEAVES | inner, max_size=4),
    max_leaves=10,
)


def node(value: object) -> Node:
    import json

    return parse(json.dumps(value), "f")


def merged(*values: Any) -> Any:
    total = node(values[0])
    for value in values[1:]:
        total = deep(total, node(value))
    return bare(total)


def model(base: Any, over: Any) -> Any:
    """The law itself, on plain values."""
    if isinstance(base, dict) and isinstance(over, dict):
        both = {key: model(base[key], over[key]) for key in base if key in over}
        return {**base, **over, **both}
    if isinstance(base, list) and isinstance(over, dict):
        return model({str(number): item for number, item in enumerate(base)}, over)
    return over


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    return tuple(value) if isinstance(value, list) else value


@given(MAPS, MAPS)
def test_merging_follows_the_law(base: Any, over: Any) -> None:
    assert merged(base, over) == plain(model(base, over))


@given(MAPS)
def test_merging_with_nothing_or_itself_changes_nothing(value: Any) -> None:
    assert merged(value, {}) == merged({}, value) == merged(value, value) == plain(value)


@given(MAPS, MAPS, MAPS)
def test_the_last_one_wins(first: Any, second: Any, third: Any) -> None:
    """Merging the last layer again changes nothing: what it says holds."""
    assert merged(first, second, third, third) == merged(first, second, third)


@given(MAPS, MAPS)
def test_groups_that_agree_have_no_order(first: Any, second: Any) -> None:
    """Where two maps do not disagree, it does not matter which comes first."""
    if not list(disagreements(node(first), node(second))):
        both = bare(union(node(first), node(second)))
        assert both == bare(union(node(second), node(first)))
        assert all(both[key] == plain(value) for key, value in first.items() if key not in second)


@given(MAPS, MAPS)
def test_disagreement_is_mutual(first: Any, second: Any) -> None:
    forth = {path for path, _, _ in disagreements(node(first), node(second))}
    back = {path for path, _, _ in disagreements(node(second), node(first))}
    assert forth == back


@given(MAPS)
def test_nothing_disagrees_with_itself(value: Any) -> None:
    assert not list(disagreements(node(value), node(value)))


def test_places_survive() -> None:
    base, over = parse("a: {x: 1, y: 2}", "base"), parse("\na:\n  y: 3", "over")
    found = deep(base, over).value["a"]
    assert [str(found.keys[key]) for key in ("x", "y")] == ["base:1:5", "over:3:3"]
    assert [str(found.value[key].where) for key in ("x", "y")] == ["base:1:8", "over:3:6"]


def test_a_map_over_a_list_changes_items_by_number() -> None:
    assert merged({"g": [1, 2]}, {"g": {"1": 9, "5": 7}}) == {"g": {"0": 1, "1": 9, "5": 7}}
