"""`ogen apply`: the rollout."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import console, last, options, prune
from .exits import Exit, worst
from .shares import batches, share

if TYPE_CHECKING:
    from ..plan.model import Plan
    from ..push import Outcome, Target
    from ..push.around import Around
    from .events import Stream
    from .fleet import Fleet


@click.command()
@options.inventory
@click.option(
    "--dry-run", is_flag=True, help="Show exactly what would be done, and do nothing. Exit code 2: changes."
)
@click.option("--yes", "-y", is_flag=True, help="Don't ask on a terminal.")
@options.limit
@click.option("--failed", is_flag=True, help="Only hosts that did not end well when last applied to.")
@click.option(
    "--batch",
    callback=batches,
    metavar="SIZES",
    help="How many hosts with instances change at once, like 1,25%,100%. Default: rollout.batches.",
)
@click.option(
    "--max-fail",
    callback=share,
    metavar="N|P%",
    help="More failures than this, and no other host is started. Default: rollout.max_fail.",
)
@click.option("--skip-offline", is_flag=True, help="Leave out hosts that don't answer, instead of failing.")
@click.option(
    "--prune-models", is_flag=True, help="Remove models that no release on the host needs any more."
)
@click.option(
    "--events", metavar="FILE", help="Append what happens as JSON lines to FILE; - is stdout, alone there."
)
@options.tags
@options.shape("text", "json")
@options.parallel
def command(
    path: Path,
    dry_run: bool,
    yes: bool,
    limit: str | None,
    failed: bool,
    batch: tuple[int | str, ...] | None,
    max_fail: int | str | None,
    skip_offline: bool,
    prune_models: bool,
    events: str | None,
    tags: str | None,
    shape: str,
    parallel: int,
) -> Exit:
    """Make the hosts what the inventory says.

    Each host changes in one transaction: the new release is staged, checked, put in force and proven,
    or the old one comes back. Hosts that are as they should be are not touched. Hosts with instances change
    in batches, a canary first; balancers get what is really in force (docs/rollout.md).

    Runs playbooks/apply.yaml: the one beside the inventory, else the one that comes with ogen. Tasks of
    your own may stand before and after its release (docs/playbooks.md).

    Ctrl-C once: hosts under way are finished, no other is started. Twice: stop watching.

    \b
    Exit codes: 0 done, or nothing to do   3 some hosts failed   4 unreachable   5 locked   6 rolled back
    """
    from .. import push
    from . import fleet, plays, project
    from .events import Stream
    from .preview import preview

    if events == "-" and shape == "json":
        raise click.UsageError(
            "--events - and --format json both want stdout; the events end with the result"
        )
    ready = fleet.fleet(path, parallel)
    course = plays.of(ready, "present", tags)
    rules = _rules(batch, max_fail)
    ready = replace(ready, options=replace(ready.options, **rules, skip_offline=skip_offline))
    ready = plays.ruled(ready, course, rules)
    names = _resumed(ready, limit) if failed else None
    if names is not None and not names:
        return _nothing(shape)
    planned, targets = fleet.wish(ready, limit, names)
    project.tell(planned.remarks)
    ids = {target.host.name: target.release for target in targets}

    def around() -> Around | None:
        pools = push.pools_of(planned)
        return plays.around(ready, course, pools, lambda name: {"ogen_release": ids[name].id})

    if dry_run:
        if prune_models:
            prune.preview(ready, [t.host for t in targets if t.host.root is None])
        return preview(ready, targets, shape, around())
    if shape == "text" and not yes and not _asked(ready, targets, around()):
        return Exit.CHANGES
    return roll_out(ready, planned, targets, shape, Stream(events), around(), prune_models=prune_models)


def _rules(batch: tuple[int | str, ...] | None, max_fail: int | str | None) -> dict[str, Any]:
    """What the command line says in place of the inventory."""
    given = {"batches": batch, "max_fail": max_fail}
    return {name: value for name, value in given.items() if value is not None}


# ------------------------------------------------------------------------------------------ --failed
def _resumed(ready: Fleet, limit: str | None) -> frozenset[str]:
    """The hosts that did not end well; those that are gone since are named."""
    from ..push import WELL
    from . import project

    ends = last.ends(ready.inventory)
    names = {name for name, status in ends.items() if status not in WELL}
    there = {host.name for host in ready.inventory.hosts if host.state == "in"}
    for name in sorted(names - there):
        console.say(f"note: {name} ended {ends[name].replace('_', ' ')}, and is not in service any more")
    return frozenset(names & there & project.limited(ready.inventory, limit))


def _nothing(shape: str) -> Exit:
    if shape == "json":
        console.document({"hosts": [], "errors": []})
    console.say("nothing to resume: no host is known to have ended badly")
    return Exit.DONE


# ---------------------------------------------------------------------------------- before the rollout
def _asked(ready: Fleet, targets: tuple[Target, ...], around: Around | None) -> bool:
    """On a terminal the person sees what changes, and says yes or no."""
    from ..release import text
    from . import fleet, live, steps
    from .preview import looked

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    found, errors = looked(ready, targets, around)
    there = [t for t in targets if t.host.name in found]
    shown = live.differences(there, found, ready, context=3)
    tasks = steps.changing({name: around.steps.get(name, []) for name in found} if around else {})
    if not shown.changed and not tasks:
        return True
    live.tell_absent(found)
    changes = [text.stat(shown).rstrip("\n")] if shown.changed else []
    console.tell("\n".join([*changes, *tasks]))
    for error in errors:
        console.say(f"{error.host}: {error.message}")
    if fleet.agreed("apply this?", yes=False):
        return True
    console.say("nothing was changed")
    return False


# ----------------------------------------------------------------------------------------- the rollout
def roll_out(
    ready: Fleet,
    planned: Plan,
    targets: tuple[Target, ...],
    shape: str,
    stream: Stream,
    around: Around | None = None,
    *,
    prune_models: bool = False,
) -> Exit:
    from .. import push
    from ..push.mirror import origins_of
    from .progress import progress
    from .watching import watched

    last.remember(ready.inventory, dict.fromkeys((t.host.name for t in targets), "interrupted"), quiet=True)
    stream.start(ready.options, targets)
    with progress(len(targets)) as watch:

        def tell(event: push.Event) -> None:
            watch(event)
            stream(event)

        if around:
            around.on_event = tell
        rollout = push.Rollout(
            targets,
            ready.options,
            tell,
            push.pools_of(planned),
            origins=origins_of(planned),
            around=around,
        )
        whole = watched(rollout.run, ready.options)
    done = rollout.outcome()
    last.remember(ready.inventory, {r.host: r.status for r in done.results})
    interrupted = ready.options.stop.is_set()
    pruned = prune.prune(ready, done, [t.host for t in targets]) if prune_models and not interrupted else {}
    code = _ended(done, shape, stream, pruned, interrupted=interrupted)
    if not whole:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # threads still watch, and would be waited for
    return code


def _ended(done: Outcome, shape: str, stream: Stream, pruned: prune.Found, *, interrupted: bool) -> Exit:
    """Tells how it ended, once, in the shape asked for."""
    from ..push import WELL
    from . import leftover, outcome

    code = Exit.INTERRUPTED if interrupted else worst([outcome.exit_of(done), prune.exit_of(pruned)])
    document = {**outcome.as_json(done), "pruned": prune.as_json(pruned)}
    if stream.on_stdout:
        outcome.tell(done)
    elif shape == "json":
        console.document(document)
    else:
        outcome.show(done, shape)
    leftover.after(done.results)
    stream.end(code, document)
    prune.tell(pruned)
    if not pruned:
        prune.hint(done)
    bad = sum(result.status not in WELL for result in done.results)
    if bad and shape == "text":
        console.say(
            f"`ogen apply --failed` goes on with the {console.count(bad, 'host')} that did not end well"
        )
    return code
