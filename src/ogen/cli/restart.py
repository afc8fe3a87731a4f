"""`ogen restart`: instances, one after another, without a failed request."""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .drain import WHERE
from .exits import Exit


@click.command()
@options.inventory
@WHERE
@options.shape("text", "json")
@options.parallel
def command(path: Path, where: tuple[str, ...], shape: str, parallel: int) -> Exit:
    """Restart instances, each drained before and proven after.

    HOST stands for all instances of a host, HOST/gpu0 (or HOST/0) for one. No pool is left without an
    instance that serves, unless it has one only, or the inventory says rollout.allow_outage.
    """
    from ..push import operate, pools_of
    from ..push.results import Outcome
    from . import fleet, instances, outcome
    from .progress import progress

    ready = fleet.fleet(path, parallel, what="restart")
    planned = fleet.planned(ready)
    members = instances.chosen(planned, where)
    hosts = {host.name: host for host in ready.hosts(None)}
    with fleet.interruptible(ready.options), progress(len({host for host, _ in members})) as watch:
        done = operate.restart(pools_of(planned), hosts, members, ready.options, watch)
    return outcome.show(Outcome(tuple(done)), shape, applied="restarted")
