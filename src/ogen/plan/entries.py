"""Balancers over pools: which pools, on which hosts, on which ports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ..errors import OgenError, PlanError, Where
from ..inventory import hosts_matching
from ..inventory.model import Balancer, Inventory
from .model import Entry, Instance, Member, Pool

#: the pool of `routing: single` over all instances
EVERYTHING = "all"


def build_entries(
    inventory: Inventory, pools: Mapping[str, Pool], instances: Mapping[str, tuple[Instance, ...]]
) -> tuple[tuple[Entry, ...], list[OgenError]]:
    """An entry for each balancer, and what is wrong with the others.

    A member's address is where other hosts reach it (`Host.reached_at`); for a member on the balancer's own
    host the renderer writes the loopback address instead, since that differs from host to host.
    """
    entries: list[Entry] = []
    problems: list[OgenError] = []
    for balancer in inventory.balancers:
        try:
            entries.append(_entry(inventory, balancer, pools))
        except PlanError as problem:
            problems.append(problem)
    entries = _gated(entries)
    return tuple(entries), [*problems, *port_conflicts(inventory, entries, instances)]


def _entry(inventory: Inventory, balancer: Balancer, pools: Mapping[str, Pool]) -> Entry:
    hosts = tuple(h.name for h in hosts_matching(inventory, balancer.hosts) if h.state == "in")
    if not hosts:
        raise PlanError(
            f"balancer {balancer.name} has no host in service",
            where=balancer.where,
            hint=f"`hosts: {balancer.hosts}` matches none in state `in`",
        )
    mine = _pools(balancer, pools)
    if not mine:
        raise PlanError(
            f"balancer {balancer.name} has nothing to balance: no instance serves any of its models",
            where=balancer.where,
            hint="give a model replicas, or take the balancer out",
        )
    return Entry(balancer, hosts, mine, _ports(balancer, mine))


def _pools(balancer: Balancer, pools: Mapping[str, Pool]) -> tuple[Pool, ...]:
    if balancer.routing != "single":
        return tuple(pools.values())
    if balancer.pool is not None:
        return (pools[balancer.pool],) if balancer.pool in pools else ()
    return (merged(pools.values()),) if pools else ()


def merged(pools: Iterable[Pool]) -> Pool:
    """One pool of all instances, whatever they serve: what a balancer that can't see models is left with."""
    pools = list(pools)
    members: dict[tuple[str, str], Member] = {}
    for pool in pools:
        for member in pool.members:
            known = members.setdefault((member.host, member.instance), member)
            members[member.host, member.instance] = replace(
                known, slots=max(known.slots, member.slots), weight=min(known.weight, member.weight)
            )
    names = tuple(dict.fromkeys(name for pool in pools for name in pool.names))
    return Pool(EVERYTHING, names, min(pool.context for pool in pools), tuple(members.values()))


def _ports(balancer: Balancer, pools: tuple[Pool, ...]) -> dict[str, int]:
    """A port for each pool: the one given, else the next free one from `listen` on, in the file's order."""
    if balancer.routing != "per_port":
        return {}
    taken = set(balancer.ports.values())
    ports: dict[str, int] = {}
    following = balancer.listen
    for pool in pools:
        port = balancer.ports.get(pool.name)
        if port is None:
            while following in taken:
                following += 1
            port = following
            taken.add(port)
        ports[pool.name] = port
    return ports


def _gated(entries: list[Entry]) -> list[Entry]:
    """Each gate with the list of all: each routes to every pool, and none may let in more than its share."""
    gates = tuple(f"{e.balancer.name}@{host}" for e in entries if e.balancer.gate for host in e.hosts)
    return [replace(entry, gates=gates) if entry.balancer.gate else entry for entry in entries]


# -------------------------------------------------------------------------------------------- ports
@dataclass(frozen=True, slots=True)
class _Listener:
    host: str
    port: int
    address: str | None  # None: every address of the host
    name: str
    where: Where | None


def port_conflicts(
    inventory: Inventory, entries: Iterable[Entry], instances: Mapping[str, tuple[Instance, ...]]
) -> list[OgenError]:
    """Two that want to listen at the same port of a host, and ports that there are not."""
    problems: list[OgenError] = []
    seen: dict[tuple[str, int], list[_Listener]] = {}
    for listener in [*_instance_listeners(inventory, instances), *_entry_listeners(entries)]:
        if listener.port > 65535:
            problems.append(
                PlanError(f"{listener.name}: there is no port {listener.port}", where=listener.where)
            )
        others = seen.setdefault((listener.host, listener.port), [])
        clash = next(
            (o for o in others if None in (o.address, listener.address) or o.address == listener.address),
            None,
        )
        if clash:
            problems.append(
                PlanError(
                    f"{listener.host}: {listener.name} and {clash.name} both want port {listener.port}",
                    where=listener.where or clash.where,
                    hint="give one of them another port",
                )
            )
        others.append(listener)
    return problems


def _instance_listeners(
    inventory: Inventory, instances: Mapping[str, tuple[Instance, ...]]
) -> Iterable[_Listener]:
    for host in inventory.hosts:
        mine = instances.get(host.name, ())
        if mine:
            yield _Listener(host.name, host.ollama.librarian_port, None, "the librarian", host.where)
        for instance in mine:
            yield _Listener(host.name, instance.port, None, f"instance {instance.name}", instance.where)


def _entry_listeners(entries: Iterable[Entry]) -> Iterable[_Listener]:
    for entry in entries:
        balancer = entry.balancer
        for host in entry.hosts:
            for port in sorted(set(entry.ports.values())) or [balancer.listen]:
                yield _Listener(host, port, balancer.address, f"balancer {balancer.name}", balancer.where)
