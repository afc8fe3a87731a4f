"""Findings about how work is shared: a card that stands idle while others of its pool do all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..errors import UsageError
from ..inventory import hosts_matching
from ..inventory.model import Gpu
from ..plan.fitting import Fit, Fitter
from ..plan.model import Entry, Member, Pool
from ..render.upstreams import place, reached, upstream_name
from .evidence import Deep, HostSeen, Share
from .finding import Case, Finding, clock
from .looking import members
from .places import Change

ENOUGH = 25  # good answers for each instance of a pool, before a share tells anything
FEW = 10  # answers: a fair share below that may be none by chance
LITTLE = 0.05  # of a fair share
BUSY = 0.8  # of the slots' time
BURST = 60.0  # seconds of work: less is a burst, and soon over
STICKY = ("ip_hash", "hash")


def idle(case: Case) -> Iterator[Finding]:
    """By the access log: an instance that is well and gets next to nothing."""
    for entry in case.plan.entries:
        for pool in entry.pools:
            share = _share(case.seen, entry, pool)
            if share is None or not _all_well(case, pool, share):
                continue
            for member in pool.members:
                served = share.served.get(place(reached(member, case.seen.host), member.port), 0)
                total = sum(share.served.values())
                fair = total * _weight(entry, member) / sum(_weight(entry, m) for m in pool.members)
                if fair < FEW or served > LITTLE * fair:
                    continue
                if _sticky(entry) and not _loaded(share, _slots(pool) // 2 or 1):
                    continue  # that is how it is meant, as long as nobody waits
                yield _idle(case, entry, pool, member, share, (served, total, fair))


def _idle(
    case: Case, entry: Entry, pool: Pool, member: Member, share: Share, counts: tuple[int, int, float]
) -> Finding:
    served, total, fair = counts
    name, strategy = f"{member.host}/{member.instance}", entry.balancer.strategy
    others = ", ".join(f"{server} {count}" for server, count in sorted(share.served.items()))
    change: Change = (entry.balancer.where, "")
    fix = f"`ogen doctor` and `ogen logs` of {member.host}; `ogen restart` of {name}"
    if _sticky(entry):
        fix = f"{strategy} sends a client always to the same instance: strategy: least_conn spreads requests"
        change = case.places.set(entry.balancer.where, "least_conn", "strategy")
    return case.finding(
        "card-idle",
        f"balancer {entry.balancer.name}",
        f"{name} served {served} of the last {total} requests for {pool.name}; {fair:.0f} would be its share",
        [
            f"access log since {clock(share.start)}: {others}",
            f"strategy {strategy}, {share.clients} client{'s' if share.clients != 1 else ''}",
        ],
        fix,
        *change,
    )


def unused(case: Case) -> Iterator[Finding]:
    """A card without a model, while requests wait for one that would fit there."""
    used = {gpu.index for instance in case.plan.instances for gpu in instance.gpus}
    free = [gpu for gpu in case.plan.host.gpus if gpu.state == "in" and gpu.index not in used]
    for gpu in free if case.seen.live else ():
        found = next(((e, p, s) for e, p, s in _shares(case) if _short(p, s) and _fits(case, gpu, p)), None)
        if found is None:
            continue
        entry, pool, share = found
        model = case.whole.inventory.model(pool.name)
        waited = f"{share.waited} waited, the longest {share.longest:.0f} s"
        yield case.finding(
            "card-unused",
            f"card {gpu.index}",
            f"no model is on it, while requests for {pool.name} wait: it has {len(pool.members)} instances",
            [
                f"balancer {entry.balancer.name}: instances worked {share.busy:.0f} s in"
                f" {share.end - share.start:.0f} s, with {_slots(pool)} slots; {waited}"
            ],
            f"one more replica of {pool.name}, or replicas: fill",
            *case.places.set(model.where, len(pool.members) + 1, "replicas"),
        )


# ------------------------------------------------------------------------------------------- shares
def _shares(case: Case) -> Iterator[tuple[Entry, Pool, Share]]:
    """Of all balancers whose hosts were looked at."""
    for entry in case.whole.entries:
        for host in entry.hosts:
            for pool in entry.pools if host in case.others else ():
                share = _share(case.others[host], entry, pool)
                if share is not None:
                    yield entry, pool, share


def _share(seen: HostSeen, entry: Entry, pool: Pool) -> Share | None:
    """A pool's share; the log names pools where requests are read, else there must be but one."""
    name = upstream_name(pool.name)
    for share in (seen.deep or Deep()).shares.get(entry.balancer.name, ()):
        if (
            share.pool == name
            or share.pool.endswith("_" + name)
            or (not share.pool and len(entry.pools) == 1)
        ):
            return share
    return None


def _all_well(case: Case, pool: Pool, share: Share) -> bool:
    """There are enough answers, and each instance could have given its share of them all the time."""
    seen = case.seen
    kept_away = {lease.server for lease in seen.leases}
    failed = {f.upstream for some in (seen.deep or Deep()).failures.values() for f in some}
    places = [place(reached(member, seen.host), member.port) for member in pool.members]
    return (
        len(places) > 1
        and not any(member.backup for member in pool.members)
        and sum(share.served.values()) >= ENOUGH * len(places)
        and not {*kept_away, *failed} & set(places)
        and set(share.served) <= set(members_of(case))
        and all(_up_since(case.others, member, share.start, seen) for member in pool.members)
    )


def members_of(case: Case) -> Mapping[str, str]:
    return {place(*where): name for where, name in members(case.whole, case.seen.host).items()}


def _up_since(others: Mapping[str, HostSeen], member: Member, start: float, here: HostSeen) -> bool:
    host = others.get(member.host)
    one = next((i for i in host.instances if i.name == member.instance), None) if host else None
    unit = host.units.get(one.unit) if host and one else None
    age = unit.age if unit and unit.up else None
    return bool(one) and not (one and one.error) and age is not None and here.time - age < start


def _weight(entry: Entry, member: Member) -> int:
    return max(1, member.slots if entry.balancer.gate else member.weight)


def _sticky(entry: Entry) -> bool:
    return entry.balancer.strategy in STICKY


def _slots(pool: Pool) -> int:
    return sum(member.slots for member in pool.members)


def _loaded(share: Share, slots: int) -> bool:
    return share.busy >= max(BURST, BUSY * slots * (share.end - share.start))


def _short(pool: Pool, share: Share) -> bool:
    """All slots are busy nearly all the time, or one of ten requests waits for one."""
    count = sum(share.served.values())
    return count >= ENOUGH and (_loaded(share, _slots(pool)) or share.waited * 10 >= count)


def _fits(case: Case, gpu: Gpu, pool: Pool) -> bool:
    inventory = case.whole.inventory
    model = next((m for m in inventory.models if m.name == pool.name), None)
    if model is None or model.replicas == "fill":
        return False
    try:
        here = case.plan.host in hosts_matching(inventory, model.on)
    except UsageError:
        return False
    fitter = Fitter(case.ladder.candidates)
    return here and isinstance(fitter.fit(model, case.plan.host, (gpu,)), Fit)


FINDERS = (idle, unused)
