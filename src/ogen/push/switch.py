"""The balancers of a rollout: each is switched to what is really in force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import HostError, OgenError, RemoteError
from .force import Place, in_force, lacking, loses, offered, present, serves, together
from .results import WELL, HostResult, Serving, Target

if TYPE_CHECKING:
    from ..plan.reduced import Seat
    from .rollout import Rollout

_WITHHELD = (
    "mend those hosts, or set them to `state: out`, then apply again; --limit '!NAME' goes on without one"
)


@dataclass
class Switch:
    """`hosts`: those with balancers that have something to do."""

    rollout: Rollout
    hosts: Sequence[Target]

    def run(self) -> None:
        """In waves, as what they list comes into force; at last, without what never does."""
        while waiting := [t for t in self.hosts if not self.rollout.ended(t)]:
            waiting = [t for t in waiting if not self.rollout.turned_away(t)]
            ready = self.ready(waiting) or self.reduced(waiting)
            losing = [t for t in ready if loses(t, self.rollout.seen[t.host.name])]
            kept = self.after(losing) if losing else []
            self.rollout.batches("switch", [t for t in ready if t in kept or t not in losing])

    def settle(self) -> None:
        """Balancers that are as they should be, but list what is not in force: what they listed failed
        after their turn, or their own configuration had nothing to change."""
        for target in self.rollout.targets:
            result = self.rollout.results.get(target.host.name)
            if not target.release.balancers or result is None or result.status not in WELL:
                continue
            gone = self.lacks(target)
            fresh = {str(seat) for seat in gone} - set(result.without)
            if fresh and not self.rollout.options.stop.is_set():
                self._settle(target, result, gone)

    def _settle(self, target: Target, result: HostResult, gone: Sequence[Seat]) -> None:
        name = target.host.name
        why = self.objection(target, gone)
        if why is not None:
            self.rollout.results[name] = replace(result, message=f"still lists what is not in force: {why}")
            return
        smaller = self.reduce(target, gone)
        if smaller is None or self.rollout.stopped(smaller):
            return
        del self.rollout.results[name]
        self.rollout.apply([smaller])
        again = self.rollout.results[name]
        self.rollout.results[name] = replace(
            again,
            before=result.before,
            seconds=round(result.seconds + again.seconds, 2),
            restarted=(*result.restarted, *(u for u in again.restarted if u not in result.restarted)),
        )

    # ---------------------------------------------------------------------------------- who may go
    def ready(self, waiting: Sequence[Target]) -> list[Target]:
        """Those that may be switched as they are."""
        lack = {t.host.name: self.lacks(t) for t in waiting}
        able = [t for t in waiting if not lack[t.host.name]]
        if able:
            return [t for t in able if not loses(t, self.rollout.seen[t.host.name])] or able
        return together(waiting, lack)

    def lacks(self, target: Target) -> list[Seat]:
        """What it lists that is not in force."""
        run = self.rollout
        results = dict(run.results)
        asleep = {name for name, r in results.items() if name not in run.seen and r.status != "skipped"}
        pools = run.seen[target.host.name].pools.values()
        now = {(pool, place) for found in pools for pool, places in found.items() for place in places}
        return lacking(target, run.targets, self.force(), asleep, now)

    def force(self) -> dict[Place, Serving]:
        return in_force(self.rollout.targets, self.rollout.seen, dict(self.rollout.results))

    def before(self, swapping: Sequence[Target]) -> Sequence[Target]:
        """Hosts that swap instances before the balancers know, unless some balancer is out of reach."""
        return self._unless(self._unknown(), swapping)

    def after(self, contract: Sequence[Target], before: Sequence[Target] = ()) -> Sequence[Target]:
        """Hosts that lose an instance or their balancer, unless some balancer was not switched, or was not
        taken away from one of the hosts `before`."""
        return self._unless(self.late(before), contract)

    def late(self, others: Sequence[Target] = ()) -> Sequence[str]:
        """Hosts whose balancers are not what they should be."""
        ends = [self.rollout.results.get(t.host.name) for t in (*self.hosts, *others)]
        late = [
            result.host for result in ends if result and not (result.serves or result.status == "skipped")
        ]
        return [*late, *self._unknown()]

    def _unknown(self) -> list[str]:
        """Balancer hosts that did not answer, and were not left out on request."""
        run = self.rollout
        return [
            t.host.name
            for t in run.targets
            if t.release.balancers
            and t.host.name not in run.seen
            and run.results[t.host.name].status != "skipped"
        ]

    def _unless(self, late: Sequence[str], targets: Sequence[Target]) -> Sequence[Target]:
        if not late:
            return targets
        names = ", ".join(sorted(set(late)))
        stopped = [t for t in targets if self.rollout.stopped(t)]  # a rollout that was halted says so itself
        for target in targets:
            if target not in stopped:
                self.withhold(target, f"keeps what it has: balancers were not switched ({names})")
        return stopped

    # ------------------------------------------------------------------------ what is really in force
    def reduced(self, waiting: Sequence[Target]) -> list[Target]:
        """Those of the balancer hosts that can do without what never comes into force."""
        coming = {(t.host.name, p.instance) for t in waiting for p in t.release.instances}
        found = []
        for target in waiting:
            gone = [s for s in self.lacks(target) if (s.host, s.instance) not in coming]
            why = self.objection(target, gone)
            if gone and why is not None:
                self.withhold(target, f"keeps its configuration: {why}")
            elif gone and (smaller := self.reduce(target, gone)) is not None:
                found.append(smaller)
        return found

    def objection(self, target: Target, gone: Sequence[Seat]) -> str | None:
        """Why it has to keep its configuration rather than do without `gone`."""
        names = ", ".join(sorted({str(seat) for seat in gone}))
        if target.listing is None:
            return f"not in force are {names}"
        old = {
            balancer: {pool: self.alive(pool, places) for pool, places in pools.items()}
            for balancer, pools in self.rollout.seen[target.host.name].pools.items()
        }
        why = target.listing.objection(gone, old)
        return f"{why} (not in force are {names})" if why else None

    def alive(self, pool: str, places: Sequence[str]) -> list[str]:
        """Those of the "host/instance" that may still serve the pool's model."""
        from ..plan.entries import EVERYTHING  # with the planner
        from ..plan.reduced import Seat

        run, found = self.rollout, []
        targets = {t.host.name: t for t in run.targets}
        model = None if pool == EVERYTHING else pool
        for place in places:
            host, _, instance = place.partition("/")
            target, seen, result = targets.get(host), run.seen.get(host), run.results.get(host)
            if target is None or seen is None:
                found.append(place)
                continue
            now = offered(target) if result and result.serves else present(seen)
            if serves(Seat(pool, host, instance, None, model), {(host, i): s for i, s in now.items()}):
                found.append(place)
        return found

    def reduce(self, target: Target, gone: Sequence[Seat]) -> Target | None:
        """The target without `gone`; None if nothing is left to do, or the host can't be asked."""
        assert target.listing is not None
        run, name = self.rollout, target.host.name
        run.without[name] = tuple(sorted({str(seat) for seat in gone}))
        before = run.seen[name]
        try:
            smaller = replace(target, release=target.listing.release(gone))
            seen = run.contacts[name].compare(smaller.release, text=False)
        except HostError as error:
            run.fail(error)
            return None
        except OgenError as error:
            run.fail(RemoteError(f"its release can't be rendered: {error.message}", host=name))
            return None
        run.seen[name] = seen
        if seen.unchanged and not run.tasks(name):
            run.end(HostResult(name, "unchanged", before=before.current, after=seen.current, comparison=seen))
            return None
        return smaller

    def withhold(self, target: Target, message: str) -> None:
        run = self.rollout
        if not run.ended(target):
            error = RemoteError(message, host=target.host.name, hint=_WITHHELD)
            run.fail(error, status="withheld")
