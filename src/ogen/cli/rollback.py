"""`ogen rollback`: back to what was in force before, as atomic as apply."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import Problems, UsageError
from . import console, options
from .exits import Exit


@click.command()
@options.inventory
@click.option("--to", metavar="ID", help="A run's id, as `ogen history` shows it, or a release's.")
@click.option("--yes", "-y", is_flag=True, help="Don't ask on a terminal.")
@options.limit
@options.shape("text", "json")
@options.parallel
def command(path: Path, to: str | None, yes: bool, limit: str | None, shape: str, parallel: int) -> Exit:
    """Go back to an earlier release.

    Without --to, what the last apply (or rollback) changed is undone, on the hosts that it changed.
    With --to, hosts return to the state after that run, or to that release.
    """
    from .. import push
    from . import fleet, outcome, runs
    from .history import runs_of
    from .progress import progress

    ready = fleet.fleet(path, parallel, what="rollback")
    found, errors = runs_of(ready, limit)
    if errors:
        raise Problems(errors)
    goals = _goals(runs.back(found, to), to)
    hosts = tuple(host for host in ready.hosts(limit) if host.name in goals)
    for host in hosts:
        console.say(f"{host.name}: back to {goals[host.name]}")
    if not fleet.agreed("go back?", yes or shape != "text"):
        console.say("nothing was changed")
        return Exit.CHANGES
    pools = push.pools_of(fleet.planned(ready))
    with fleet.interruptible(ready.options), progress(len(hosts)) as watch:
        done = push.rollback(hosts, goals, ready.options, watch, pools)
    return outcome.show(done, shape, applied="restored")


def _goals(goals: dict[str, str | None], to: str | None) -> dict[str, str | None]:
    """Checked: there is something to go back to, on every host concerned."""
    if not goals:
        if to is None:
            raise UsageError("nothing was applied yet, so there is nothing to go back to")
        raise UsageError(f"no run and no release `{to}` on these hosts", hint="`ogen history` lists the runs")
    first = sorted(host for host, name in goals.items() if name is None)
    if first:
        raise UsageError(
            f"the last apply was the first one on {', '.join(first)}: there is nothing to go back to",
            hint="--limit chooses other hosts",
        )
    return goals
