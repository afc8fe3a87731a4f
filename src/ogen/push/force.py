"""What is in force between hosts, and what follows from it: who goes first, who lacks what."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .results import Comparison, HostResult, Serving, Target

if TYPE_CHECKING:
    from ..plan.reduced import Seat

Place = tuple[str, str]  # (host, instance)


def loses(target: Target, seen: Comparison) -> bool:
    """Whether an instance or a balancer that is in force now is no longer wanted."""
    gone = set(seen.instances) - {p.instance for p in target.release.instances}
    return bool(gone) or sheds(target, seen)


def sheds(target: Target, seen: Comparison) -> bool:
    """Whether a balancer that is in force now is no longer wanted."""
    return bool(set(seen.pools) - {p.balancer for p in target.release.balancers})


def stages(
    targets: Sequence[Target], seen: Mapping[str, Comparison], tasks: Collection[str] = ()
) -> tuple[list[Target], ...]:
    """expand, switch, contract; hosts that were not seen, or have nothing to do, are in none. Those of
    `tasks` have something to do beside their release."""
    expand: list[Target] = []
    switch: list[Target] = []
    contract: list[Target] = []
    for target in targets:
        found = seen.get(target.host.name)
        if found is None or (found.unchanged and target.host.name not in tasks):
            continue
        if target.release.balancers:
            switch.append(target)
        elif loses(target, found):
            contract.append(target)
        else:
            expand.append(target)
    return expand, switch, contract


def offered(target: Target) -> dict[str, Serving]:
    """What the host's instances serve once its release is in force."""
    return {
        p.instance: Serving(p.port, frozenset(m.model for m in p.models), frozenset(p.admits))
        for p in target.release.instances
    }


def present(seen: Comparison) -> dict[str, Serving]:
    """What they serve now."""
    return {name: seen.serving.get(name, Serving()) for name in seen.instances}


def in_force(
    targets: Sequence[Target], seen: Mapping[str, Comparison], results: Mapping[str, HostResult]
) -> dict[Place, Serving]:
    """What serves now: the new instances where it went well, else the old ones.

    Of a host that ended nobody knows how, the instances that are the same in both.
    """
    found: dict[Place, Serving] = {}
    for target in targets:
        name = target.host.name
        before, result = seen.get(name), results.get(name)
        old = present(before) if before else {}
        if (result and result.serves) or (before and before.unchanged):
            now = offered(target)
        elif result and result.status in ("failed", "unreachable", "stuck", "interrupted"):
            now = {i: _both(old[i], s) for i, s in offered(target).items() if i in old and _alike(old[i], s)}
        else:
            now = old
        found |= {(name, instance): serving for instance, serving in now.items()}
    return found


def _alike(old: Serving, new: Serving) -> bool:
    return old.meets(new.port, None) and (old.models is None or old.models == new.models)


def _both(old: Serving, new: Serving) -> Serving:
    """Whichever of the two is in force, it admits these."""
    sides = [side for side in (old.admits, new.admits) if side is not None]
    return replace(new, admits=frozenset.intersection(*sides) if sides else None)


def source(reached_at: str) -> str:
    """The address from which a host's balancers come, as instances admit it; empty where it can't be told."""
    try:
        found = ipaddress.ip_address(reached_at)
    except ValueError:
        return ""
    return "" if found.is_loopback else str(found)


def listed(target: Target) -> tuple[Seat, ...]:
    """All that the host's balancers are to list."""
    if target.listing is not None:
        return target.listing.seats
    if not target.needs:
        return ()
    from ..plan.reduced import Seat  # with the planner

    return tuple(Seat("", host, instance) for host, instance in sorted(target.needs))


def serves(seat: Seat, force: Mapping[Place, Serving], address: str = "") -> bool:
    """Whether it is in force, and lets in the balancer at `address`."""
    found = force.get((seat.host, seat.instance))
    return found is not None and found.meets(seat.port, seat.model, address)


def lacking(
    target: Target,
    targets: Sequence[Target],
    force: Mapping[Place, Serving],
    asleep: Collection[str] = (),
    listed_now: Collection[tuple[str, str]] = (),
) -> list[Seat]:
    """What a balancer host's release lists, but is not in force, or does not let it in.

    Instances of hosts that are not part of this rollout are taken to be as they were. So are those of
    `asleep`, hosts that could not be asked, as far as the balancer has them in `listed_now`: pool and
    "host/instance". A server that is truly gone is passed over by nginx.
    """
    ours = {t.host.name for t in targets if t is not target and t.host.name != target.host.name}
    return [
        seat
        for seat in listed(target)
        if seat.host in ours
        and not serves(seat, force, source(target.host.reached_at))
        and not (seat.host in asleep and (seat.pool, str(seat)) in listed_now)
    ]


def swaps(
    switch: Sequence[Target], contract: Sequence[Target], seen: Mapping[str, Comparison]
) -> list[Target]:
    """Hosts that lose an instance and gain one that a balancer is to list: two cards become one instance,
    say. They can't wait for the balancer that waits for them; nginx passes over the servers that are gone."""
    wanted = {seat for target in switch for seat in listed(target)}
    return [
        t
        for t in contract
        if any(
            seat.host == t.host.name and not serves(seat, _places(t.host.name, present(seen[t.host.name])))
            for seat in wanted
        )
    ]


def _places(host: str, serving: Mapping[str, Serving]) -> dict[Place, Serving]:
    return {(host, instance): one for instance, one in serving.items()}


def together(waiting: Sequence[Target], lack: Mapping[str, Sequence[Seat]]) -> list[Target]:
    """Hosts that lack nothing but each other's new instances."""
    found = list(waiting)
    while True:
        coming = {(t.host.name, p.instance) for t in found for p in t.release.instances}
        kept = [t for t in found if coming.issuperset((s.host, s.instance) for s in lack[t.host.name])]
        if len(kept) == len(found):
            return found
        found = kept
