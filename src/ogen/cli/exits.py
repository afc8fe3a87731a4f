"""The exit codes of every command, in one place."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class Exit(IntEnum):
    DONE = 0  # or nothing to do
    WRONG = 1  # the input or the usage
    CHANGES = 2  # pending (diff, --dry-run), or findings
    FAILED = 3  # some hosts failed
    UNREACHABLE = 4  # some hosts could not be reached
    LOCKED = 5  # another rollout holds a host
    ROLLED_BACK = 6  # a host returned to its old release
    INTERRUPTED = 130  # Ctrl-C
    BROKEN_PIPE = 141  # the reader of stdout went away


_WORST_FIRST = (
    Exit.INTERRUPTED,
    Exit.WRONG,
    Exit.ROLLED_BACK,
    Exit.FAILED,
    Exit.UNREACHABLE,
    Exit.LOCKED,
    Exit.CHANGES,
)


def worst(codes: Iterable[int]) -> Exit:
    """The one code that a run over several hosts ends with: 6 before 3 before 4 before 5."""
    seen = set(codes)
    return next((code for code in _WORST_FIRST if code in seen), Exit.DONE)
