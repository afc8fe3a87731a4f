"""Placement: which model on which card, under which name and port, and who balances over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..inventory.model import Inventory, Lock
from .model import (
    Entry,
    HostPlan,
    Instance,
    Member,
    ModelSettings,
    Placement,
    Plan,
    Pool,
    Remark,
    ServerSettings,
)


# Whoever only needs the nouns, as a command that contacts hosts does, starts without the planner.
def plan(inventory: Inventory) -> Plan:
    """The plan of `inventory`: a pure function, the same for the same inventory and lock.

    Raises the one PlanError or CatalogError, or Problems with all of them.
    """
    from .planner import plan

    return plan(inventory)


def lock(inventory: Inventory, plan: Plan, observed: Lock | None = None) -> Lock:
    """The lock for `plan`: seen values before the inventory's, and those before the old lock's."""
    from .locking import lock

    return lock(inventory, plan, observed)


def seen(facts: Mapping[str, Mapping[str, Any]]) -> Lock:
    """What hosts said of themselves, as a lock: UUIDs of cards, versions, sources held."""
    from .locking import seen

    return seen(facts)


__all__ = [
    "Entry",
    "HostPlan",
    "Instance",
    "Member",
    "ModelSettings",
    "Placement",
    "Plan",
    "Pool",
    "Remark",
    "ServerSettings",
    "lock",
    "plan",
    "seen",
]
