"""`ogen report`: one page of what cards and balancers did."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import HostError
from . import console, options
from . import output as files
from .exits import Exit, worst

if TYPE_CHECKING:
    from ..observe.report_span import Span, Zone

NARROW = 0.1  # of the span: figures that begin later are hard to see


@click.command()
@options.inventory
@options.limit
@options.since("How far back it goes: 10m, 2h, 7d.")
@click.option(
    "-o",
    "--output",
    "output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default="report.html",
    show_default=True,
    help="The page; one that is there is replaced.",
)
@click.option(
    "--from",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Read copies in DIR/HOST/ of the files below /var/log/ogen; no host is contacted.",
)
@options.parallel
def command(
    path: Path, limit: str | None, since: float, output: Path, folder: Path | None, parallel: int
) -> Exit:
    """Write one page of what cards and balancers did: VRAM, utilisation, latencies.

    Reads what the monitors and balancers of the hosts wrote, rotated files too; the hosts count, and send
    sums. The page needs no network. Exit code 4 if a host can't be reached, 3 if one can't say: the page
    is written nevertheless, and names them.
    """
    from ..observe import report_read, report_series, report_span, view_report
    from ..plan import plan
    from . import failure, fleet

    library = view_report.plotly()
    files.check(output)
    strangers: tuple[str, ...] = ()
    if folder is not None:
        from ..inventory import load
        from . import project

        inventory = load(path)
        names = project.limited(inventory, limit)
        hosts = tuple(host for host in inventory.hosts if host.name in names)
        planned = plan(inventory)
        span, answers, strangers = report_read.from_folder(folder, hosts, since, inventory)
    else:
        ready = fleet.fleet(path, parallel, what="report")
        planned = fleet.planned(ready)
        hosts = ready.hosts(limit)
        span = report_span.span(time.time(), since, hosts)
        answers = report_read.over_ssh(hosts, ready.options, span)
    zone = report_span.local(span.end)
    found = report_series.document(planned, answers, span, zone, strangers)
    files.write(output, view_report.html(found, library))
    errors = [answer for answer in answers.values() if isinstance(answer, HostError)]
    for error in errors:
        console.tell(failure.as_text(error))
    size = f": {output.stat().st_size / 1e6:.1f} MB" if output.is_file() else ""
    console.say(f"{found['head']}\n{output}{size}")
    _begins(found["begin"], span, zone)
    return worst(error.exit_code for error in errors)


def _begins(begin: float | None, span: Span, zone: Zone) -> None:
    """A page that is empty, or next to it, is no wonder where there is little to show."""
    if begin is None:
        console.say("note: nothing was written in this time: `ogen apply` starts monitors and balancers")
    elif span.end - begin < NARROW * (span.end - span.start):
        minutes = 10 * -(-int(span.end - begin + 1) // 600)
        console.say(f"note: figures begin {zone.clock(begin)}; --since {minutes}m shows them closer")
