"""`ogen logs`: the journals of instances, balancers and queues, merged by time."""

from __future__ import annotations

import datetime
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from . import background, console, options
from .exits import Exit, worst
from .spans import Span

if TYPE_CHECKING:
    from ..inventory.model import Host
    from ..observe.looking import Journals, Lines
    from .fleet import Fleet

EVERY = 1.0  # seconds between two looks at the journals that are followed
MOST = 10_000  # lines that one look brings


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
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes; Ctrl-C ends it.")
@options.shape("text", "json")
@options.parallel
def command(
    path: Path,
    where: str | None,
    since: float | None,
    lines: int,
    follow: bool,
    shape: str,
    parallel: int,
) -> Exit:
    """Show the journals of instances, balancers and queues, merged by time.

    HOST is a pattern as for --limit; NAME an instance, a balancer or a queue:
    `ogen logs fleet.yaml gpu1/gpu0`. `/jobs` is queue jobs wherever a part of it runs.
    Times are UTC, by each host's own clock.
    """
    from ..observe.looking import Journals
    from . import failure, fleet

    if follow and shape == "json":
        raise UsageError("--follow is for people, json is one document", hint="leave one of them out")
    ready = fleet.fleet(path, parallel, what="logs")
    pattern, _, name = (where or "").partition("/")
    try:
        hosts = _with_a_part(ready, name, ready.hosts(pattern or None))
    except UsageError as wrong:
        if pattern and not name:  # the name of an instance alone is what one tries first
            wrong.hint = f"{wrong.hint or ''}; an instance or a balancer is HOST/NAME".lstrip("; ")
        raise
    with Journals(hosts, name or None, ready.options) as journals:
        if follow:
            return _follow(journals, lines, since)
        found, errors = journals.read(lines, since)
    if shape == "json":
        rows = [{"time": _time(stamp), "from": who, "text": text} for stamp, who, text in found]
        console.document({"lines": rows, "errors": [failure.as_json(e) for e in errors]})
    else:
        _print(found)
        for error in errors:
            console.tell(failure.as_text(error))
        if not found and not errors:
            console.say("no line was logged" + (" in that time" if since else ""))
    return worst(error.exit_code for error in errors)


def _with_a_part(ready: Fleet, name: str, hosts: tuple[Host, ...]) -> tuple[Host, ...]:
    """Of a queue, the hosts that its parts run on; for all else those that were asked for."""
    from ..plan.works import here
    from . import fleet

    if not any(queue.name == name for queue in ready.inventory.queues):
        return hosts
    works = [work for work in fleet.planned(ready).works if work.queue.name == name]
    return tuple(host for host in hosts if here(works, host.name)) or hosts


def _print(found: Lines, wide: int = 0) -> int:
    """Names in a column of `wide` characters, or as many as it takes: how wide it was."""
    wide = max((wide, *(len(who) for _, who, _ in found)))
    for stamp, who, text in found:
        console.out(f"{_time(stamp)}  {who.ljust(wide)}  {text}")
    return wide


def _follow(journals: Journals, lines: int, since: float | None) -> Exit:
    """What comes, merged by time within each second; a host that fails is told once, and asked again."""
    from . import failure

    wide, failed = 0, set[str]()
    try:
        while True:
            found, errors = background.result(partial(journals.read, lines, since))
            wide = _print(found, wide)
            sys.stdout.flush()
            for error in errors:
                if (error.host or "") not in failed:
                    console.tell(failure.as_text(error))
            failed |= {error.host or "" for error in errors}
            lines = MOST
            time.sleep(EVERY)
    except KeyboardInterrupt:
        return background.leave()


def _time(stamp: float) -> str:
    """UTC with milliseconds."""
    try:
        found = datetime.datetime.fromtimestamp(stamp, datetime.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return str(stamp)
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")
