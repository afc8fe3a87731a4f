"""Placement: which model on which card, under which name and port, and who balances over it."""

from .locking import lock, seen
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
from .planner import plan

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
