"""All findings about a fleet that was looked at deeply; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ..plan.model import Plan
from . import (
    finders_balancer,
    finders_card,
    finders_host,
    finders_instance,
    finders_log,
    finders_units,
)
from .evidence import HostSeen
from .finding import Case, Finding
from .looking import DAY

#: in the order in which they are told: what explains others comes first
FINDERS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    *finders_host.FINDERS,
    *finders_card.FINDERS,
    *finders_units.FINDERS,
    *finders_log.FINDERS,
    *finders_instance.FINDERS,
    *finders_balancer.FINDERS,
)


def diagnose(plan: Plan, seen: Mapping[str, HostSeen], *, since: float = DAY) -> tuple[Finding, ...]:
    """Host by host, in the plan's order."""
    cases = [
        Case(plan, host, seen[host.host.name], seen, since) for host in plan.hosts if host.host.name in seen
    ]
    return tuple(finding for case in cases for finder in FINDERS for finding in finder(case))
