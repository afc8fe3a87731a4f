"""`serial` of a play: how many hosts are worked on at once, as numbers or percentages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import PlaybookError
from . import expressions
from .model import Play

SIZES, SIZES_HINT = "`serial` wants numbers from 1 on, or percentages", 'as in [1, "25%"]'
ALL: tuple[int | str, ...] = ("100%",)
_PERCENT = re.compile(r"(100|[1-9][0-9]?)%")


def is_size(value: object) -> bool:
    if isinstance(value, str):
        return bool(_PERCENT.fullmatch(value))
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def sizes(play: Play, names: Mapping[str, Any]) -> tuple[int | str, ...] | None:
    """The play's batches, with the names that are the same for all hosts; None where it says nothing."""
    if play.serial is None:
        return None
    found = expressions.resolve(play.serial, names)
    listed = tuple(found) if isinstance(found, (list, tuple)) else (found,)
    if not all(is_size(size) for size in listed):
        raise PlaybookError(f"{SIZES}, not {found!r}", where=play.serial.where, hint=SIZES_HINT)
    return listed or ALL
