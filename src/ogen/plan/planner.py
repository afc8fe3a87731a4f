"""`plan`: an inventory's wishes become placements, instances, pools and balancers."""

from __future__ import annotations

from ..errors import OgenError, Problems
from ..inventory.model import Inventory
from .entries import build_entries
from .fitting import Fitter
from .instances import build_instances
from .model import HostPlan, Plan
from .place import place
from .pools import build_pools
from .remarks import remarks_on
from .rungs import pointing, with_rungs
from .sources import candidates_of
from .works import build_works, here


def plan(inventory: Inventory) -> Plan:
    """The plan of `inventory`: a pure function, the same for the same inventory and lock.

    Raises the one PlanError or CatalogError, or Problems with all of them.
    """
    candidates, problems = candidates_of(inventory)
    _raise(problems)
    fitter = Fitter(candidates)
    board, problems = place(inventory, fitter)
    instances, bundles, conflicts = build_instances(board)
    _raise([*problems, *conflicts])
    pools = build_pools(inventory, instances)
    entries, problems = build_entries(inventory, pools, instances)
    works, unworkable = build_works(inventory, pools, entries)
    _raise([*problems, *unworkable])
    instances = with_rungs(board, fitter, instances, bundles, entries)
    entries = pointing(entries, instances)
    hosts = tuple(
        HostPlan(
            host,
            instances[host.name],
            tuple(e for e in entries if host.name in e.hosts),
            here(works, host.name),
        )
        for host in board.hosts
    )
    return Plan(inventory, hosts, entries, remarks_on(inventory, instances, pools, entries), works)


def _raise(problems: list[OgenError]) -> None:
    if problems:
        raise problems[0] if len(problems) == 1 else Problems(problems)
