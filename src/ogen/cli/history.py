"""`ogen history`: what was applied when, by whom, to which hosts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import console, options
from .exits import Exit

if TYPE_CHECKING:
    from ..errors import HostError
    from .fleet import Fleet
    from .runs import Run


@click.command()
@options.inventory
@options.limit
@click.option(
    "-n", "--last", metavar="N", type=click.IntRange(1), default=20, show_default=True, help="How many."
)
@options.shape("text", "json")
@options.parallel
def command(path: Path, limit: str | None, last: int, shape: str, parallel: int) -> Exit:
    """List what was applied, by whom, to which hosts."""
    from . import failure, fleet
    from .exits import worst

    ready = fleet.fleet(path, parallel)
    found, errors = runs_of(ready, limit)
    shown = found[-last:]
    if shape == "json":
        console.document(
            {"runs": [_row(run) for run in shown], "errors": [failure.as_json(e) for e in errors]}
        )
    else:
        for error in errors:
            console.tell(failure.as_text(error))
        for run in shown:
            console.out(_line(run))
        if not found and not errors:
            console.say("nothing was applied yet")
    return worst(error.exit_code for error in errors)


def runs_of(ready: Fleet, limit: str | None) -> tuple[tuple[Run, ...], list[HostError]]:
    """The runs, the latest last; and the errors of hosts that could not be asked."""
    from .. import errors as kinds
    from .. import push
    from . import runs

    answers = push.history(ready.hosts(limit), ready.options)
    errors = [answer for answer in answers.values() if isinstance(answer, kinds.HostError)]
    audits = {name: audit for name, audit in answers.items() if not isinstance(audit, kinds.HostError)}
    return runs.gathered(audits), errors


def _line(run: Run) -> str:
    from ..release.change import fold

    status = ", ".join(status.replace("_", " ") for status in run.statuses)
    revision = f"  {run.git}" if run.git else ""
    hosts = fold(entry.host for entry in run.entries)
    return f"{run.id}  {run.time}  {run.what:8}  {run.who}{revision}  {status}: {hosts}"


def _row(run: Run) -> dict[str, object]:
    return {
        "run": run.id,
        "what": run.what,
        "time": run.time,
        "who": run.who,
        "git": run.git,
        "hosts": [
            {"host": e.host, "status": e.status, "before": e.before, "after": e.after, "message": e.message}
            for e in run.entries
        ],
    }
