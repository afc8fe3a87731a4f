"""Over hosts: look at all of them, then expand → switch → contract.

expand: hosts that lose no instance. switch: hosts with balancers. contract: hosts that lose an instance or
their balancer, when nobody routes to it any more; then instances stop letting in the balancers that are
gone. Hosts with instances change in batches (`batches`), the first being the canary: if a host of it fails,
no other host with instances is started, and neither if more than `max_fail` did.

A balancer is switched when every instance that it will list is in force. If some never will be, because
their host failed or was not started, it gets the release without them, and the next apply puts them in.
Only if a pool would be left without an instance it keeps its old configuration (`withheld`), and hosts that
would lose an instance keep theirs.

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
from typing import TYPE_CHECKING, TypeVar

from ..errors import ConnectError, HostError, LockedError, OfflineError, RemoteError, RolledBack
from . import closing
from .batches import cut, share
from .contact import Contact, contact
from .force import in_force, sheds, stages, swaps
from .leases import Leases
from .pools import Pools
from .results import (
    CONSEQUENCE,
    WELL,
    Comparison,
    Event,
    HostResult,
    OnEvent,
    Options,
    Outcome,
    Status,
    Target,
    Unused,
    ignore,
)
from .supplies import Origins, Supplies
from .switch import Switch
from .turns import Turns

if TYPE_CHECKING:
    from .around import Around

T = TypeVar("T")
R = TypeVar("R")


def each(items: Iterable[T], work: Callable[[T], R], parallel: int) -> list[R]:
    """`work` on all items in threads, results in order."""
    todo = list(items)
    if len(todo) < 2:
        return [work(item) for item in todo]
    with ThreadPoolExecutor(max_workers=max(1, min(parallel, len(todo)))) as pool:
        return list(pool.map(work, todo))


_STATUS: Mapping[type[HostError], Status] = {
    ConnectError: "unreachable",
    LockedError: "locked",
    RolledBack: "rolled_back",
}


def failed(result: HostResult) -> bool:
    """Whether it counts against `max_fail`."""
    return result.status not in WELL | CONSEQUENCE


def done(result: HostResult) -> Event:
    """How a host ended, in a line: what became of it, and why."""
    word = result.status.replace("_", " ")
    return Event(result.host, "done", f"{word}: {result.message}" if result.message else word)


def unprepared(host: str, program: str) -> RolledBack:
    """For a host whose release names an Ollama that is not there."""
    hint = "run `ogen provision` first: it puts this version beside the others"
    return RolledBack(f"refused before anything changed: {program} is not on this host", host=host, hint=hint)


def no_room(host: str, why: str) -> RolledBack:
    """For a host whose disk does not take the models of its release."""
    from ..agent.librarian import NO_ROOM

    return RolledBack(f"refused before anything changed: {why}", host=host, hint=NO_ROOM)


def failure(error: HostError, seconds: float = 0.0, seen: Comparison | None = None) -> HostResult:
    kind = next((k for k in type(error).__mro__ if k in _STATUS), None)
    status: Status = _STATUS[kind] if kind else "failed"
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
    origins: Origins = field(default_factory=Origins)
    around: Around | None = None  # the tasks of a play before and after each host's transaction
    results: dict[str, HostResult] = field(default_factory=dict)
    seen: dict[str, Comparison] = field(default_factory=dict)
    contacts: dict[str, Contact] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)  # hosts whose transaction was started
    counted: int = 0  # hosts that have something to do, or could not say whether they have
    canaries: tuple[str, ...] = ()  # those that failed
    leaving: dict[str, Sequence[str] | None] = field(default_factory=dict)  # host → what it still admits
    without: dict[str, tuple[str, ...]] = field(default_factory=dict)  # balancer host → what it can't list

    def __post_init__(self) -> None:
        self.turns = Turns(self.options.downloads)
        self.supplies = Supplies(self, self.origins)

    def run(self) -> Outcome:
        with ExitStack() as stack:
            self.look(stack)
            self.leases = stack.enter_context(
                Leases(self.pools, self.options, self.serving, self.on_event, self.options.outage)
            )
            self.unchanged()
            self.supplies.prepare(stack)
            expand, switch, contract = stages(self.targets, self.seen, list(filter(self.tasks, self.seen)))
            balancers = Switch(self, switch)
            self.batches("expand", expand)
            self.batches("expand", balancers.before(swaps(switch, contract, self.seen)))
            balancers.run()
            balancers.settle()
            self.leases.release()
            self.contract(balancers, [t for t in contract if not self.ended(t)])
            self.close(balancers.late())
        return self.outcome()

    def contract(self, balancers: Switch, targets: Sequence[Target]) -> None:
        """Balancers before instances: the old one may list the old instance."""
        first = [t for t in targets if sheds(t, self.seen[t.host.name])]
        self.batches("contract", balancers.after(first))
        self.batches("contract", balancers.after([t for t in targets if t not in first], first))

    def close(self, late: Sequence[str]) -> None:
        """Where instances still let in balancers of the release before, they let in nobody else any more."""
        keep = closing.balancing(self.pools, [t.host for t in self.targets], self.results)

        def one(name: str) -> str | HostError:
            try:
                return closing.close(self.contacts[name], self.leaving[name], keep, late)
            except HostError as error:
                return error

        names = [name for name, addresses in self.leaving.items() if addresses != ()]
        for name, found in zip(names, each(names, one, self.options.parallel), strict=True):
            if found:
                self.results[name] = closing.noted(self.results[name], found)
                self.on_event(done(self.results[name]))

    def outcome(self) -> Outcome:
        """How it stands; in the end, or when nobody watches any longer."""
        return Outcome(tuple(self.results.get(t.host.name) or self._open_end(t) for t in self.targets))

    def _open_end(self, target: Target) -> HostResult:
        name = target.host.name
        if name not in self.begun:
            return self._not_started(target, "interrupted")
        error = RemoteError(
            "was at work when nobody watched any longer; the host ends its own transaction",
            host=name,
            hint="`ogen history` tells how it ended; `ogen apply --failed` goes on",
        )
        return replace(failure(error, seen=self.seen.get(name)), status="interrupted")

    def ended(self, target: Target) -> bool:
        return target.host.name in self.results

    def end(self, result: HostResult) -> None:
        result = replace(result, without=self.without.get(result.host, ()))
        result = self.around.told(result) if self.around else result
        self.results[result.host] = result
        self.on_event(done(result))

    def fail(self, error: HostError, status: Status | None = None) -> None:
        result = failure(error, seen=self.seen.get(error.host))
        self.end(replace(result, status=status or result.status))

    def serving(self) -> frozenset[tuple[str, str]]:
        """Members of pools that serve now; those of hosts outside of this rollout are taken to."""
        ours = {t.host.name for t in self.targets}
        now = in_force(self.targets, self.seen, dict(self.results))
        return frozenset({*now, *(m for m in self.pools.everyone if m[0] not in ours)})

    # ------------------------------------------------------------------------------ the first look
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
            found = one.compare(target.release, text=False)
            if self.around:
                self.around.prepare(one)
            return target, _Open(one, stack), found
        except HostError as error:
            stack.close()
            bad = failure(error, time.monotonic() - begun)
            if self.options.skip_offline and isinstance(error, OfflineError):
                bad = replace(bad, status="skipped", error=None)
            self.on_event(done(bad))
            return target, None, bad
        except BaseException:
            stack.close()
            raise

    def unchanged(self) -> None:
        for name, found in self.seen.items():
            if found.locked:
                error = LockedError(f"another rollout holds this host: {found.locked}", host=name)
                self.results[name] = failure(error, seen=found)
            elif found.absent and not found.unchanged and not self._prepares(name):
                self.fail(unprepared(name, found.absent))
            elif found.short and not found.unchanged:
                self.fail(no_room(name, found.short))
            elif found.unchanged and not self.tasks(name):
                self.on_event(Event(name, "done", "unchanged"))
                self.results[name] = self._same(name)
        quiet = sum(result.status in ("unchanged", "skipped") for result in self.results.values())
        self.counted = len(self.targets) - quiet

    def tasks(self, name: str) -> bool:
        """Whether the play has tasks for this host beside its release."""
        return self.around is not None and self.around.tasks(name)

    def _prepares(self, name: str) -> bool:
        """Whether tasks before the release may bring what is absent; if they don't, staging refuses."""
        return self.around is not None and self.around.prepares(name)

    # ------------------------------------------------------------------------ who may be started
    def halted(self) -> str:
        """Why no other host with instances is started; empty while all is well."""
        if self.options.stop.is_set():
            return "interrupted"
        if self.canaries:
            return f"the canary failed ({', '.join(self.canaries)})"
        bad = sorted(name for name, r in list(self.results.items()) if failed(r))
        if len(bad) <= self.allowed:
            return ""
        shown = ", ".join(bad[:5]) + (", …" if len(bad) > 5 else "")
        part = self.options.max_fail
        limit = part if isinstance(part, int) else f"{part} of {self.counted}: {self.allowed}"
        return f"{len(bad)} failed ({shown}), and max_fail is {limit}"

    @property
    def allowed(self) -> int:
        return share(self.options.max_fail, self.counted)

    def stopped(self, target: Target) -> str:
        """Why this host is not to be started. Balancers follow what changed before the rollout stopped."""
        why = self.halted()
        fresh = self._has_instances(target) and target.host.name not in self.begun
        if not why or self.options.stop.is_set() or fresh:
            return why
        ends = [self.results[name].status for name in list(self.begun) if name in self.results]
        return "" if any(status not in ("rolled_back", "locked") for status in ends) else why

    def turned_away(self, target: Target) -> bool:
        """Whether it is not to be started, which is its result then."""
        why = self.stopped(target)
        if why:
            self.end(self._not_started(target, why))
        return bool(why)

    def _has_instances(self, target: Target) -> bool:
        return bool(target.release.instances or self.seen[target.host.name].instances)

    def _not_started(self, target: Target, why: str) -> HostResult:
        name = target.host.name
        seen = self.seen.get(name)
        current = seen.current if seen else None
        return HostResult(name, "not_started", why, before=current, after=current, comparison=seen)

    # ------------------------------------------------------------------------------------ batches
    def batches(self, stage: str, targets: Sequence[Target]) -> None:
        """Hosts with instances, one batch after the other; balancers alone on their host come first."""
        todo = [t for t in targets if not self.ended(t)]
        self.apply([t for t in todo if not self._has_instances(t)])
        work = [t for t in todo if self._has_instances(t)]
        parts = cut(work, self.options.batches)
        done = 0
        for number, part in enumerate(parts, 1):
            done += len(part)
            if len(parts) > 1 and not self.halted():
                place = f"canary {done}/{len(work)}" if number == 1 else f"batch {number} of {len(parts)}"
                self.on_event(Event("", "batch", f"{stage}: {place}"))
            self.apply(part)
            if number == 1 and len(parts) > 1:
                names = [t.host.name for t in part]
                self.canaries += tuple(name for name in names if failed(self.results[name]))

    def apply(self, targets: Sequence[Target]) -> None:
        each([t for t in targets if not self.ended(t)], self._start, self.options.parallel)

    def _start(self, target: Target) -> None:
        name = target.host.name
        if self.turned_away(target):
            return
        self.begun.add(name)
        self.end(self._apply(target))

    def _apply(self, target: Target) -> HostResult:
        """The host's turn: its transaction, and what the play has around it."""
        begun, name = time.monotonic(), target.host.name
        try:
            changed = self.around.before(self.contacts[name]) if self.around else False
            if changed and self.seen[name].unchanged:  # is it still?
                self.seen[name] = self.contacts[name].compare(target.release, text=False)
            seen = self.seen[name]
            result = self._same(name) if seen.unchanged else self._transact(target)
        except HostError as error:
            return failure(error, time.monotonic() - begun, self.seen[name])
        if self.around:
            self.around.after(self.contacts[name], changed=result.status == "applied")
        return replace(result, seconds=round(time.monotonic() - begun, 2))

    def _same(self, name: str) -> HostResult:
        current = self.seen[name].current
        return HostResult(name, "unchanged", before=current, after=current, comparison=self.seen[name])

    def _transact(self, target: Target) -> HostResult:
        """The host's transaction: the one place where it is run. `seen.restart` is what will restart."""
        name = target.host.name
        seen = self.seen[name]
        gone = set(seen.instances) - {p.instance for p in target.release.instances}
        with self.leases.held_for(name, keep=gone) as grants:
            done = self.contacts[name].apply(
                target.release, seen, target.uploads, grants, self.supplies.of(target), self.turns
            )
        self.leaving[name] = closing.leaving(done)
        return HostResult(
            name,
            "applied",
            done.get("message", ""),
            before=done["from"],
            after=done["to"],
            restarted=tuple(done["restarted"]),
            skipped=tuple(done.get("skipped", ())),
            comparison=seen,
            unused=Unused.of(done.get("unused") or {}),
        )


@dataclass
class _Open:
    """A contact with what closes it."""

    contact: Contact
    closing: ExitStack
