"""Ranges in names, patterns of hosts, sizes and times."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ogen.errors import UsageError
from ogen.inventory import hosts_matching, load, units
from ogen.inventory.patterns import PatternError, matching
from ogen.inventory.ranges import RangeError, expand, has_range

HOSTS = ("gpu01", "gpu02", "gpu03", "gpu10", "desk", "edge")
GROUPS: Mapping[str, tuple[str, ...]] = {"boxes": ("gpu01", "gpu02", "gpu03"), "front": ("edge",), "none": ()}


# ---------------------------------------------------------------------------------------- ranges
@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("gpu", ["gpu"]),
        ("gpu[1:3]", ["gpu1", "gpu2", "gpu3"]),
        ("gpu[08:11]", ["gpu08", "gpu09", "gpu10", "gpu11"]),
        ("gpu[8:11]", ["gpu8", "gpu9", "gpu10", "gpu11"]),
        ("r[1:2]-g[0:1]", ["r1-g0", "r1-g1", "r2-g0", "r2-g1"]),
        ("x[5:5].example", ["x5.example"]),
        ("x[a:b]", ["x[a:b]"]),
    ],
)
def test_ranges(text: str, names: list[str]) -> None:
    assert expand(text) == names


@pytest.mark.parametrize("text", ["x[3:1]", "x[1:100000]", "x[1:200]y[1:200]", "x[0:999999999]"])
def test_ranges_that_are_refused(text: str) -> None:
    with pytest.raises(RangeError):
        expand(text)


@given(st.integers(0, 500), st.integers(0, 200), st.integers(1, 5))
def test_a_range_has_its_length_and_order(first: int, more: int, width: int) -> None:
    text = f"gpu[{str(first).zfill(width)}:{first + more}]"
    names = expand(text)
    assert has_range(text)
    assert [int(name[3:]) for name in names] == list(range(first, first + more + 1))
    assert len(set(names)) == more + 1
    if str(first).zfill(width).startswith("0"):
        assert {len(name) for name in names if int(name[3:]) < 10**width} == {3 + width}


# -------------------------------------------------------------------------------------- patterns
@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("all", HOSTS),
        ("*", HOSTS),
        ("gpu02", ("gpu02",)),
        ("gpu*", ("gpu01", "gpu02", "gpu03", "gpu10")),
        ("gpu0?", ("gpu01", "gpu02", "gpu03")),
        ("gpu[01:02]", ("gpu01", "gpu02")),
        ("gpu0[12]", ("gpu01", "gpu02")),
        ("boxes", ("gpu01", "gpu02", "gpu03")),
        ("@boxes", ("gpu01", "gpu02", "gpu03")),
        ("edge,gpu01", ("gpu01", "edge")),
        ("gpu*,@front,!gpu03", ("gpu01", "gpu02", "gpu10", "edge")),
        ("!gpu*", ("desk", "edge")),
        ("all, !@boxes , !edge", ("gpu10", "desk")),
    ],
)
def test_patterns(pattern: str, names: tuple[str, ...]) -> None:
    assert matching(HOSTS, GROUPS, pattern) == names


@pytest.mark.parametrize(
    ("pattern", "words", "hint"),
    [
        ("gpu04", "no host or group 'gpu04'", "did you mean"),
        ("gpu*,gup01", "no host or group 'gup01'", "did you mean 'gpu01'?"),
        ("@boxs", "no group 'boxs'", "did you mean 'boxes'?"),
        ("box*", "no host matches 'box*'", "hosts: gpu01"),
        ("gpu[02:04]", "no host 'gpu04'", "did you mean"),
        ("all,!gpu99", "no host or group 'gpu99'", "did you mean"),
        ("gpu01,!gpu01", "leaves no host", None),
        ("@none", "leaves no host", None),
        ("gpu01,,edge", "has an empty part", None),
        ("", "has an empty part", None),
        ("gpu[3:1]", "runs backwards", None),
    ],
)
def test_a_term_without_a_match_is_an_error(pattern: str, words: str, hint: str | None) -> None:
    with pytest.raises(PatternError, match=r".") as caught:
        matching(HOSTS, GROUPS, pattern)
    assert words in str(caught.value)
    assert (hint or "") in (caught.value.hint or "")


@given(st.lists(st.sampled_from([*HOSTS, "@boxes", "@front", "gpu*"]), min_size=1, max_size=5))
def test_patterns_are_unions(terms: list[str]) -> None:
    """A pattern names what its terms name, in the inventory's order, whatever theirs is."""
    found = matching(HOSTS, GROUPS, ",".join(terms))
    each = {name for term in terms for name in matching(HOSTS, GROUPS, term)}
    assert found == tuple(host for host in HOSTS if host in each)


def test_hosts_of_an_inventory(tmp_path: Path) -> None:
    file = tmp_path / "inventory.yaml"
    file.write_text(
        'version: 1\ngroups: {boxes: {hosts: ["gpu[1:3]"]}}\n'
        'hosts: {"gpu[1:3]": {address: "192.0.2.[1:3]"}, edge: {address: 192.0.2.9}}\n'
    )
    inventory = load(file)
    assert [host.name for host in hosts_matching(inventory, "@boxes,!gpu2")] == ["gpu1", "gpu3"]
    with pytest.raises(UsageError) as caught:
        hosts_matching(inventory, "gpu4")
    assert caught.value.exit_code == 1
    assert caught.value.hint == "did you mean 'gpu3'?"


# ----------------------------------------------------------------------------------------- units
@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("24GiB", 24 * 2**30),
        ("8 GB", 8 * 10**9),
        ("800MiB", 800 * 2**20),
        ("1.5TiB", 3 * 2**39),
        ("64KiB", 65536),
        ("24", None),
        ("24G", None),
        ("GiB", None),
        ("-1GiB", None),
        ("24gib", None),
        ("1e3GiB", None),
        ("24  GiB", None),
        ("٣GiB", None),
        ("9" * 60 + "GiB", None),
    ],
)
def test_sizes(text: str, number: int | None) -> None:
    assert units.size(text) == number


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5),
        ("500ms", 0.5),
        ("10m", 600),
        ("1h30m", 5400),
        ("2d", 172800),
        ("1.5h", 5400),
        ("5", None),
        ("s", None),
        ("5 s", None),
        ("-5s", None),
        ("5sec", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert units.duration(text) == seconds


@given(st.integers(0, 10**6), st.sampled_from("KMGT"), st.booleans())
def test_sizes_are_whole_and_grow(number: int, letter: str, binary: bool) -> None:
    unit = f"{letter}{'i' if binary else ''}B"
    assert units.size(f"{number + 1}{unit}") > units.size(f"{number}{unit}")  # type: ignore[operator]
    assert isinstance(units.size(f"{number}{unit}"), int)


@pytest.mark.parametrize(
    ("text", "number"), [("25%", 25), ("100%", 100), ("0%", 0), ("101%", None), ("%", None)]
)
def test_percentages(text: str, number: int | None) -> None:
    assert units.percent(text) == number
