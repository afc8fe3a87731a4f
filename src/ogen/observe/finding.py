"""A finding: what is wrong where, what shows it, and what mends it; and the case that finders look at."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import Where
from ..inventory.model import Gpu
from ..plan.model import HostPlan, Instance, Placement, Plan
from .concession import Ladder
from .evidence import CardSeen, HostSeen, InstanceSeen, Line, UnitLog, UnitSeen, match
from .looking import DAY
from .places import Change, Places

SHOWN = 3  # lines of evidence


@dataclass(frozen=True, slots=True)
class Finding:
    """`kind` is a word for programs (kinds.py); `fix` is a command, or what to change at `where`."""

    kind: str
    host: str
    about: str  # "gpu0", "card 1", "balancer api"; "" is the host itself
    what: str
    evidence: tuple[str, ...]
    fix: str
    where: Where | None = None
    sets: str = ""  # what to write at `where`, where that can be told

    @property
    def subject(self) -> str:
        return f"{self.host}/{self.about}" if self.about else self.host


@dataclass(frozen=True, slots=True)
class Case:
    """One host: what was planned, what was seen, and the other hosts that its balancers reach."""

    whole: Plan
    plan: HostPlan
    seen: HostSeen
    others: Mapping[str, HostSeen] = field(default_factory=dict)
    since: float = DAY  # seconds that logs were looked back
    places: Places = field(kw_only=True)
    ladder: Ladder = field(kw_only=True)

    @property
    def where(self) -> Where | None:
        return self.plan.host.where

    def instance(self, name: str) -> Instance | None:
        return next((i for i in self.plan.instances if i.name == name), None)

    def place(self, name: str) -> Where | None:
        """The inventory's line behind an instance: its own if it is pinned, else its host's."""
        planned = self.instance(name)
        return (planned.where if planned else None) or self.where

    def placement(self, name: str, model: str) -> Placement | None:
        planned = self.instance(name)
        return next((p for p in planned.placements if p.model.name == model), None) if planned else None

    def model_place(self, name: str, model: str) -> Where | None:
        placed = self.placement(name, model)
        return (placed.model.where if placed else None) or self.place(name)

    def unit(self, name: str) -> UnitSeen:
        return self.seen.units.get(name, UnitSeen())

    def log(self, unit: str) -> UnitLog:
        return self.seen.deep.logs.get(unit, UnitLog()) if self.seen.deep else UnitLog()

    def card(self, gpu: Gpu) -> CardSeen | None:
        return match(gpu, self.seen.cards)

    def cards_of(self, instance: InstanceSeen) -> tuple[CardSeen, ...]:
        makers = {g.vendor for i in self.plan.instances if i.name == instance.name for g in i.gpus}
        cards = (c for c in self.seen.cards if not makers or c.vendor in makers)
        return tuple(c for c in cards if c.uuid in instance.gpus or str(c.index) in instance.gpus)

    def setting(self, *path: str) -> Where | None:
        """The line of a setting of this host: its own, its groups' or the default."""
        return self.places.of_host(self.plan.host, *path)

    def set(self, value: object, *path: str) -> Change:
        return self.places.set_host(self.plan.host, value, *path)

    def set_model(self, name: str, model: str, value: object, *path: str) -> Change:
        return self.places.set(self.model_place(name, model), value, *path)

    def model_setting(self, name: str, model: str, *path: str) -> Where | None:
        return self.places.under(self.model_place(name, model), *path)

    def finding(
        self,
        kind: str,
        about: str,
        what: str,
        evidence: Iterable[str],
        fix: str,
        where: Where | None = None,
        sets: str = "",
    ) -> Finding:
        shown = tuple(evidence)[:SHOWN]
        return Finding(kind, self.seen.host, about, what, shown, fix, where or self.where, sets)


def quoted(lines: Iterable[Line]) -> tuple[str, ...]:
    """The last lines with their times, as evidence."""
    return tuple(f"{clock(line.time)} {line.text}" for line in lines)[-SHOWN:]


def clock(stamp: float) -> str:
    """Seconds since 1970 as UTC; hosts' clocks may say anything."""
    try:
        return datetime.datetime.fromtimestamp(stamp, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return str(stamp)


def gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
