"""`ogen drain` and `undrain`: instances without new requests, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from . import console, options
from .exits import Exit, worst

if TYPE_CHECKING:
    from ..push.operate import Drained

WHERE = click.argument("where", metavar="HOST[/GPU]...", nargs=-1, required=True)


@click.command()
@options.inventory
@WHERE
@click.option(
    "--for",
    "duration",
    metavar="TIME",
    default="1h",
    show_default=True,
    help="When balancers try the instances again, if nobody undrains them before: 30m, 8h.",
)
@click.option("--force", is_flag=True, help="Even the last instance of a pool.")
@options.shape("text", "json")
@options.parallel
def command(
    path: Path, where: tuple[str, ...], duration: str, force: bool, shape: str, parallel: int
) -> Exit:
    """Keep new requests away from instances, and wait until they have ended what they do.

    HOST stands for all instances of a host, HOST/gpu0 (or HOST/0) for one. The balancers' hosts keep
    the lease, so it holds without this command, and ends by itself: then they probe, and send again.

    Exit code 3 if an instance is still busy after rollout.drain_timeout, or must not be drained.
    """
    from ..inventory import units
    from ..push import operate, pools_of
    from . import fleet, instances
    from .progress import progress

    seconds = units.duration(duration)
    if not seconds:
        raise UsageError(f"--for {duration} is no time", hint="like 30m, 8h, 1h30m")
    ready = fleet.fleet(path, parallel, what="drain")
    planned = fleet.planned(ready)
    ports = instances.chosen(planned, where)
    hosts = {host.name: host for host in ready.hosts(None)}
    with progress(len(ports)) as watch:
        found = operate.drain(
            pools_of(planned), hosts, ports, ready.options, seconds=seconds, force=force, on_event=watch
        )
    return _show(found, shape, f"drained for {duration}", "still busy with")


@click.command()
@options.inventory
@WHERE
@options.shape("text", "json")
@options.parallel
def undrain(path: Path, where: tuple[str, ...], shape: str, parallel: int) -> Exit:
    """Let requests come to drained instances again.

    Exit code 3 if a balancer does not get an instance back: it does not answer there, or lacks a model.
    """
    from ..push import operate, pools_of
    from . import fleet, instances

    ready = fleet.fleet(path, parallel, what="undrain")
    planned = fleet.planned(ready)
    found = operate.undrain(pools_of(planned), instances.chosen(planned, where), ready.options)
    return _show(found, shape, "back", "does not answer to")


def _show(found: Sequence[Drained], shape: str, fine: str, busy: str) -> Exit:
    """A line for each instance; `busy` goes before what keeps one from being `fine`."""
    from . import failure

    errors = [one.error for one in found if one.error]
    if shape == "json":
        rows = [
            {"host": one.member[0], "instance": one.member[1], "done": not one.busy, "busy": list(one.busy)}
            for one in found
            if not one.error
        ]
        console.document({"instances": rows, "errors": [failure.as_json(e) for e in errors]})
    else:
        for error in errors:
            console.tell(failure.as_text(error))
        for one in found:
            if not one.error:
                state = f"{busy} {', '.join(one.busy)}" if one.busy else fine
                console.out(f"{'/'.join(one.member)}  {state}")
    codes = [error.exit_code for error in errors]
    return worst([*codes, *(Exit.FAILED for one in found if one.busy)])
