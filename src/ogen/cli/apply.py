"""`ogen apply`: the rollout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import console, options
from .exits import Exit

if TYPE_CHECKING:
    from ..plan.model import Plan
    from ..push import Target
    from .fleet import Fleet


@click.command()
@options.inventory
@click.option(
    "--dry-run", is_flag=True, help="Show exactly what would be done, and do nothing. Exit code 2: changes."
)
@click.option("--yes", "-y", is_flag=True, help="Don't ask on a terminal.")
@options.limit
@options.shape("text", "json")
@options.parallel
def command(path: Path, dry_run: bool, yes: bool, limit: str | None, shape: str, parallel: int) -> Exit:
    """Make the hosts what the inventory says.

    Each host changes in one transaction: the new release is staged, checked, put in force and proven,
    or the old one comes back. Hosts that are as they should be are not touched.

    \b
    Exit codes: 0 done, or nothing to do   3 some hosts failed   4 unreachable   5 locked   6 rolled back
    """
    from . import fleet, project

    ready = fleet.fleet(path, parallel)
    planned, targets = fleet.wish(ready, limit)
    project.tell(planned.remarks)
    if dry_run:
        return preview(ready, targets, shape)
    if shape == "text" and not yes and not _asked(ready, targets):
        return Exit.CHANGES
    return roll_out(ready, planned, targets, shape)


def preview(ready: Fleet, targets: tuple[Target, ...], shape: str) -> Exit:
    """What would be done, as a diff."""
    from . import diff, live

    found = live.differences(targets, live.seen(ready, targets), ready, context=3)
    diff.show(found, shape, stat=False)
    return Exit.CHANGES if found.changed else Exit.DONE


def _asked(ready: Fleet, targets: tuple[Target, ...]) -> bool:
    """On a terminal the person sees what changes, and says yes or no."""
    import sys

    from ..release import text
    from . import fleet, live

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    found = live.differences(targets, live.seen(ready, targets), ready, context=3)
    if not found.changed:
        return True
    console.tell(text.stat(found).rstrip("\n"))
    if fleet.agreed("apply this?", yes=False):
        return True
    console.say("nothing was changed")
    return False


def roll_out(ready: Fleet, planned: Plan, targets: tuple[Target, ...], shape: str) -> Exit:
    from .. import push
    from . import fleet, outcome
    from .progress import progress

    with fleet.interruptible(ready.options), progress(len(targets)) as watch:
        done = push.apply(targets, ready.options, watch, push.pools_of(planned))
    code = outcome.show(done, shape)
    return Exit.INTERRUPTED if ready.options.stop.is_set() else code
