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
    finders_queue,
    finders_share,
    finders_units,
)
from .concession import Ladder
from .evidence import HostSeen
from .finding import Case, Finding
from .looking import DAY
from .places import Places

#: in the order in which they are told: what explains others comes first
FINDERS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    *finders_host.FINDERS,
    *finders_card.FINDERS,
    *finders_units.FINDERS,
    *finders_log.FINDERS,
    *finders_instance.FINDERS,
    *finders_balancer.FINDERS,
    *finders_share.FINDERS,
    *finders_queue.FINDERS,
)


def diagnose(plan: Plan, seen: Mapping[str, HostSeen], *, since: float = DAY) -> tuple[Finding, ...]:
    """Host by host, in the plan's order."""
    places, ladder = Places(plan.inventory), Ladder(plan.inventory)
    cases = [
        Case(plan, host, seen[host.host.name], seen, since, places=places, ladder=ladder)
        for host in plan.hosts
        if host.host.name in seen
    ]
    return tuple(finding for case in cases for finder in FINDERS for finding in finder(case))
