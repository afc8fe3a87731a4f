"""Pools as a rollout sees them: who balances over whom, and which instances may go down together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..inventory.model import Host
from .edges import Failing, Member

if TYPE_CHECKING:
    from ..plan.model import Plan


@dataclass(frozen=True, slots=True)
class Pools:
    """Who balances over whom: hosts with balancers of ogen's own, and the members of their pools."""

    edges: tuple[Host, ...] = ()
    members: Mapping[str, frozenset[Member]] = field(default_factory=dict)  # "balancer/pool" → members
    addresses: Mapping[str, str] = field(default_factory=dict)  # host → where balancers reach it
    ports: Mapping[Member, int] = field(default_factory=dict)

    def server(self, edge: str, host: str, port: int) -> str:
        """An instance as the nginx on `edge` lists it."""
        from ..render.upstreams import place  # with the planner and the templates

        return place("127.0.0.1" if edge == host else self.addresses.get(host, host), port)

    @property
    def everyone(self) -> frozenset[Member]:
        return frozenset(m for members in self.members.values() for m in members)

    def failing(self, told: Mapping[str, Iterable[Failing]]) -> dict[Member, str]:
        """Members that some balancer is kept away from by its host's probes, and why; by balancer hosts."""
        found: dict[Member, str] = {}
        for edge, servers in told.items():
            why = {one.server: one.why for one in servers}
            for member, port in self.ports.items() if why else ():
                server = self.server(edge, member[0], port)
                if server in why:
                    found[member] = f"{'/'.join(member)} fails the probes of {edge}: {why[server]}"
        return found

    def of(self, member: Member) -> list[frozenset[Member]]:
        return [members for members in self.members.values() if member in members]


def pools_of(plan: Plan) -> Pools:
    """The pools of all balancers with an nginx of their own; one within the machine's can't hold a lease."""
    own = [entry for entry in plan.entries if entry.balancer.into == "own"]
    names = {name for entry in own for name in entry.hosts}
    return Pools(
        edges=tuple(h.host for h in plan.hosts if h.host.name in names),
        members={
            f"{entry.balancer.name}/{pool.name}": frozenset((m.host, m.instance) for m in pool.members)
            for entry in own
            for pool in entry.pools
        },
        addresses={h.host.name: h.host.reached_at for h in plan.hosts},
        ports={(m.host, m.instance): m.port for entry in own for pool in entry.pools for m in pool.members},
    )


def admissible(
    pools: Pools,
    wanted: Iterable[Member],
    serving: Collection[Member],
    leased: Collection[Member],
    share: float = 0.5,
) -> list[Member]:
    """Those of `wanted` that may go down together, beside what is leased already.

    Every pool keeps one instance that serves, and at most `share` of its members are down at once; a
    pool of one member has nothing to keep, and is down while that one restarts.
    """
    chosen: list[Member] = []
    for one in wanted:
        out = {*leased, *chosen, one}
        if all(_keeps(members, out, serving, share) for members in pools.of(one)):
            chosen.append(one)
    return chosen


def _keeps(
    members: frozenset[Member], out: Collection[Member], serving: Collection[Member], share: float
) -> bool:
    if len(members) == 1:
        return True
    down = sum(1 for member in members if member in out)
    left = sum(1 for member in members if member not in out and member in serving)
    return left >= 1 and down <= max(1, int(len(members) * share))
