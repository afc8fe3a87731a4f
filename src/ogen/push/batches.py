"""How many hosts change at once, and how many may fail.

A batch is a number of hosts or a part of them. A part is of the hosts that change in this stage, rounded
down, and at least one host: 25% of 12 is 3, of 7 is 1, of 3 is 1. The last size repeats until every host
has had its turn. With [1, 25%, 100%]:

    hosts    1     2      3      7        12          100
    batches  1     1 1    1 1 1  1 1 5    1 3 8       1 25 74

What may fail is a number of hosts or a part of them, rounded down: 10% of 5 is 0, of 19 is 1, of 100 is
10. A part is of the hosts of the whole run that have something to do, or can't say whether they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from ..inventory.units import percent

T = TypeVar("T")
Share = int | str  # 3, or "25%"


def share(size: Share, total: int) -> int:
    """That part of `total`, rounded down."""
    if isinstance(size, int):
        return size
    part = percent(size)
    if part is None:
        raise ValueError(f"neither a number of hosts nor a part of them: {size!r}")
    return total * part // 100


def cut(items: Sequence[T], sizes: Sequence[Share]) -> list[list[T]]:
    """`items` in batches: each once, in order."""
    found: list[list[T]] = []
    at = 0
    while at < len(items):
        size = sizes[min(len(found), len(sizes) - 1)]
        count = max(1, share(size, len(items)))
        found.append(list(items[at : at + count]))
        at += count
    return found
