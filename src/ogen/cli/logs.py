"""`ogen logs`: the journals of instances and balancers, merged by time."""

from __future__ import annotations

import datetime
from pathlib import Path

import click

from . import console, options
from .exits import Exit, worst
from .spans import Span


@click.command()
@options.inventory
@click.argument("where", metavar="[HOST[/NAME]]", required=False)
@click.option("--since", metavar="SPAN", type=Span(), help="Only the last 10m, 2h, 7d.")
@click.option(
    "-n",
    "--lines",
    metavar="N",
    type=click.IntRange(1, 100_000),
    default=200,
    show_default=True,
    help="How many of the last lines.",
)
@options.shape("text", "json")
@options.parallel
def command(
    path: Path, where: str | None, since: float | None, lines: int, shape: str, parallel: int
) -> Exit:
    """Show the journals of instances and balancers, merged by time.

    HOST is a pattern as for --limit; NAME an instance or a balancer: `ogen logs fleet.yaml gpu1/gpu0`.
    Times are UTC, by each host's own clock.
    """
    from ..observe.looking import logs
    from . import failure, fleet

    ready = fleet.fleet(path, parallel, what="logs")
    pattern, _, name = (where or "").partition("/")
    found, errors = logs(ready.hosts(pattern or None), name or None, ready.options, lines=lines, since=since)
    if shape == "json":
        rows = [{"time": _time(stamp), "from": who, "text": text} for stamp, who, text in found]
        console.document({"lines": rows, "errors": [failure.as_json(e) for e in errors]})
    else:
        wide = max((len(who) for _, who, _ in found), default=0)
        for stamp, who, text in found:
            console.out(f"{_time(stamp)}  {who.ljust(wide)}  {text}")
        for error in errors:
            console.tell(failure.as_text(error))
        if not found and not errors:
            console.say("no line was logged" + (" in that time" if since else ""))
    return worst(error.exit_code for error in errors)


def _time(stamp: float) -> str:
    """UTC with milliseconds."""
    try:
        found = datetime.datetime.fromtimestamp(stamp, datetime.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return str(stamp)
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")
