"""Ranges in names: "gpu[01:04]" is gpu01, gpu02, gpu03, gpu04."""

from __future__ import annotations

import re
from itertools import product

MOST = 10_000

RANGE = re.compile(r"\[([0-9]{1,9}):([0-9]{1,9})\]")


class RangeError(ValueError):
    """The range runs backwards or is absurdly long."""


def has_range(text: str) -> bool:
    return "[" in text and RANGE.search(text) is not None


def expand(text: str) -> list[str]:
    """All names of `text`, in order; several ranges multiply, the last one turning fastest.

    A first number with a leading zero sets the width: [08:10] is 08, 09, 10. Raises RangeError.
    """
    pieces = RANGE.split(text)
    fixed, numbers = pieces[::3], list(zip(pieces[1::3], pieces[2::3], strict=True))
    total = 1
    for first, last in numbers:
        if int(last) < int(first):
            raise RangeError(f"the range [{first}:{last}] runs backwards")
        total *= int(last) - int(first) + 1
        if total > MOST:
            raise RangeError(f"{text!r} stands for more than {MOST} names")
    choices = [_numbers(first, last) for first, last in numbers]
    return [_joined(fixed, chosen) for chosen in product(*choices)]


def _numbers(first: str, last: str) -> list[str]:
    width = len(first) if first.startswith("0") else 0
    return [str(number).zfill(width) for number in range(int(first), int(last) + 1)]


def _joined(fixed: list[str], chosen: tuple[str, ...]) -> str:
    return fixed[0] + "".join(c + f for c, f in zip(chosen, fixed[1:], strict=True))
