"""The command line: arguments → one call → exit code; the only place that prints."""

from __future__ import annotations

from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> None:
    """Runs one command and leaves the process with its exit code."""
    from .app import ogen

    ogen.main(args=args, prog_name="ogen")
