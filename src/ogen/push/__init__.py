"""Hosts over SSH or on this machine: look, compare, apply, roll back; by an agent that is sent along.

Nothing here imports paramiko until a host is contacted through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import HostError
from ..inventory.model import Host
from . import closing
from .access import Keyring
from .contact import Contact, contact
from .leases import Leases
from .pools import Pools, pools_of
from .results import (
    WELL,
    Comparison,
    Event,
    HostResult,
    OnEvent,
    Options,
    Outcome,
    Seen,
    Status,
    Target,
    Unused,
    ignore,
)
from .rollout import Rollout, each, failure

if TYPE_CHECKING:
    from ..plan.model import Plan
    from ..release.model import Release
    from ..render import Reveal
    from .around import Around

__all__ = [
    "WELL",
    "Comparison",
    "Contact",
    "Event",
    "HostResult",
    "Keyring",
    "OnEvent",
    "Options",
    "Outcome",
    "Pools",
    "Rollout",
    "Seen",
    "Status",
    "Target",
    "Unused",
    "apply",
    "collect",
    "compare",
    "contact",
    "foresee",
    "hello",
    "history",
    "observe",
    "pools_of",
    "prune",
    "rollback",
    "targets",
    "unused",
]

R = TypeVar("R")
_DEFAULT = Options()
_NOBODY = Pools()


def targets(plan: Plan, releases: Iterable[Release], secrets: Reveal | None = None) -> tuple[Target, ...]:
    """Releases with their hosts, the instances that their balancers list, and files to send for models.

    With `secrets`, a balancer's release can be rendered anew without what does not come into force.
    """
    from .listing import Listing  # with the planner and the templates
    from .mirror import shelf_of
    from .uploads import resolve

    by_host = {r.host: r for r in releases}
    shelf = shelf_of(plan)
    found = []
    for host in plan.hosts:
        name = host.host.name
        if name in by_host:
            release, files = resolve(plan, host, by_host[name])
            listing = Listing(plan, name, secrets) if secrets and host.entries else None
            supply, kept = shelf.supply(release) if shelf else ({}, {})
            target = Target(host.host, release, _needs(plan, name), {**kept, **files}, supply, listing)
            found.append(target)
    return tuple(found)


def _needs(plan: Plan, name: str) -> frozenset[tuple[str, str]]:
    entries = [e for e in plan.entries if name in e.hosts]
    return frozenset((m.host, m.instance) for e in entries for p in e.pools for m in p.members)


def hello(
    hosts: Sequence[Host], options: Options = _DEFAULT, on_event: OnEvent = ignore
) -> dict[str, Mapping[str, Any] | HostError]:
    """The facts of each host, or the error that kept us from them."""
    return _ask(hosts, options, on_event, lambda one: one.hello())


def observe(
    hosts: Sequence[Host], sources: Sequence[str], options: Options = _DEFAULT, on_event: OnEvent = ignore
) -> dict[str, Mapping[str, Any] | HostError]:
    """The facts of each host, with `models`: digest and size of those sources that it holds."""

    def one(opened: Contact) -> Mapping[str, Any]:
        return {**opened.hello(), "models": opened.stored(sources)}

    return _ask(hosts, options, on_event, one)


def compare(
    wanted: Sequence[Target],
    options: Options = _DEFAULT,
    on_event: OnEvent = ignore,
    around: Around | None = None,
) -> dict[str, Comparison | HostError]:
    """Each host against its release, with the texts of what differs; changes nothing. `around` holds
    afterwards what the play's other tasks would do."""
    releases = {t.host.name: t.release for t in wanted}

    def one(opened: Contact) -> Comparison:
        release = releases[opened.host.name]
        found = opened.compare(release)
        if around:
            around.prepare(opened)
            around.foresee(opened, [unit.name for unit in release.units], changed=not found.unchanged)
        return found

    return _ask([t.host for t in wanted], options, on_event, one)


def apply(
    wanted: Sequence[Target],
    options: Options = _DEFAULT,
    on_event: OnEvent = ignore,
    pools: Pools = _NOBODY,
    around: Around | None = None,
) -> Outcome:
    """The rollout: expand → switch → contract. Errors of hosts are results, not exceptions.

    `pools` (of the plan: `pools_of`) tell who must be kept away from an instance before it restarts.
    """
    return Rollout(wanted, options, on_event, pools, around=around).run()


def rollback(
    hosts: Sequence[Host],
    to: str | Mapping[str, str | None] | None = None,
    options: Options = _DEFAULT,
    on_event: OnEvent = ignore,
    pools: Pools = _NOBODY,
    around: Around | None = None,
) -> Outcome:
    """Each host to its previous release, or to the one named (by host, or the same for all).

    Instances restart as in an apply: `pools` tell from whom requests must be kept meanwhile. `around`: the
    tasks of a play before and after each host's transaction.
    """
    everyone = frozenset(member for members in pools.members.values() for member in members)
    with Leases(pools, options, lambda: everyone, on_event, options.outage) as leases:

        def one(host: Contact) -> Mapping[str, Any]:
            name = host.host.name
            goal = to.get(name) if isinstance(to, Mapping) else to
            if around:
                around.before(host)
            with leases.held_for(name) as grants:
                found = host.rollback(goal, grants)
            if around:
                around.after(host, changed=True)
            return found

        with ExitStack() as stack:
            reached = _reach(hosts, options, on_event, stack, around)
            found = _with(reached, one, options)
            results = {host.name: _rolled(host, found[host.name]) for host in hosts}
            if around:
                results = {name: around.told(result) for name, result in results.items()}
            return Outcome(tuple(_closed(hosts, reached, found, results, options, pools)))


def foresee(hosts: Sequence[Host], options: Options, around: Around) -> list[HostError]:
    """What the play's tasks would do, which `around` holds then; why a host can't tell."""

    def one(opened: Contact) -> None:
        around.prepare(opened)
        around.foresee(opened, (), changed=True)

    answers = _ask(hosts, options, ignore, one)
    return [answer for answer in answers.values() if isinstance(answer, HostError)]


def _closed(
    hosts: Sequence[Host],
    reached: Mapping[str, Contact | HostError],
    found: Mapping[str, Mapping[str, Any] | HostError],
    results: Mapping[str, HostResult],
    options: Options,
    pools: Pools,
) -> Iterator[HostResult]:
    """The results, when instances have stopped letting in balancers that are none in the earlier releases."""
    late = [name for name, result in results.items() if not result.serves]
    keep = closing.balancing(pools, hosts, results)

    def one(opened: Contact) -> str:
        done = found[opened.host.name]
        addresses = () if isinstance(done, HostError) else closing.leaving(done)
        return "" if addresses == () else closing.close(opened, addresses, keep, late)

    said = _with(reached, one, options)
    for name, result in results.items():
        yield result if not result.serves or not said[name] else closing.noted(result, said[name])


def _rolled(host: Host, found: Mapping[str, Any] | HostError) -> HostResult:
    if isinstance(found, HostError):
        return failure(found)
    return HostResult(
        host.name,
        "applied",
        before=found["from"],
        after=found["to"],
        seconds=found["seconds"],
        restarted=tuple(found["restarted"]),
    )


def history(
    hosts: Sequence[Host], options: Options = _DEFAULT, on_event: OnEvent = ignore
) -> dict[str, list[dict[str, Any]] | HostError]:
    """The audit of each host, oldest first."""
    return _ask(hosts, options, on_event, lambda one: one.history())


def collect(
    hosts: Sequence[Host], options: Options = _DEFAULT, on_event: OnEvent = ignore
) -> dict[str, list[str] | HostError]:
    """Removes releases that no host needs any more; their names."""
    return _ask(hosts, options, on_event, lambda one: one.collect())


def unused(
    hosts: Sequence[Host], options: Options = _DEFAULT, on_event: OnEvent = ignore
) -> dict[str, Unused | HostError]:
    """Models that no release of a host needs."""
    return _ask(hosts, options, on_event, lambda one: Unused.of(one.unused()))


def prune(
    hosts: Sequence[Host], options: Options = _DEFAULT, on_event: OnEvent = ignore
) -> dict[str, Unused | HostError]:
    """Removes them; what went."""
    return _ask(hosts, options, on_event, lambda one: Unused.of(one.prune()))


def _reach(
    hosts: Sequence[Host], options: Options, on_event: OnEvent, stack: ExitStack, around: Around | None
) -> dict[str, Contact | HostError]:
    """All hosts as root, before anything is changed on any of them; `stack` keeps the connections."""

    def one(host: Host) -> Contact | HostError:
        try:
            found = stack.enter_context(contact(host, options, on_event))
            if around:
                around.prepare(found)
            return found
        except HostError as error:
            return error

    return dict(zip((h.name for h in hosts), each(hosts, one, options.parallel), strict=True))


def _with(
    reached: Mapping[str, Contact | HostError], work: Callable[[Contact], R], options: Options
) -> dict[str, R | HostError]:
    def one(found: Contact | HostError) -> R | HostError:
        if isinstance(found, HostError):
            return found
        try:
            return work(found)
        except HostError as error:
            return error

    return dict(zip(reached, each(reached.values(), one, options.parallel), strict=True))


def _ask(
    hosts: Sequence[Host], options: Options, on_event: OnEvent, work: Callable[[Contact], R]
) -> dict[str, R | HostError]:
    """`work` with each host in threads."""

    def one(host: Host) -> R | HostError:
        try:
            with contact(host, options, on_event) as opened:
                return work(opened)
        except HostError as error:
            return error

    return dict(zip((h.name for h in hosts), each(hosts, one, options.parallel), strict=True))
