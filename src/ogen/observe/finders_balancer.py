"""Findings about balancers: what they serve, what they reach, what failed behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..errors import Where
from ..inventory.model import Balancer
from ..render.upstreams import place
from .evidence import Failure, Line
from .finding import Case, Finding, clock, quoted
from .looking import members
from .places import Change

SHORT = 10.0  # seconds: who leaves earlier is a person that has read enough
MANY = 5  # requests
FEW = 3
QUIET = 60.0  # seconds without a word to any request, while the cards do nothing: a runner hangs
QUIET_BUSY = 600.0  # and where they compute, or don't tell
LATELY = 900.0  # seconds: one that hangs is tried again and again
IDLE = 5.0  # percent of a card's time
SETTLED = 60.0  # seconds after an instance's start whose failures are those of the start


def configuration(case: Case) -> Iterator[Finding]:
    for balancer in case.seen.balancers:
        if case.seen.live and case.unit(balancer.unit).up and balancer.serves != balancer.wanted:
            serves = balancer.serves or "nothing"
            yield case.finding(
                "balancer-stale",
                f"balancer {balancer.name}",
                "nginx does not serve the configuration in force: a reload failed",
                [
                    f"GET /release: {serves}, in force {balancer.wanted}",
                    *quoted(_errors(case, balancer.unit)),
                ],
                f"journalctl -u {balancer.unit}; then ogen apply",
                _place(case, balancer.name),
            )


def reach(case: Case) -> Iterator[Finding]:
    reached = case.seen.deep.reached if case.seen.deep else {}
    names = members(case.whole, case.seen.host)
    for where, why in reached.items():
        member = names.get(where, place(*where))
        if why and not _absent(case, member):
            yield case.finding(
                "unreachable-member",
                "",
                f"{member} does not answer to the balancer on this host",
                [f"GET http://{place(*where)}/api/version: {why}"],
                f"look at {member}; a firewall, or another data_address, if it answers on its own host",
                _member_place(case, member),
            )


def kept_away(case: Case) -> Iterator[Finding]:
    """A lease has ended, and the balancers still send nothing: the probe fails."""
    names = _servers(case)
    for lease in case.seen.leases:
        if not lease.left and not lease.why and lease.server in names:
            member = names[lease.server]
            yield case.finding(
                "not-back",
                "",
                f"balancers here send nothing to {member}: its lease has ended, but it fails the probe",
                [f"returning: {lease.server}; GET /api/tags must answer, and list the pool's models"],
                f"`ogen logs` of {member}; it comes back by itself when it answers",
                _member_place(case, member),
            )


def failing(case: Case) -> Iterator[Finding]:
    """What the prober has found: the balancers send nothing there, or must, since nobody else is left."""
    names = _servers(case)
    for lease in case.seen.leases:
        if lease.why and lease.server in names:
            member = names[lease.server]
            how = "still send to it, its pool has no other" if lease.kept else "send nothing to it"
            yield case.finding(
                "probe-fails",
                "",
                f"{member} fails the probes of this host, whose balancers {how}",
                [f"{lease.server}: {lease.why}"],
                f"`ogen logs` and `ogen doctor` of {member.partition('/')[0]}; `ogen restart` of {member}",
                _member_place(case, member),
            )


def _servers(case: Case) -> dict[str, str]:
    """Members by the name that nginx has for them."""
    return {place(*where): member for where, member in members(case.whole, case.seen.host).items()}


def failures(case: Case) -> Iterator[Finding]:
    """Tries that failed since the instance is up: those while it started were its start's."""
    names = _servers(case)
    for balancer, all_failures in (case.seen.deep.failures if case.seen.deep else {}).items():
        for upstream in sorted({failure.upstream for failure in all_failures}):
            member = names.get(upstream)
            if member is None:
                continue  # of an earlier release, or nginx's name of a whole pool
            found = [f for f in all_failures if f.upstream == upstream and f.time > _settled(case, member)]
            late = [f for f in found if f.status == "504"]
            other = [f for f in found if f.status != "504"]
            if late:
                yield _failed(case, balancer, member, "upstream-timeout", "gave no answer in time", late)
            if other:
                yield _failed(case, balancer, member, "upstream-fails", "failed requests", other)


def hanging(case: Case) -> Iterator[Finding]:
    """Nobody else sees it: /api/ps and a load of what is loaded are answered without the runner."""
    names = _servers(case)
    for balancer, rows in (case.seen.deep.silent if case.seen.deep else {}).items():
        for one in rows:
            member = names.get(one.server, "")
            busy = _computes(case, member) if member else None
            if one.count < FEW or one.since <= _settled(case, member) or busy is None:
                continue
            if one.until - one.since < (QUIET_BUSY if busy else QUIET) or case.seen.time - one.until > LATELY:
                continue
            where = f" ({one.pool})" if one.pool else ""
            idle = "; its cards do nothing" if not busy else ""
            yield case.finding(
                "runner-hangs",
                f"balancer {balancer}",
                f"{member} answers the probes, but none of the last {one.count} requests",
                [
                    f"access log: {one.count} requests to {one.server}{where} without a word from"
                    f" {clock(one.since)} to {clock(one.until)}{idle}"
                ],
                f"`ogen restart` of {member} ends it; its log, and dmesg (NVRM: Xid), may say why",
                _member_place(case, member),
            )


def _computes(case: Case, member: str) -> bool | None:
    """Whether an instance's cards compute, or may; None where it is not up, or no model is in its memory."""
    host, _, name = member.partition("/")
    other = case.others.get(host)
    found = next((i for i in other.instances if i.name == name), None) if other else None
    if other is None or found is None or found.error or not found.models:
        return None
    busy = [c.busy for c in other.cards if c.uuid in found.gpus or str(c.index) in found.gpus]
    return not busy or any(share is None or share > IDLE for share in busy)


def _failed(
    case: Case, balancer: str, member: str, kind: str, what: str, found: Sequence[Failure]
) -> Finding:
    fixes = {
        "upstream-timeout": "read_timeout of the balancer, if answers may take so long; else ogen logs of it",
        "upstream-fails": f"ogen logs and ogen doctor of {member.partition('/')[0]} say why",
    }
    where, sets = _member_place(case, member), ""
    if kind == "upstream-timeout":
        longer = f"{2 * _balancer(case, balancer).read_timeout:.0f}s"
        where, sets = _set(case, balancer, longer, "read_timeout")
    return case.finding(
        kind,
        f"balancer {balancer}",
        f"{member} {what}: {len(found)} times, last at {clock(found[-1].time)}",
        [f"{clock(f.time)} upstream {f.upstream} status {f.status}" for f in found[-3:]],
        fixes[kind],
        where,
        sets,
    )


def nobody(case: Case) -> Iterator[Finding]:
    """All instances of a pool counted as dead at once."""
    start = max(
        (_settled(case, member) for member in members(case.whole, case.seen.host).values()), default=0
    )
    for balancer in case.seen.balancers:
        lines = [line for line in case.log(balancer.unit).lines if "no live upstreams" in line.text]
        found = [line for line in lines if line.time > start]
        if found:
            yield case.finding(
                "no-live-upstreams",
                f"balancer {balancer.name}",
                f"{len(found)} requests found no instance alive in their pool",
                quoted(found),
                "one more replica in another host; a longer read_timeout, if slow answers count as failures",
                _place(case, balancer.name),
            )


def bodies(case: Case) -> Iterator[Finding]:
    for balancer, statuses in (case.seen.deep.statuses if case.seen.deep else {}).items():
        if statuses.get("413"):
            yield case.finding(
                "body-too-large",
                f"balancer {balancer}",
                f"{statuses['413']} requests were larger than max_body (413)",
                [f"access log: status 413, {statuses['413']} times"],
                "a larger max_body",
                *_set(case, balancer, f"{2 * _balancer(case, balancer).max_body >> 20}MiB", "max_body"),
            )


def left(case: Case) -> Iterator[Finding]:
    """Clients, or a proxy before the balancer, that give up after always the same time."""
    for balancer, gone in (case.seen.deep.gone if case.seen.deep else {}).items():
        spans = sorted(seconds for _, seconds in gone if seconds >= SHORT)
        same = max(([s for s in spans if at <= s <= at + 1.0] for at in spans), key=len, default=[])
        if len(same) >= max(MANY, len(spans) / 3):  # people leave at any time
            yield case.finding(
                "client-timeout",
                f"balancer {balancer}",
                f"{len(same)} clients left after {same[0]:.0f} s without waiting for the end of their answer",
                [f"access log: status 499 after {min(same):.1f} to {max(same):.1f} s, {len(same)} times"],
                f"a proxy before the balancer, or the client's library, gives up after {same[0]:.0f} s: raise"
                " that; streamed answers begin at once",
                _place(case, balancer),
            )


def turned_away(case: Case) -> Iterator[Finding]:
    """What the gate itself answered 503: its queue was full, or no slot came free in time."""
    for balancer, own in (case.seen.deep.own if case.seen.deep else {}).items():
        planned = next((e.balancer for e in case.plan.entries if e.balancer.name == balancer), None)
        if planned and planned.gate and own.get("503"):
            yield case.finding(
                "queue-full",
                f"balancer {balancer}",
                f"{own['503']} requests were turned away by the gate: too many waited, or for too long (503)",
                [f"access log: status 503 without an instance, {own['503']} times"],
                "more replicas of the model; a longer gate.queue or gate.wait if clients may wait so long",
                *_set(case, balancer, 2 * planned.gate.queue, "gate", "queue"),
            )


def _absent(case: Case, member: str) -> bool:
    """Its host was looked at, and has no such instance yet: that is what an apply is for."""
    host, _, name = member.partition("/")
    other = case.others.get(host)
    return other is not None and all(one.name != name for one in other.instances)


def _settled(case: Case, member: str) -> float:
    """When an instance counted as started, by this host's clock; 0 if that is unknown."""
    host, _, name = member.partition("/")
    other = case.others.get(host)
    found = next((i for i in other.instances if i.name == name), None) if other else None
    if other is None or found is None:
        return 0.0
    age = (other.units[found.unit].age if found.unit in other.units else None) or 0.0
    return case.seen.time - age + SETTLED


def _errors(case: Case, unit: str) -> list[Line]:
    log = case.log(unit)
    return [line for line in log.last if "[emerg]" in line.text or "[alert]" in line.text]


def _balancer(case: Case, name: str) -> Balancer:
    return next((e.balancer for e in case.plan.entries if e.balancer.name == name), Balancer(name, ""))


def _place(case: Case, balancer: str) -> Where | None:
    return _balancer(case, balancer).where


def _set(case: Case, balancer: str, value: object, *path: str) -> Change:
    return case.places.set(_place(case, balancer), value, *path)


def _member_place(case: Case, member: str) -> Where | None:
    name = member.partition("/")[0]
    return next((h.host.where for h in case.whole.hosts if h.host.name == name), None)


FINDERS = (configuration, reach, kept_away, failing, failures, hanging, nobody, bodies, left, turned_away)
