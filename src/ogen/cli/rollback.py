"""`ogen rollback`: back to what was in force before, as atomic as apply."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import Problems, UsageError
from . import console, options
from .exits import Exit

if TYPE_CHECKING:
    from ..inventory.model import Host
    from ..push.around import Around
    from .fleet import Fleet


@click.command()
@options.inventory
@click.option("--to", metavar="ID", help="A run's id, as `ogen history` shows it, or a release's.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show what would be done, and do nothing. Exit code 2: there is something.",
)
@click.option("--yes", "-y", is_flag=True, help="Don't ask on a terminal.")
@options.limit
@options.tags
@options.shape("text", "json")
@options.parallel
def command(
    path: Path,
    to: str | None,
    dry_run: bool,
    yes: bool,
    limit: str | None,
    tags: str | None,
    shape: str,
    parallel: int,
) -> Exit:
    """Go back to an earlier release.

    Without --to, what the last apply (or rollback) changed is undone, on the hosts that it changed.
    With --to, hosts return to the state after that run, or to that release. Runs playbooks/rollback.yaml,
    as `ogen apply` runs its own.
    """
    from .. import push
    from . import fleet, outcome, plays, runs
    from .history import runs_of
    from .progress import progress

    ready = fleet.fleet(path, parallel, what="rollback")
    course = plays.of(ready, "previous", tags)
    found, errors = runs_of(ready, limit)
    if errors:
        raise Problems(errors)
    goals = _goals(runs.back(found, to), to)
    hosts = tuple(host for host in ready.hosts(limit) if host.name in goals)
    for host in hosts:
        console.say(f"{host.name}: back to {goals[host.name]}")
    pools = push.pools_of(fleet.planned(ready))
    around = plays.around(
        ready, course, pools, lambda name: {"ogen_release": goals[name], "ogen_to": goals[name]}
    )
    if dry_run:
        return _preview(ready, hosts, goals, shape, around)
    if not fleet.agreed("go back?", yes or shape != "text"):
        console.say("nothing was changed")
        return Exit.CHANGES
    with fleet.interruptible(ready.options), progress(len(hosts)) as watch:
        if around:
            around.on_event = watch
        done = push.rollback(hosts, goals, ready.options, watch, pools, around)
    return outcome.show(done, shape, applied="restored")


def _preview(
    ready: Fleet, hosts: tuple[Host, ...], goals: dict[str, str | None], shape: str, around: Around | None
) -> Exit:
    """Where each host goes back to, and what the play's other tasks would change."""
    from .. import push
    from . import steps

    errors = push.foresee(hosts, ready.options, around) if around else ()
    if errors:
        raise Problems(errors)
    tasks = {host.name: around.steps.get(host.name, []) for host in hosts} if around else {}
    if shape == "json":
        rows = [{"host": host.name, "to": goals[host.name]} for host in hosts]
        some = [{"host": name, **one.document()} for name, each in tasks.items() for one in each]
        console.document({"hosts": rows, "tasks": some, "errors": []})
    else:
        steps.show(tasks, check=True)
    return Exit.CHANGES


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
