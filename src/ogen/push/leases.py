"""Leases: a balancer's promise not to send to an instance for a while, kept up while the instance is down.

A transaction (or `ogen drain`, `restart`) asks before an instance goes down. Granted is what leaves
every pool an instance that serves, and at least half of its instances; then each balancer host takes
the lease, and it is renewed until the instance is proven again. Losing this process means that the
leases end by themselves after LEASE seconds: the balancers probe, and send again to what answers.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..errors import HostError, RolledBack
from .contact import Ask
from .edges import BY_HAND, LEASE, Edge, Lease, Member, lease_id, name_of
from .pools import Pools, admissible
from .results import Event, OnEvent, Options, ignore

RENEWED = 20.0  # seconds between renewals
GRANTED = 30.0  # seconds that a grant may be used: the lease is sure to last longer
BEAT = 15.0  # seconds between two words to a host that waits
BACK = 30.0  # seconds in which a proven instance must be back at the balancers

Beat = Callable[[], None]
Grant = Mapping[str, Any]


@dataclass
class Leases:
    """The leases of one run. Thread-safe: hosts ask from threads of their own."""

    pools: Pools
    options: Options
    serving: Callable[[], Collection[Member]]  # members that serve now, leased or not
    on_event: OnEvent = ignore
    outage: bool = False  # whether a pool may be left without an instance
    held: dict[Member, int] = field(default_factory=dict)  # member → port
    ending: set[Member] = field(default_factory=set)  # those of them that are renewed no more
    lost: dict[Member, str] = field(default_factory=dict)  # proven, but balancers do not get it back
    failing: dict[Member, str] = field(default_factory=dict)  # away by the balancers' own probes
    working: set[str] = field(default_factory=set)  # hosts whose transaction is under way
    waiting: set[str] = field(default_factory=set)  # those of them that wait for a grant

    def __post_init__(self) -> None:
        self.run = secrets.token_hex(4)
        self.seen: set[str] = set()  # hosts whose leases of a rollout before this one were ended
        self.changed = threading.Condition(threading.RLock())
        self.edges = [Edge(host, self.options) for host in self.pools.edges]
        self.ended = threading.Event()
        self.renewer = threading.Thread(target=self._renew, name="ogen leases", daemon=True)

    def __enter__(self) -> Leases:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------ for a host
    @contextmanager
    def held_for(self, host: str, *, keep: Collection[str] = ()) -> Iterator[Ask | None]:
        """While the work of a host goes on: what answers when it asks; None where nobody balances.

        Its leases end with it, but for those of the instances in `keep`, which last until `release`.
        Those of a host that was lost end by themselves: it may still use what it was granted.
        """
        with self.changed:
            self.working.add(host)
        try:
            yield Grants(self, host) if self.edges else None
            self._finish(host, keep)
        except RolledBack:
            self._finish(host, keep)
            raise
        finally:
            with self.changed:
                for member in self._of(host):
                    if member[1] not in keep:
                        del self.held[member]
                self.working.discard(host)
                self.changed.notify_all()

    def _finish(self, host: str, keep: Collection[str]) -> None:
        self.end([m for m in self._of(host) if m[1] not in keep], _no_beat)

    def grant(self, host: str, instances: Sequence[tuple[str, int]], why: str, beat: Beat) -> Grant:
        """The answer to a host that asks to take instances down: (name, port) of each.

        What the host was granted before and does not ask for again is proven: its lease ends first.
        """
        ports = {(host, name): port for name, port in instances}
        self._end_orphans(host, beat)
        self.end([m for m in self._of(host) if m not in ports], beat)
        chosen, others = self._wait(host, ports, why, beat)
        if not chosen:
            return {"op": "grant", **self._refusal(list(ports), others)}
        try:
            self._take(chosen, ports)
        except HostError as error:
            self.end(chosen, beat, wait=0.0)  # where it was taken
            return {"op": "grant", "refused": str(error), "hint": error.hint}
        return {"op": "grant", "instances": [name for _, name in chosen], "seconds": GRANTED}

    def _of(self, host: str) -> list[Member]:
        with self.changed:
            return [member for member in self.held if member[0] == host]

    # ------------------------------------------------------------------------- leases of others
    def others(self) -> dict[Member, Lease]:
        """Members that balancers are kept away from by somebody else: a drain by hand, another rollout."""
        everyone = {name_of(m): m for m in self.pools.everyone}
        found: dict[Member, Lease] = {}
        for lease in (lease for told in self._each(lambda edge: edge.listed()) for lease in told):
            member = everyone.get(lease.name)
            if member is None or lease.run == self.run:
                continue
            if member not in found or lease.left > found[member].left:
                found[member] = lease
        return found

    def _end_orphans(self, host: str, beat: Beat) -> None:
        """This host's lock is ours, so a rollout that left leases of its instances behind is dead."""
        if host in self.seen:
            return
        self.seen.add(host)
        beat()
        self._each(lambda edge: edge.unlease([one.id for one in self._orphans(edge, host)], BACK))

    def _orphans(self, edge: Edge, host: str) -> list[Lease]:
        names = {name_of(m) for m in self.pools.everyone if m[0] == host}
        return [one for one in edge.listed() if one.name in names and one.run not in (self.run, BY_HAND)]

    def _wait(
        self, host: str, ports: Mapping[Member, int], why: str, beat: Beat
    ) -> tuple[list[Member], Mapping[Member, Lease]]:
        """Members that are marked as leased now; none when nobody else's work can change the answer. And
        what others keep away."""
        said = time.monotonic()
        end = said + self.options.drain
        with self.changed:
            self.waiting.add(host)
            self.changed.notify_all()
        try:
            while True:
                others, failing = self.others(), self._probed()
                soon = any(o.left <= LEASE for o in others.values()) and time.monotonic() < end
                with self.changed:
                    self.failing = failing
                    mine = [m for m in ports if m in self.held]  # asked for again: the lease is renewed
                    chosen = mine or self._admissible(list(ports), why, others)
                    self.held.update({m: ports[m] for m in chosen})
                    if chosen or not (self.working - self.waiting or soon):
                        return chosen, others
                    self.changed.wait(1.0)
                if time.monotonic() - said > BEAT:
                    said = time.monotonic()
                    beat()
        finally:
            with self.changed:
                self.waiting.discard(host)

    def _probed(self) -> dict[Member, str]:
        told = self._each(lambda edge: edge.failing())
        names = (edge.host.name for edge in self.edges)
        return self.pools.failing(dict(zip(names, told, strict=True)))

    def _admissible(self, wanted: list[Member], why: str, others: Collection[Member]) -> list[Member]:
        if why == "stop" or self.outage:  # nobody lists what is stopped, or it is wanted so
            return wanted
        serving = set(self.serving()) - set(self.lost) - set(self.failing)
        return admissible(self.pools, wanted, serving, {*self.held, *others})

    def _refusal(self, wanted: Sequence[Member], others: Mapping[Member, Lease]) -> dict[str, str]:
        names = ", ".join(f"{host}/{instance}" for host, instance in wanted)
        lost = "".join(f"; {why}" for why in {**self.failing, **self.lost}.values())
        hint = "bring another one of its pool into service, or consent: rollout.allow_outage: true"
        if lost:  # consent is no remedy for an instance that does not come back
            hint = "see why it does not answer there (ogen doctor, ogen logs), then apply again"
        away = "".join(f"; {'/'.join(m)} is drained by {one.who}" for m, one in sorted(others.items()))
        if away:
            hint = "`ogen undrain` it, then apply again"
        return {"refused": f"no other instance would serve while {names} is down{lost}{away}", "hint": hint}

    def _take(self, chosen: Sequence[Member], ports: Mapping[Member, int]) -> None:
        if not self.renewer.is_alive() and not self.ended.is_set():
            self.renewer.start()
        for host, name in chosen:
            self.on_event(Event(host, "drain", name))
        self._each(lambda edge: edge.lease(self._servers(edge, {m: ports[m] for m in chosen})))

    def _servers(self, edge: Edge, ports: Mapping[Member, int]) -> dict[str, str]:
        """Lease id → server, for one edge."""
        return {
            lease_id(self.run, m): self.pools.server(edge.host.name, m[0], port) for m, port in ports.items()
        }

    def _each(self, work: Callable[[Edge], Any]) -> list[Any]:
        if len(self.edges) < 2:
            return [work(edge) for edge in self.edges]
        with ThreadPoolExecutor(max_workers=len(self.edges)) as pool:
            return list(pool.map(work, self.edges))

    # ------------------------------------------------------------------------------------ the end
    def end(self, members: Sequence[Member], beat: Beat, wait: float = BACK) -> None:
        """Ends leases, and waits until the balancers send to these instances again."""
        with self.changed:
            ports = {m: self.held[m] for m in members if m in self.held}
        if not ports:
            return
        beat()
        with self.changed:
            self.ending |= set(ports)  # before the edges' locks are asked for: see `_renewed`
        down = self._each(lambda edge: edge.unlease(self._servers(edge, ports), wait))
        with self.changed:
            self.ending -= set(ports)
            for member, port in ports.items():
                self.held.pop(member, None)
                away = [
                    edge.host.name
                    for edge, names in zip(self.edges, down, strict=True)
                    if self.pools.server(edge.host.name, member[0], port) in names
                ]
                if away and wait:
                    self.lost[member] = f"{'/'.join(member)} does not answer to {', '.join(away)}"
                    self.on_event(Event(member[0], "drain", self.lost[member]))
            self.changed.notify_all()

    def release(self) -> None:
        """Balancers list what was kept no more (or something else at its address): those leases end."""
        with self.changed:
            kept = [member for member in self.held if member[0] not in self.working]
        self.end(kept, _no_beat)

    def close(self) -> None:
        """Ends what is left, and lets go of the balancers' hosts."""
        self.ended.set()
        if self.renewer.is_alive():
            self.renewer.join()
        self.end(list(self.held), _no_beat, wait=0.0)
        for edge in self.edges:
            edge.close()

    def _renew(self) -> None:
        while not self.ended.wait(RENEWED):
            for edge in self.edges:
                try:
                    edge.renew(partial(self._renewed, edge))
                except HostError as error:  # what is under way is told by the next grant
                    self.on_event(Event(edge.host.name, "drain", str(error)))

    def _renewed(self, edge: Edge) -> dict[str, str]:
        """What is to be renewed; asked under the edge's lock, which the end of a lease takes after this knows
        of it."""
        with self.changed:
            ports = {m: port for m, port in self.held.items() if m not in self.ending}
        return self._servers(edge, ports)


@dataclass(frozen=True)
class Grants:
    """What answers a host that asks; `local`: no balancer elsewhere is concerned."""

    leases: Leases
    host: str

    def __call__(self, instances: Sequence[tuple[str, int]], why: str, beat: Beat) -> Grant:
        return self.leases.grant(self.host, instances, why, beat)

    @property
    def local(self) -> bool:
        return all(edge.host.name == self.host for edge in self.leases.edges)


def _no_beat() -> None:
    pass
