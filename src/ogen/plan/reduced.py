"""A plan without some of what its balancers list: what is left when instances did not come into force."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from .entries import EVERYTHING
from .model import Entry, Plan, Pool


@dataclass(frozen=True, slots=True, order=True)
class Seat:
    """An instance's place in a pool, and what it must serve there. None: whatever it serves will do."""

    pool: str
    host: str
    instance: str
    port: int | None = None
    model: str | None = None

    def __str__(self) -> str:
        return f"{self.host}/{self.instance}"


def seats(plan: Plan, host: str) -> tuple[Seat, ...]:
    """All that the balancers on `host` list, sorted."""
    found = {
        Seat(pool.name, m.host, m.instance, m.port, _model(entry, pool))
        for entry in plan.entries
        if host in entry.hosts
        for pool in entry.pools
        for m in pool.members
    }
    return tuple(sorted(found, key=lambda seat: (seat.pool, seat.host, seat.instance)))


def _model(entry: Entry, pool: Pool) -> str | None:
    """The model that each member must serve; a balancer over everything asks for none."""
    everything = entry.balancer.routing == "single" and entry.balancer.pool is None
    return None if everything and pool.name == EVERYTHING else pool.name


def without(plan: Plan, gone: Collection[Seat]) -> Plan:
    """`plan` whose balancers don't list `gone`. Pools may end up empty: clients' names for them stay known.

    Instances, weights and contexts stay as planned: what the others get does not change.
    """
    left_out = {(seat.pool, seat.host, seat.instance) for seat in gone}
    return replace(
        plan,
        entries=tuple(_entry(entry, left_out) for entry in plan.entries),
        hosts=tuple(replace(h, entries=tuple(_entry(e, left_out) for e in h.entries)) for h in plan.hosts),
    )


def _entry(entry: Entry, gone: Collection[tuple[str, str, str]]) -> Entry:
    return replace(
        entry,
        pools=tuple(
            replace(
                pool, members=tuple(m for m in pool.members if (pool.name, m.host, m.instance) not in gone)
            )
            for pool in entry.pools
        ),
    )


def emptied(plan: Plan, host: str, gone: Collection[Seat]) -> tuple[tuple[str, str], ...]:
    """(balancer, pool) on `host` that would have no instance without `gone`."""
    return tuple(
        (entry.balancer.name, after.name)
        for entry in without(plan, gone).entries
        if host in entry.hosts
        for after in entry.pools
        if not after.members and any(seat.pool == after.name for seat in gone)
    )
