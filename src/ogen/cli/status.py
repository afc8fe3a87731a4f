"""`ogen status`: one screen for the fleet; nothing is changed anywhere."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import HostError, UsageError
from . import background, console, options
from .exits import Exit, worst

if TYPE_CHECKING:
    from ..observe.fleet import HostRow


MANY = 12  # hosts: of more, those that are well take a line each


@click.command()
@options.inventory
@options.limit
@click.option(
    "--watch",
    metavar="[SECONDS]",
    type=click.FloatRange(0.5),
    is_flag=False,
    flag_value=5.0,
    help="Look again and again, each 5 seconds or as given; Ctrl-C ends it.",
)
@click.option(
    "--fold/--full",
    default=None,
    help=f"Hosts that are well in a line each, after the others; so it is above {MANY} hosts.",
)
@options.shape("text", "json")
@options.parallel
def command(
    path: Path, limit: str | None, watch: float | None, fold: bool | None, shape: str, parallel: int
) -> Exit:
    """Show what runs where: releases, instances, models, VRAM, balancers.

    One connection to each host, which --watch keeps; nothing is locked or changed there. Exit code 4 if
    a host can't be reached, 3 if one can't say; else 0, whatever it shows: `ogen doctor` judges.
    """
    from ..observe import fleet as rows
    from ..observe.looking import Looks, look
    from . import fleet

    if watch and shape == "json":
        raise UsageError("--watch is for people, json is one document", hint="leave one of them out")
    ready = fleet.fleet(path, parallel, what="status")
    planned, targets = fleet.wish(ready, limit)
    title = planned.inventory.name

    if watch:
        with Looks(planned, targets, ready.options) as looks:
            return _watch(lambda: rows.rows(planned, looks.look()), title, watch, fold)
    seen = rows.rows(planned, look(planned, targets, ready.options))
    if shape == "json":
        _json(seen)
    else:
        _text(seen, title, fold)
    return worst(row.error.exit_code for row in seen if row.error)


def _json(found: tuple[HostRow, ...]) -> None:
    from . import failure

    errors = [failure.as_json(row.error) for row in found if row.error]
    console.document({"hosts": [_row(row) for row in found if not row.error], "errors": errors})


def _row(row: HostRow) -> dict[str, Any]:
    shown = asdict(row)
    del shown["error"]
    return shown


def _text(found: tuple[HostRow, ...], title: str, fold: bool | None) -> None:
    from . import failure

    console.raw(_page(found, title, fold))
    sys.stdout.flush()
    for row in found:
        if isinstance(row.error, HostError):
            console.tell(failure.as_text(row.error))


def _page(found: tuple[HostRow, ...], title: str, fold: bool | None) -> str:
    from ..observe.view_status import text

    return text(
        found,
        title=title,
        width=shutil.get_terminal_size((100, 24)).columns,
        colour=console.colourful(),
        fold=len(found) > MANY if fold is None else fold,
        wrap=sys.stdout.isatty(),
    )


# ------------------------------------------------------------------------------------ again and again
def _watch(found: Callable[[], tuple[HostRow, ...]], title: str, every: float, fold: bool | None) -> Exit:
    """Ends with Ctrl-C alone, and then at once: looks that are under way change nothing."""
    steers = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    try:
        while True:
            seen = background.result(found)
            if steers:
                console.raw(_screen(_page(seen, f"{title} at {time.strftime('%H:%M:%S')}", fold)))
                sys.stdout.flush()
            else:
                _text(seen, title, fold)
            time.sleep(every)
    except KeyboardInterrupt:
        return background.leave()


def _screen(page: str) -> str:
    """Drawn over what was there, without a flicker; as much as the terminal has lines."""
    lines, room = page.rstrip("\n").split("\n"), max(4, shutil.get_terminal_size((100, 24)).lines - 1)
    if len(lines) > room:
        left = len(lines) - room + 1
        lines = [*lines[: room - 1], f"… {left} more lines: a larger terminal, --fold or --limit shows them"]
    return "\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J"
