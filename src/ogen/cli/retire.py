"""`ogen retire`: a host without anything of ogen's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from . import console, options
from .exits import Exit

if TYPE_CHECKING:
    from ..inventory.model import Host
    from .fleet import Fleet


@click.command()
@options.inventory
@click.argument("name", metavar="HOST")
@click.option(
    "--dry-run", is_flag=True, help="Show what would go, and do nothing. Exit code 2: there is something."
)
@click.option("--yes", "-y", is_flag=True, help="Don't ask on a terminal.")
@options.tags
@options.shape("text", "json")
@options.parallel
def command(
    path: Path, name: str, dry_run: bool, yes: bool, tags: str | None, shape: str, parallel: int
) -> Exit:
    """Take all that is ogen's from a host.

    The host must be `state: out`, and the balancers must have been applied since, so that nobody sends
    to it. Its instances end what they do, then units, links, /etc/ogen and what `ogen provision` put
    below /opt/ogen go. Models, logs, users and packages stay. The stock ollama.service is enabled and started
    again if it was so when ogen first held it off. Runs playbooks/retire.yaml, as `ogen apply` runs its own.
    """
    from ..push import Pools, operate
    from ..push.results import Outcome, Target
    from ..release.model import Release
    from . import fleet, leftover, outcome, plays
    from .preview import preview
    from .progress import progress

    ready = fleet.fleet(path, parallel, what="retire")
    host = _leaver(ready, name)
    course = plays.of(ready, "absent", tags)
    around = plays.around(ready, course, Pools(), lambda _: {"ogen_release": "", "ogen_retire": name})
    _nobody_routes(ready, host)
    if dry_run:
        return preview(ready, (Target(host, Release(name, ())),), shape, around)
    if not fleet.agreed(f"remove all that is ogen's from {name}?", yes or shape != "text"):
        console.say("nothing was changed")
        return Exit.CHANGES
    with fleet.interruptible(ready.options), progress(1) as watch:
        if around:
            around.on_event = watch
        done = operate.retire(host, ready.options, watch, around)
    code = outcome.show(Outcome((done,)), shape, applied="retired")
    leftover.after((done,))
    return code


def _leaver(ready: Fleet, name: str) -> Host:
    from .failure import did_you_mean

    hosts = {host.name: host for host in ready.inventory.hosts}
    if name not in hosts:
        raise UsageError(f"no host {name} is in the inventory", hint=did_you_mean(name, list(hosts)) or None)
    if hosts[name].state != "out":
        raise UsageError(
            f"{name} is in service",
            where=hosts[name].where,
            hint="set `state: out`, run `ogen apply` so that the balancers let go of it, then retire it",
        )
    return hosts[name]


def _nobody_routes(ready: Fleet, host: Host) -> None:
    """Balancers that still have the configuration of before may list the host."""
    from . import fleet, live

    _, targets = fleet.wish(ready, None)
    edges = tuple(target for target in targets if target.release.balancers)
    late = [name for name, found in live.seen(ready, edges).items() if not found.unchanged]
    if late:
        raise UsageError(
            f"{', '.join(late)} may still send requests to {host.name}: an apply is pending there",
            hint="run `ogen apply` first",
        )
