"""`ogen status`: one screen for the fleet; nothing is changed anywhere."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import HostError, UsageError
from . import console, options
from .exits import Exit, worst

if TYPE_CHECKING:
    from ..observe.fleet import HostRow


@click.command()
@options.inventory
@options.limit
@click.option(
    "--watch", metavar="SECONDS", type=click.FloatRange(0.5), help="Look again and again; Ctrl-C ends it."
)
@options.shape("text", "json")
@options.parallel
def command(path: Path, limit: str | None, watch: float | None, shape: str, parallel: int) -> Exit:
    """Show what runs where: releases, instances, models, VRAM, balancers.

    One connection to each host; nothing is locked or changed there. Exit code 4 if a host can't be
    reached, 3 if one can't say; else 0, whatever it shows: `ogen doctor` judges.
    """
    from ..observe import fleet as rows
    from ..observe.looking import look
    from . import fleet

    if watch and shape == "json":
        raise UsageError("--watch is for people, json is one document", hint="leave one of them out")
    ready = fleet.fleet(path, parallel, what="status")
    planned, targets = fleet.wish(ready, limit)
    while True:
        found = rows.rows(planned, look(planned, targets, ready.options))
        code = worst(row.error.exit_code for row in found if row.error)
        if shape == "json":
            _json(found)
        else:
            _text(found, planned.inventory.name, clear=bool(watch))
        if not watch:
            return code
        time.sleep(watch)


def _json(found: tuple[HostRow, ...]) -> None:
    from . import failure

    errors = [failure.as_json(row.error) for row in found if row.error]
    console.document({"hosts": [_row(row) for row in found if not row.error], "errors": errors})


def _row(row: HostRow) -> dict[str, Any]:
    shown = asdict(row)
    del shown["error"]
    return shown


def _text(found: tuple[HostRow, ...], title: str, *, clear: bool) -> None:
    import shutil

    from ..observe.view_status import text
    from . import failure

    colour = console.colourful()
    width = shutil.get_terminal_size((100, 24)).columns
    page = text(found, title=title, width=width, colour=colour)
    if clear and sys.stdout.isatty():
        page = "\x1b[H\x1b[2J" + page
    console.raw(page)
    sys.stdout.flush()
    for row in found:
        if isinstance(row.error, HostError):
            console.tell(failure.as_text(row.error))
