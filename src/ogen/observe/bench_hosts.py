"""What hosts tell while load runs: how busy their cards are, and which instance served how much."""

from __future__ import annotations

import ipaddress
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from ..errors import HostError
from ..inventory.model import Host
from ..plan.model import Plan
from ..push import Contact, Options, contact
from .evidence import CardSeen
from .hearing import cards_seen
from .looking import members

EVERY = 1.0  # seconds between two looks at cards
PATIENCE = 3.0  # seconds for the last lines of a log to be there


@dataclass(frozen=True, slots=True)
class CardUse:
    """A card while load ran; percent, bytes."""

    host: str
    index: int
    name: str
    busy: float | None  # mean
    busy_most: float | None
    used_most: int
    total: int
    looks: int


@dataclass(frozen=True, slots=True)
class Served:
    """A kind of lines of a balancer's access log: which instance answered, and how often."""

    edge: str
    client: str
    path: str
    status: str
    instance: str  # "host/instance", or an address that is none of the plan's
    count: int


@dataclass(frozen=True, slots=True)
class Shares:
    """Answers by instance; `others`: requests of other clients that were served meanwhile."""

    by_instance: Mapping[str, int] = field(default_factory=dict)
    others: int = 0
    remarks: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------- pure
def shares(rows: Sequence[Served], path: str, addresses: Iterable[str], sent: int) -> Shares:
    """Of our `sent` answered requests: those of our addresses where the log knows them, else all."""
    mine = {_plain(a) for a in addresses}
    good = [r for r in rows if r.path == path and r.status == "200"]
    ours = [r for r in good if _plain(r.client) in mine]
    remarks = []
    if sum(r.count for r in ours) < sent:  # behind a NAT or another proxy
        ours = good
        if sum(r.count for r in ours) > sent:
            remarks.append("the balancer's log can't tell our requests from others': all are counted")
    counts: Counter[str] = Counter()
    for row in ours:
        counts[row.instance] += row.count
    others = sum(r.count for r in rows) - sum(counts.values())
    if counts.total() < sent:
        remarks.append(f"the balancer's log has {counts.total()} of {sent} requests")
    return Shares(
        dict(sorted(counts.items(), key=lambda one: _natural(one[0]))), max(0, others), tuple(remarks)
    )


def _plain(address: str) -> str:
    """One spelling for each address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(getattr(found, "ipv4_mapped", None) or found)


def _natural(name: str) -> list[tuple[int, str]]:
    """gpu2 before gpu10."""
    return [(int(n or 0), text) for text, n in re.findall(r"(\D+)|(\d+)", name)]


def uses(looks: Mapping[str, Sequence[Sequence[CardSeen]]]) -> tuple[CardUse, ...]:
    """Each card of each host, over all looks at it."""
    found = []
    for host, times in looks.items():
        cards = {card.uuid or str(card.index): card for cards in times for card in cards}
        for key, last in sorted(cards.items(), key=lambda one: one[1].index):
            seen = [c for cards_ in times for c in cards_ if (c.uuid or str(c.index)) == key]
            busy = [c.busy for c in seen if c.busy is not None]
            mean = sum(busy) / len(busy) if busy else None
            most = max(c.used for c in seen)
            found.append(
                CardUse(
                    host, last.index, last.name, mean, max(busy, default=None), most, last.total, len(seen)
                )
            )
    return tuple(found)


# ------------------------------------------------------------------------------------------- hosts
class Hosts:
    """Connections to the balancers' and instances' hosts, for the time of a `with`.

    What can't be reached is told in `errors` and left out: load is measured all the same.
    """

    def __init__(
        self, plan: Plan, balancer: str, edges: Sequence[Host], nodes: Sequence[Host], options: Options
    ) -> None:
        self.plan, self.balancer, self.options = plan, balancer, options
        self.edges, self.nodes = edges, nodes
        self.errors: list[HostError] = []
        self._open: dict[str, Contact] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._marks: dict[str, Any] = {}
        self._looks: dict[str, list[Sequence[CardSeen]]] = {}
        self._stack = ExitStack()
        self._stop = threading.Event()
        self._watchers: list[threading.Thread] = []

    def __enter__(self) -> Hosts:
        everyone = {host.name: host for host in (*self.edges, *self.nodes)}
        with ThreadPoolExecutor(max(1, min(self.options.parallel, len(everyone) or 1))) as pool:
            list(pool.map(self._connect, everyone.values()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._halt()
        self._stack.close()

    def _connect(self, host: Host) -> None:
        try:
            opened = contact(host, self.options)
            made = opened.__enter__()
        except HostError as error:
            self.errors.append(error)
            return
        self._stack.push(opened.__exit__)
        self._locks[host.name] = threading.Lock()
        self._open[host.name] = made
        self._ask(host.name)  # the first one waits for the agent's start

    def _ask(self, host: str, **load: Any) -> Mapping[str, Any]:
        """The agent's words; nothing from a host that is lost, which is told once."""
        opened = self._open.get(host)
        if opened is None:
            return {}
        try:
            with self._locks[host]:
                seen: Mapping[str, Any] = opened.ask({"op": "look", "load": load})[0]["seen"]
                return seen
        except HostError as error:
            if self._open.pop(host, None) is not None:
                self.errors.append(error)
            return {}

    # --------------------------------------------------------------------------------- a run
    def begin(self) -> None:
        """From here on cards are looked at and answers counted."""
        for edge in self.edges:
            said = self._ask(edge.name, served={self.balancer: None})
            self._marks[edge.name] = _served(said, self.balancer).get("mark")
        self._looks = {node.name: [] for node in self.nodes if node.name in self._open}
        self._stop = threading.Event()
        self._watchers = [
            threading.Thread(target=self._watch, args=(name,), daemon=True) for name in self._looks
        ]
        for watcher in self._watchers:
            watcher.start()

    def end(self, path: str, addresses: Iterable[str], sent: int) -> tuple[Shares, tuple[CardUse, ...]]:
        """What was seen since `begin`."""
        self._halt()
        if not any(edge.name in self._open for edge in self.edges):
            return Shares(), uses(self._looks)
        rows, whole = self._rows()
        waited = 0.0
        while waited < PATIENCE and sum(r.count for r in rows if r.path == path) < sent and whole:
            threading.Event().wait(0.2)
            waited += 0.2
            rows, whole = self._rows()
        found = shares(rows, path, addresses, sent)
        if not whole:
            note = "a balancer's log was rotated or is not there: not all answers are counted"
            found = Shares(found.by_instance, found.others, (*found.remarks, note))
        return found, uses(self._looks)

    def _rows(self) -> tuple[list[Served], bool]:
        found: list[Served] = []
        whole = True
        for edge in self.edges:
            mark = self._marks.get(edge.name)
            said = _served(self._ask(edge.name, served={self.balancer: mark}), self.balancer)
            whole = whole and bool(said.get("whole")) and mark is not None
            names = {f"{_bracketed(a)}:{p}": name for (a, p), name in members(self.plan, edge.name).items()}
            found += _read(edge.name, said, names)
        return found, whole

    def _halt(self) -> None:
        self._stop.set()
        for watcher in self._watchers:
            watcher.join(30)
        self._watchers = []

    def _watch(self, host: str) -> None:
        every = max(EVERY, len(self._looks) / 20)  # a client that asks many hosts measures itself
        while not self._stop.wait(every) and host in self._open:
            said = self._ask(host, cards=True)
            if said:
                self._looks[host].append(cards_seen(said))


def _served(said: Mapping[str, Any], balancer: str) -> Mapping[str, Any]:
    served = said.get("served")
    found = served.get(balancer) if isinstance(served, dict) else None
    return found if isinstance(found, dict) else {}


def _read(edge: str, said: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[Served]:
    rows = said.get("rows")
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, list) and len(row) == 5 and isinstance(row[4], int):
            client, path, status, upstream = map(str, row[:4])
            yield Served(edge, client, path, status, names.get(upstream, upstream), row[4])


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
