"""Queues over pools: whose jobs each holds, where they come in, and who works on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..errors import OgenError, PlanError
from ..inventory.model import Inventory, Queue
from .model import Entry, Pool, Work


def build_works(
    inventory: Inventory, pools: Mapping[str, Pool], entries: Iterable[Entry]
) -> tuple[tuple[Work, ...], list[OgenError]]:
    """One for each queue, and what is wrong with the others."""
    works: list[Work] = []
    problems: list[OgenError] = []
    entries = tuple(entries)
    for queue in inventory.queues:
        mine = tuple(pool for name, pool in pools.items() if not queue.models or name in queue.models)
        problem = _problem(queue, inventory, mine)
        if problem is not None:
            problems.append(problem)
            continue
        fronts = [host for entry in entries if entry.balancer.name in queue.balancers for host in entry.hosts]
        works.append(Work(queue, mine, tuple(dict.fromkeys(fronts))))
    return tuple(works), problems


def _problem(queue: Queue, inventory: Inventory, pools: tuple[Pool, ...]) -> PlanError | None:
    if not pools:
        return PlanError(
            f"queue {queue.name} has nobody to work for it: no instance serves any of its models",
            where=queue.where,
            hint="give a model replicas, or take the queue out",
        )
    host = next((host for host in inventory.hosts if host.name == queue.redis.host), None)
    if host is not None and host.state != "in":
        return PlanError(
            f"queue {queue.name} has its jobs on {host.name}, which is out",
            where=queue.where,
            hint="take the queue out as well, or put the host in",
        )
    return None


def here(works: Iterable[Work], host: str) -> tuple[Work, ...]:
    """Those of which a part runs on the host."""
    return tuple(w for w in works if host in (w.queue.redis.host, *w.fronts, *w.workers))
