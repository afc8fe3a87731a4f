"""What an operator does by hand, done safely: drain, undrain, restart an instance; retire a host."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import HostError, RemoteError
from ..inventory.model import Host
from ..release.model import Release
from .contact import Contact, contact
from .edges import BY_HAND, Edge, Member, lease_id
from .leases import Leases
from .pools import Pools, admissible
from .results import Comparison, Event, HostResult, OnEvent, Options, ignore
from .rollout import each, failure

if TYPE_CHECKING:
    from .around import Around

POLL = 0.5  # seconds between two looks at an instance that is to become idle


@dataclass(frozen=True, slots=True)
class Drained:
    """An instance; `busy` are the addresses that still hold connections to it."""

    member: Member
    busy: tuple[str, ...] = ()
    error: HostError | None = None


# ------------------------------------------------------------------------------------ drain, undrain
def drain(
    pools: Pools,
    hosts: Mapping[str, Host],
    ports: Mapping[Member, int],
    options: Options,
    *,
    seconds: float,
    force: bool = False,
    on_event: OnEvent = ignore,
) -> list[Drained]:
    """Keeps balancers away from instances for `seconds`, and waits until these have ended what they do."""
    edges = [Edge(host, options) for host in pools.edges]
    try:
        refused = {} if force else _refused(pools, edges, ports)
        wanted = {m: port for m, port in ports.items() if m not in refused}
        each(edges, lambda edge: edge.lease(_servers(pools, edge, wanted), seconds), options.parallel)
        found = each(wanted.items(), lambda one: _idle(hosts, one, options, on_event), options.parallel)
        return [*found, *(Drained(m, error=error) for m, error in refused.items())]
    finally:
        for edge in edges:
            edge.close()


def _refused(pools: Pools, edges: Sequence[Edge], ports: Mapping[Member, int]) -> dict[Member, HostError]:
    """Instances that are the last ones of a pool, beside those that are drained already."""
    taken = {one.id for edge in edges for one in edge.listed(strict=True)}
    away = {m for m in pools.everyone if lease_id(BY_HAND, m) in taken}
    failing = pools.failing({edge.host.name: edge.failing() for edge in edges})
    serving = pools.everyone - failing.keys()
    fine = admissible(pools, [m for m in ports if m not in away], serving, away, share=1.0)
    return {
        m: RemoteError(
            f"{'/'.join(m)} is the last instance of its pool that serves",
            host=m[0],
            hint="`ogen undrain` another one first, or say --force",
        )
        for m in ports
        if m not in fine and m not in away
    }


def _servers(pools: Pools, edge: Edge, ports: Mapping[Member, int]) -> dict[str, str]:
    return {lease_id(BY_HAND, m): pools.server(edge.host.name, m[0], port) for m, port in ports.items()}


def _idle(hosts: Mapping[str, Host], one: tuple[Member, int], options: Options, on_event: OnEvent) -> Drained:
    member, port = one
    end, said = time.monotonic() + options.drain, ""
    try:
        with contact(hosts[member[0]], options) as opened:
            while busy := opened.connections([port])[port]:
                told = f"{member[1]}: {len(busy)} connection{'s' if len(busy) != 1 else ''} left"
                if told != said:
                    on_event(Event(member[0], "drain", told))
                said = told
                if time.monotonic() > end:
                    break
                time.sleep(POLL)
    except HostError as error:
        return Drained(member, error=error)
    on_event(Event(member[0], "done", f"{member[1]} drained" if not busy else f"{member[1]} is busy"))
    return Drained(member, tuple(busy))


def undrain(
    pools: Pools, ports: Mapping[Member, int], options: Options, *, wait: float = 30.0
) -> list[Drained]:
    """Ends persons' leases; `busy` are the balancer hosts that do not get an instance back."""
    edges = [Edge(host, options) for host in pools.edges]
    try:
        down = each(
            edges,
            lambda edge: edge.unlease(_servers(pools, edge, ports), wait, strict=True),
            options.parallel,
        )
        return [
            Drained(
                m,
                tuple(
                    edge.host.name
                    for edge, names in zip(edges, down, strict=True)
                    if pools.server(edge.host.name, m[0], port) in names
                ),
            )
            for m, port in ports.items()
        ]
    finally:
        for edge in edges:
            edge.close()


# -------------------------------------------------------------------------------------------- restart
def restart(
    pools: Pools,
    hosts: Mapping[str, Host],
    members: Iterable[Member],
    options: Options,
    on_event: OnEvent = ignore,
) -> list[HostResult]:
    """Restarts instances, each kept away from balancers until it is proven again."""
    wanted: dict[str, list[str]] = {}
    for host, instance in members:
        wanted.setdefault(host, []).append(instance)
    everyone = frozenset(m for pool in pools.members.values() for m in pool)
    with Leases(pools, options, lambda: everyone, on_event, options.outage) as leases:

        def one(name: str) -> HostResult:
            begun = time.monotonic()
            try:
                with contact(hosts[name], options, on_event) as opened, leases.held_for(name) as grants:
                    units = opened.restart(wanted[name], grants)
            except HostError as error:
                return failure(error, time.monotonic() - begun)
            on_event(Event(name, "done", "restarted"))
            return HostResult(
                name, "applied", seconds=round(time.monotonic() - begun, 2), restarted=tuple(units)
            )

        return each(wanted, one, options.parallel)


# --------------------------------------------------------------------------------------------- retire
def retire(
    host: Host, options: Options, on_event: OnEvent = ignore, around: Around | None = None
) -> HostResult:
    """Takes all that is ogen's from a host: its units in one transaction, then its folders.

    Instances end what they have begun. Models stay: they are data. The stock service becomes what it was.
    """
    begun = time.monotonic()
    try:
        with contact(host, options, on_event) as opened:
            if around:
                around.prepare(opened)
                around.before(opened)
            seen, done = _emptied(opened, host)
            said = opened.remove()
            if around:
                around.after(opened, changed=True)
    except HostError as error:
        found = failure(error, time.monotonic() - begun)
        return around.told(found) if around else found
    on_event(Event(host.name, "done", "retired"))
    found = HostResult(
        host.name,
        "applied",
        said,
        before=seen.current,
        seconds=round(time.monotonic() - begun, 2),
        restarted=tuple(done),
        comparison=seen,
    )
    return around.told(found) if around else found


def _emptied(opened: Contact, host: Host) -> tuple[Comparison, Sequence[str]]:
    """The host with a release that holds nothing."""
    nothing = Release(host.name, ())
    seen = opened.compare(nothing, text=False)
    if seen.current is None:
        return seen, ()
    done = opened.apply(nothing, seen, grants=_nobody_routes)
    return seen, done["restarted"]


def _nobody_routes(instances: Sequence[tuple[str, int]], why: str, beat: object) -> Mapping[str, object]:
    """No balancer lists an instance of a host that is out: they only end what they have begun."""
    return {"op": "grant", "instances": [name for name, _ in instances], "seconds": 30.0}
