"""`ogen doctor`: what is wrong, what shows it, and what to change or run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import HostError
from . import console, options
from .exits import Exit, worst

if TYPE_CHECKING:
    from ..observe.finding import Finding


@click.command()
@options.inventory
@options.limit
@options.since("How far back logs are read: 10m, 2h, 7d.")
@options.shape("text", "json")
@options.parallel
def command(path: Path, limit: str | None, since: float, shape: str, parallel: int) -> Exit:
    """Say what is wrong on the hosts, what shows it, and what mends it.

    Reads journals, /api/ps, nvidia-smi, the balancers' logs; changes nothing. Exit code 2 with
    findings, 0 without; 4 if a host can't be reached, 3 if one can't say.
    """
    from ..observe.doctor import diagnose
    from ..observe.fleet import pending
    from ..observe.looking import look
    from . import failure, fleet

    ready = fleet.fleet(path, parallel, what="doctor")
    planned, targets = fleet.wish(ready, limit)
    answers = look(planned, targets, ready.options, deep=True, since=since)
    errors = [answer for answer in answers.values() if isinstance(answer, HostError)]
    seen = {name: one for name, one in answers.items() if not isinstance(one, HostError)}
    found = diagnose(planned, seen, since=since)
    waiting = [name for name, one in seen.items() if one.current and pending(one.comparison)]
    if shape == "json":
        shown = [failure.as_json(error) for error in errors]
        rows = [_row(one) for one in found]
        console.document({"hosts": sorted(seen), "findings": rows, "pending": waiting, "errors": shown})
    else:
        for one in found:
            _show(one)
        for error in errors:
            console.tell(failure.as_text(error))
        console.out(_summary(found, len(seen)))
        if waiting:
            console.say(_pending(waiting))
    return worst([*(error.exit_code for error in errors), *([Exit.CHANGES] if found else [])])


def _show(one: Finding) -> None:
    from ..release.plaintext import one_line

    head = f"{console.paint(one.subject, 'bright_white', bold=True)}  {console.paint(one.kind, 'red')}  "
    console.raw(f"{head}{console.safe(one_line(one.what))}\n")
    for line in one.evidence:
        console.out(f"    | {one_line(line)}")
    if one.where:
        console.out(f"    --> {one.where}" + (f"  {one_line(one.sets)}" if one.sets else ""))
    console.raw(f"    {console.paint('mend:', 'cyan')} {console.safe(one_line(one.fix))}\n")


def _summary(found: tuple[Finding, ...], hosts: int) -> str:
    if not found:
        return f"nothing found on {console.count(hosts, 'host')}"
    ill = len({one.host for one in found})
    return f"{console.count(len(found), 'finding')} on {ill} of {console.count(hosts, 'host')}"


def _pending(hosts: Sequence[str]) -> str:
    """No finding; but whoever takes another fleet's inventory should not read that all is well."""
    names = ", ".join(hosts[:6]) + (f" and {len(hosts) - 6} more" if len(hosts) > 6 else "")
    return f"note: changes of the inventory are pending on {names}: `ogen status` shows them"


def _row(one: Finding) -> dict[str, Any]:
    where = one.where
    return {
        "kind": one.kind,
        "host": one.host,
        "about": one.about,
        "what": one.what,
        "evidence": list(one.evidence),
        "fix": one.fix,
        "file": where.file if where else None,
        "line": where.line if where else None,
        "column": where.column if where else None,
        "set": one.sets or None,
    }
