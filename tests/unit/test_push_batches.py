"""Batches and what may fail: numbers and parts of hosts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ogen.push.batches import cut, share

DEFAULT = (1, "25%", "100%")
SIZE = st.one_of(st.integers(1, 50), st.integers(1, 100).map(lambda n: f"{n}%"))


@pytest.mark.parametrize(
    ("hosts", "sizes"),
    [
        (0, []),
        (1, [1]),
        (2, [1, 1]),
        (3, [1, 1, 1]),
        (7, [1, 1, 5]),
        (12, [1, 3, 8]),
        (100, [1, 25, 74]),
    ],
)
def test_the_table_of_the_docstring(hosts: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in cut(range(hosts), DEFAULT)] == sizes


def test_the_last_size_repeats() -> None:
    assert [len(batch) for batch in cut(range(8), (1, 3))] == [1, 3, 3, 1]
    assert [len(batch) for batch in cut(range(9), ("25%",))] == [2, 2, 2, 2, 1]


@given(st.integers(0, 300), st.lists(SIZE, min_size=1, max_size=5))
def test_each_host_once_in_order_in_batches_of_the_sizes_asked_for(
    hosts: int, sizes: list[int | str]
) -> None:
    batches = cut(range(hosts), sizes)
    assert [host for batch in batches for host in batch] == list(range(hosts))
    assert all(batches), "a batch is never empty"
    for number, batch in enumerate(batches):
        size = sizes[min(number, len(sizes) - 1)]
        wanted = max(1, size if isinstance(size, int) else hosts * int(size[:-1]) // 100)
        last = number == len(batches) - 1
        assert len(batch) <= wanted if last else len(batch) == wanted


@pytest.mark.parametrize(
    ("part", "hosts", "allowed"),
    [(0, 9, 0), (3, 9, 3), ("10%", 5, 0), ("10%", 19, 1), ("10%", 100, 10), ("0%", 50, 0), ("100%", 7, 7)],
)
def test_what_may_fail_is_rounded_down(part: int | str, hosts: int, allowed: int) -> None:
    assert share(part, hosts) == allowed


def test_what_is_no_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="'few'"):
        cut([1, 2], ("few",))
