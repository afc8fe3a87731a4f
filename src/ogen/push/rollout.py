"""Over hosts: look at all of them, then expand → switch → contract.

expand: hosts that lose no instance. switch: hosts with balancers. contract: hosts that lose one, when
nobody routes to it any more. A balancer is switched only if every instance that it will list is in
force: if the host of one failed and does not serve that instance from its old release, the balancer
keeps its old configuration (`withheld`), and so do the hosts that would lose an instance.

A balancer may share its host with instances. Such a host is switched when what it lists serves; one that
loses an instance comes last. Hosts that list each other's new instances are switched together: until
both are through, nginx passes over the server that is not up yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ..errors import ConnectError, HostError, LockedError, RemoteError, RolledBack
from .contact import Contact, contact
from .leases import Leases, Pools
from .results import (
    Comparison,
    Event,
    HostResult,
    OnEvent,
    Options,
    Outcome,
    Status,
    Target,
    ignore,
)

T = TypeVar("T")
R = TypeVar("R")


def loses(target: Target, seen: Comparison) -> bool:
    """Whether an instance that is in force now is no longer wanted."""
    return bool(set(seen.instances) - {p.instance for p in target.release.instances})


def stages(targets: Sequence[Target], seen: Mapping[str, Comparison]) -> tuple[list[Target], ...]:
    """expand, switch, contract; hosts that were not seen, or have nothing to do, are in none."""
    expand: list[Target] = []
    switch: list[Target] = []
    contract: list[Target] = []
    for target in targets:
        found = seen.get(target.host.name)
        if found is None or found.unchanged:
            continue
        if target.release.balancers:
            switch.append(target)
        elif loses(target, found):
            contract.append(target)
        else:
            expand.append(target)
    return expand, switch, contract


def swaps(
    switch: Sequence[Target], contract: Sequence[Target], seen: Mapping[str, Comparison]
) -> list[Target]:
    """Hosts that lose an instance and gain one that a balancer is to list: two cards become one instance,
    say. They can't wait for the balancer that waits for them; nginx passes over the servers that are gone."""
    needed = {need for target in switch for need in target.needs}
    return [
        t
        for t in contract
        if any(
            (t.host.name, p.instance) in needed and p.instance not in seen[t.host.name].instances
            for p in t.release.instances
        )
    ]


def in_force(
    targets: Sequence[Target], seen: Mapping[str, Comparison], results: Mapping[str, HostResult]
) -> frozenset[tuple[str, str]]:
    """(host, instance) that serve now: the new ones where it went well, else the old ones."""
    found: set[tuple[str, str]] = set()
    for target in targets:
        name = target.host.name
        result, before = results.get(name), seen.get(name)
        if (result and result.status in ("applied", "unchanged")) or (before and before.unchanged):
            found |= {(name, p.instance) for p in target.release.instances}
        elif before:
            found |= {(name, instance) for instance in before.instances}
    return frozenset(found)


def lacking(target: Target, targets: Sequence[Target], serving: frozenset[tuple[str, str]]) -> list[str]:
    """Instances that a balancer host's release lists, but that are not in force.

    Instances of hosts that are not part of this rollout are taken to be as they were.
    """
    ours = {t.host.name for t in targets if t is not target}
    return sorted(f"{h}/{i}" for h, i in target.needs if h in ours and (h, i) not in serving)


def together(waiting: Sequence[Target], lack: Mapping[str, Sequence[str]]) -> list[Target]:
    """Hosts that lack nothing but each other's new instances."""
    found = list(waiting)
    while True:
        coming = {f"{t.host.name}/{p.instance}" for t in found for p in t.release.instances}
        kept = [t for t in found if coming.issuperset(lack[t.host.name])]
        if kept == found:
            return found
        found = kept


def each(items: Iterable[T], work: Callable[[T], R], parallel: int) -> list[R]:
    """`work` on all items in threads, results in order."""
    todo = list(items)
    if len(todo) < 2:
        return [work(item) for item in todo]
    with ThreadPoolExecutor(max_workers=max(1, min(parallel, len(todo)))) as pool:
        return list(pool.map(work, todo))


_WITHHELD = (
    "mend those hosts, or set them to `state: out`, then apply again; --limit '!NAME' goes on without one"
)

_STATUS: Mapping[type[HostError], Status] = {
    ConnectError: "unreachable",
    LockedError: "locked",
    RolledBack: "rolled_back",
}


def failure(error: HostError, seconds: float = 0.0, seen: Comparison | None = None) -> HostResult:
    status: Status = _STATUS.get(type(error), "failed")
    before = seen.current if seen else None
    return HostResult(
        error.host, status, error.message, error, before, before, round(seconds, 2), comparison=seen
    )


@dataclass
class Rollout:
    """One run over the targets. Connections stay open from the first look to the host's own apply."""

    targets: Sequence[Target]
    options: Options
    on_event: OnEvent = ignore
    pools: Pools = field(default_factory=Pools)
    results: dict[str, HostResult] = field(default_factory=dict)
    seen: dict[str, Comparison] = field(default_factory=dict)
    contacts: dict[str, Contact] = field(default_factory=dict)

    def run(self) -> Outcome:
        with ExitStack() as stack:
            self.look(stack)
            self.leases = stack.enter_context(
                Leases(self.pools, self.options, self.serving, self.on_event, self.options.outage)
            )
            self.unchanged()
            expand, switch, contract = stages(self.targets, self.seen)
            self.apply(expand)
            self.apply(self.after([], swaps(switch, contract, self.seen)))
            self.switch(switch)
            self.leases.release()
            self.apply(self.after(switch, [t for t in contract if t.host.name not in self.results]))
        return Outcome(tuple(self.results[t.host.name] for t in self.targets))

    def serving(self) -> frozenset[tuple[str, str]]:
        """Members of pools that serve now; those of hosts outside of this rollout are taken to."""
        ours = {t.host.name for t in self.targets}
        everyone = frozenset(m for members in self.pools.members.values() for m in members)
        return in_force(self.targets, self.seen, self.results) | {m for m in everyone if m[0] not in ours}

    def look(self, stack: ExitStack) -> None:
        """Connects to all hosts and compares; what can't be reached is a result already."""
        for target, contact_, found in each(self.targets, self._look, self.options.parallel):
            name = target.host.name
            if isinstance(found, HostResult):
                self.results[name] = found
            elif contact_ is not None:
                stack.enter_context(contact_.closing)
                self.seen[name], self.contacts[name] = found, contact_.contact

    def _look(self, target: Target) -> tuple[Target, _Open | None, Comparison | HostResult]:
        begun = time.monotonic()
        stack = ExitStack()
        try:
            one = stack.enter_context(contact(target.host, self.options, self.on_event))
            one.tell("compare")
            return target, _Open(one, stack), one.compare(target.release, text=False)
        except HostError as error:
            stack.close()
            self.on_event(Event(target.host.name, "done", str(error)))
            return target, None, failure(error, time.monotonic() - begun)
        except BaseException:
            stack.close()
            raise

    def unchanged(self) -> None:
        for name, found in self.seen.items():
            if found.locked:
                error = LockedError(f"another rollout holds this host: {found.locked}", host=name)
                self.results[name] = failure(error, seen=found)
            elif found.unchanged:
                self.on_event(Event(name, "done", "unchanged"))
                self.results[name] = HostResult(
                    name, "unchanged", before=found.current, after=found.current, comparison=found
                )

    def apply(self, targets: Sequence[Target]) -> None:
        todo = [t for t in targets if t.host.name not in self.results]
        for result in each(todo, self._apply, self.options.parallel):
            self.results[result.host] = result
            self.on_event(Event(result.host, "done", result.message or result.status))

    def _apply(self, target: Target) -> HostResult:
        begun, name = time.monotonic(), target.host.name
        seen = self.seen[name]
        if self.options.stop.is_set():
            error: HostError = RemoteError("not started: interrupted", host=name)
            return replace(failure(error, seen=seen), status="withheld")
        gone = set(seen.instances) - {p.instance for p in target.release.instances}
        try:
            with self.leases.held_for(name, keep=gone) as grants:
                done = self.contacts[name].apply(target.release, seen, target.uploads, grants)
        except HostError as failed:
            return failure(failed, time.monotonic() - begun, seen)
        return HostResult(
            name,
            "applied",
            done.get("message", ""),
            before=done["from"],
            after=done["to"],
            seconds=round(time.monotonic() - begun, 2),
            restarted=tuple(done["restarted"]),
            skipped=tuple(done.get("skipped", ())),
            comparison=seen,
        )

    def switch(self, hosts: Sequence[Target]) -> None:
        """Balancer hosts, in waves as what they list comes into force; what never does is withheld."""
        waiting = list(hosts)
        while waiting:
            ready, lack = self.ready(waiting)
            if not ready:
                for target in waiting:
                    names = ", ".join(lack[target.host.name])
                    self._withhold(target, f"keeps its configuration: not in force are {names}")
                return
            waiting = [t for t in waiting if t not in ready]
            losing = [t for t in ready if loses(t, self.seen[t.host.name])]
            kept = self.after(hosts, losing) if losing else []
            self.apply([t for t in ready if t in kept or t not in losing])

    def ready(self, waiting: Sequence[Target]) -> tuple[list[Target], dict[str, list[str]]]:
        """Those of the balancer hosts that may be switched now, and what each still lacks."""
        serving = in_force(self.targets, self.seen, self.results)
        lack = {t.host.name: lacking(t, self.targets, serving) for t in waiting}
        able = [t for t in waiting if not lack[t.host.name]]
        if able:
            return [t for t in able if not loses(t, self.seen[t.host.name])] or able, lack
        return together(waiting, lack), lack

    def after(self, switch: Sequence[Target], contract: Sequence[Target]) -> Sequence[Target]:
        """Hosts that lose an instance, unless some balancer was not switched."""
        done = [self.results[t.host.name] for t in switch if t.host.name in self.results]
        late = [result.host for result in done if result.error]
        unknown = [t.host.name for t in self.targets if t.release.balancers and t.host.name not in self.seen]
        if not late and not unknown:
            return contract
        for target in contract:
            names = ", ".join(sorted({*late, *unknown}))
            self._withhold(target, f"keeps its instances: balancers were not switched ({names})")
        return []

    def _withhold(self, target: Target, message: str) -> None:
        name = target.host.name
        if name in self.results:
            return
        error = RemoteError(message, host=name, hint=_WITHHELD)
        self.results[name] = replace(failure(error, seen=self.seen.get(name)), status="withheld")
        self.on_event(Event(name, "done", message))


@dataclass
class _Open:
    """A contact with what closes it."""

    contact: Contact
    closing: ExitStack
