"""The command line: arguments → one call → exit code; the only place that prints."""

from __future__ import annotations

import gc
from collections.abc import Sequence

# What a command builds lives until it ends: collecting garbage early costs a tenth of a short one's time.
_FIRST_COLLECTION = 100_000  # new objects


def main(args: Sequence[str] | None = None) -> None:
    """Runs one command and leaves the process with its exit code."""
    gc.set_threshold(_FIRST_COLLECTION)
    from .app import ogen

    ogen.main(args=args, prog_name="ogen")
