"""Runs: what one `ogen apply` or `rollback` did, put together from the audits of its hosts.

Every host keeps its own audit. The run's id travels in the entries' "who", so that the entries of one
run can be found on all hosts. Which run was the last is told by the order within each host's audit;
the clocks decide only between runs that have no host in common.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_RUN = re.compile(r"(.*) \((\w+) ([0-9a-f]{8})\)$", re.DOTALL)


def label(who: str, what: str, run: str) -> str:
    """Such as "ops@desk (apply 4f1c9a2b)"."""
    return f"{who} ({what} {run})"


@dataclass(frozen=True, slots=True)
class Entry:
    """One host's part in a run; `before` and `after` name releases on the host."""

    host: str
    status: str
    before: str | None
    after: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    id: str
    what: str  # apply, rollback
    who: str
    git: str
    time: str  # of its first entry, as that host's clock had it
    entries: tuple[Entry, ...]

    @property
    def statuses(self) -> tuple[str, ...]:
        return tuple(sorted({entry.status for entry in self.entries}))


def gathered(audits: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[Run, ...]:
    """All runs, the latest last."""
    found: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    after: dict[str, set[str]] = {}  # run → runs that come later on some host
    for host, audit in sorted(audits.items()):
        earlier: list[str] = []
        for entry in audit:
            name = _name(entry)
            found.setdefault(name, []).append((host, entry))
            after.setdefault(name, set())
            for other in earlier:
                after[other].add(name)
            if name not in earlier:
                earlier.append(name)
    runs = {name: _run(name, entries) for name, entries in found.items()}
    return tuple(runs[name] for name in _ordered(runs, after))


def _ordered(runs: Mapping[str, Run], after: Mapping[str, set[str]]) -> list[str]:
    """Latest last: a run is placed when nothing left comes after it, the youngest clock first."""
    left, order = set(runs), list[str]()
    while left:
        free = [name for name in left if not (after[name] - {name}) & left] or list(left)
        chosen = max(free, key=lambda name: (runs[name].time, name))
        order.append(chosen)
        left.discard(chosen)
    return order[::-1]


def _name(entry: Mapping[str, Any]) -> str:
    match = _RUN.match(str(entry.get("who", "")))
    return match[3] if match else str(entry.get("tx", ""))[:8]


def _run(name: str, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> Run:
    first = min((entry for _, entry in entries), key=lambda entry: str(entry.get("time", "")))
    who = str(first.get("who", ""))
    match = _RUN.match(who)
    return Run(
        name,
        match[2] if match else "",
        match[1] if match else who,
        str(first.get("git", "")),
        str(first.get("time", "")),
        tuple(
            Entry(
                host, str(e.get("status", "")), e.get("from"), str(e.get("to", "")), str(e.get("message", ""))
            )
            for host, e in entries
        ),
    )


def back(runs: Sequence[Run], to: str | None) -> dict[str, str | None]:
    """Host → the release to go back to. Without `to`, what the last run that changed something undid.

    With `to`: the state after the run of that id, or the release whose name begins so, on the hosts
    that had it. Empty if there is no such run or release.
    """
    changed = [run for run in runs if any(e.status == "applied" for e in run.entries)]
    if to is None:
        return {e.host: e.before for e in changed[-1].entries if e.status == "applied"} if changed else {}
    for run in changed:
        if run.id == to:
            return {e.host: e.after for e in run.entries if e.status == "applied"}
    found: dict[str, str | None] = {}
    for run in changed:
        for entry in run.entries:
            for name in (entry.before, entry.after):
                if name and name.startswith(to):
                    found[entry.host] = name
    return found
