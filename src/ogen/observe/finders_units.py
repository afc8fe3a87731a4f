"""Findings about the services of instances and balancers: down, dying again and again, open to others."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import Where
from .finding import Case, Finding, quoted

OFTEN = 2  # restarts by itself, within the time looked at


def units(case: Case) -> Iterator[Finding]:
    if not case.seen.live:
        return
    for instance in case.seen.instances:
        yield from _unit(case, instance.unit, instance.name, "instance", case.place(instance.name))
    for balancer in case.seen.balancers:
        planned = next((e.balancer for e in case.plan.entries if e.balancer.name == balancer.name), None)
        about = f"balancer {balancer.name}"
        yield from _unit(case, balancer.unit, about, "balancer", planned.where if planned else None)


def _unit(case: Case, unit: str, about: str, kind: str, where: Where | None) -> Iterator[Finding]:
    state, last = case.unit(unit), quoted(case.log(unit).last)
    shown = f"{unit} is {state.active or 'unknown'} ({state.sub}), started again {state.restarts} times"
    recent = state.age is None or state.age < case.since
    if state.active == "activating" or (state.restarts >= OFTEN and recent):
        yield case.finding(
            f"{kind}-crashes",
            about,
            f"{unit} dies and is started again: {state.restarts} times",
            [shown, *last[-2:]],
            f"journalctl -u {unit} has its last words; `ogen rollback` goes back to the release before",
            where,
        )
    elif not state.up:
        yield case.finding(
            f"{kind}-down",
            about,
            f"{unit} does not run: it is {state.active or 'unknown'}",
            [shown, *last[-2:]],
            f"systemctl start {unit}; journalctl -u {unit} says why it ended",
            where,
        )


def admission(case: Case) -> Iterator[Finding]:
    """Who may talk to an instance is said by its unit, and by what systemd has of it."""
    names = {instance.unit: instance.name for instance in case.seen.instances}
    for unit, why in sorted(case.seen.comparison.admission.items()):
        name = names.get(unit, unit)
        yield case.finding(
            "admission",
            name,
            f"{unit} {why}",
            [f"systemctl show -p IPAddressAllow {unit}"],
            "ogen apply: when all balancers are what they should be, nobody else is let in",
            case.place(name),
        )


FINDERS = (units, admission)
