"""`ogen provision`: a bare box with sshd becomes ready for `ogen apply`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import console, failure, options, steps
from .exits import Exit, worst

if TYPE_CHECKING:
    from ..push.provision import Provisioned

PLAYBOOK = "provision.yaml"
_COLOUR = {"changed": "green", "pending": "yellow", "unchanged": "", "skipped": "", "withheld": "yellow"}


@click.command()
@options.inventory
@click.option(
    "--check", is_flag=True, help="Show exactly what would change, and change nothing. Exit code 2: changes."
)
@click.option("--tags", metavar="TAG,…", help="Only the playbook's tasks with one of these tags.")
@options.limit
@options.shape("text", "json")
@options.parallel
def command(path: Path, check: bool, tags: str | None, limit: str | None, shape: str, parallel: int) -> Exit:
    """Make bare hosts ready for apply: packages, user, folders, Ollama.

    Runs playbooks/provision.yaml: the one beside the inventory, else the one that comes with ogen. A host
    needs only sshd; a python3 that is missing is installed first. Where ollama.source says from where, the
    inventory's version of Ollama is put beside those that are there; apply goes over to it. A second run
    changes nothing.

    \b
    Exit codes: 0 done   2 --check found changes   3 some hosts failed   4 unreachable   5 locked
    """
    from ..push.provision import provision
    from . import fleet, plays
    from .progress import progress

    ready = fleet.fleet(path, parallel, what="provision")
    playbook = plays.playbook(PLAYBOOK, ready.inventory.folder)
    chosen = plays.chosen(playbook, tags)
    hosts = ready.hosts(limit)
    with fleet.interruptible(ready.options), progress(len(hosts)) as watch:
        done = provision(ready.inventory, hosts, playbook, ready.options, watch, check=check, tags=chosen)
    show(done, shape, check=check)
    return Exit.INTERRUPTED if ready.options.stop.is_set() else exit_of(done)


def exit_of(results: Sequence[Provisioned]) -> Exit:
    errors = [result.error.exit_code for result in results if result.error]
    pending = [Exit.CHANGES for result in results if result.status == "pending"]
    return worst([*errors, *pending])


def show(results: Sequence[Provisioned], shape: str, *, check: bool) -> None:
    """What was, or would be, changed on each host; failures with the host's own last words."""
    if shape == "json":
        errors = [failure.as_json(r.error) for r in results if r.error]
        console.document({"check": check, "hosts": [_row(r) for r in results], "errors": errors})
        return
    for result in results:
        if result.error:
            console.tell(failure.as_text(result.error))
    wide = max((len(result.host) for result in results), default=0)
    for result in results:
        _host(result, wide, check=check)
    counts = Counter(result.status for result in results)
    console.out(", ".join(f"{number} {word}" for word, number in counts.items()) or "no host to provision")


def _host(result: Provisioned, wide: int, *, check: bool) -> None:
    colour = _COLOUR.get(result.status, "red")
    status = console.paint(result.status, colour) if colour else result.status
    spent = f"  {result.seconds:.1f} s" if result.seconds and result.status != "unchanged" else ""
    note = f"  {console.safe(result.message)}" if result.message else ""
    console.raw(f"{console.safe(result.host).ljust(wide)}  {status}{spent}{note}\n")
    steps.lines(result.changes, check=check)


def _row(result: Provisioned) -> dict[str, Any]:
    return {
        "host": result.host,
        "status": result.status,
        "message": result.message,
        "seconds": result.seconds,
        "steps": [step.document() for step in result.steps],
    }
