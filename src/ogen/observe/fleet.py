"""The plan and what was seen, joined for `ogen status`: one row for each host, card, instance, balancer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..errors import HostError
from ..inventory.model import Gpu
from ..plan.model import HostPlan, Plan, Work
from ..plan.picture import use_of
from ..push import Comparison
from ..render.upstreams import place
from . import finders_queue
from .evidence import BalancerSeen, HostSeen, InstanceSeen, LeaseSeen, UnitSeen, listed, match
from .looking import members


@dataclass(frozen=True, slots=True)
class CardRow:
    """Bytes; `used` is None where the card does not tell, or is not there."""

    index: int
    model: str
    total: int
    planned: int
    used: int | None
    busy: float | None = None  # percent
    temperature: float | None = None  # °C
    note: str = ""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model of an instance; `loaded` False: promised to be resident, and not there."""

    name: str
    loaded: bool
    vram: int = 0
    size: int = 0
    context: int = 0


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """state: up · silent (its unit runs, it does not answer) · a state of systemd · unknown.

    drained: the balancer hosts that send it nothing, each with the seconds that are left (0: until it
    answers a probe).
    """

    name: str
    port: int
    state: str
    version: str
    models: tuple[ModelRow, ...]
    drained: tuple[tuple[str, float], ...] = ()
    failing: tuple[tuple[str, str], ...] = ()  # balancer hosts whose probes it fails, each with the reason
    rung: str = ""  # autofit's choice, in words

    @property
    def well(self) -> bool:
        loaded = all(model.loaded and model.size <= model.vram for model in self.models)
        return self.state == "up" and loaded and not self.drained and not self.failing


@dataclass(frozen=True, slots=True)
class BalancerRow:
    """`hash` is that of the configuration that nginx serves."""

    name: str
    listen: int | None
    state: str
    hash: str
    in_force: bool
    running: int | None = None  # requests under way; None: it does not tell
    waiting: int = 0  # in a gate's queues
    slots: int = 0  # of a gate


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A whole queue, at the first host of its fronts that was seen; with `error` nothing else is known."""

    name: str
    error: str = ""
    waiting: int = 0  # those that pause before a further try among them
    running: int = 0
    dead: int = 0
    drained: bool = False  # one of its pools at least takes no jobs
    workers: int = 0  # heard of lately
    planned: int = 0  # workers that the plan has
    used: int = 0  # bytes of Redis' memory
    most: int = 0

    @property
    def well(self) -> bool:
        return not (self.error or self.dead or self.drained or self.workers < self.planned)


@dataclass(frozen=True, slots=True)
class HostRow:
    """One host; with `error` nothing else is known."""

    name: str
    error: HostError | None = None
    release: str | None = None
    pending: tuple[str, ...] = ()  # what an apply would do, in words
    edited: tuple[str, ...] = ()  # paths
    locked: str | None = None
    stuck: str = ""
    cards: tuple[CardRow, ...] = ()
    instances: tuple[InstanceRow, ...] = ()
    balancers: tuple[BalancerRow, ...] = ()
    queues: tuple[QueueRow, ...] = ()

    @property
    def well(self) -> bool:
        """Nothing here needs a look: all is as planned, up, loaded and in force."""
        asks = self.error or self.pending or self.edited or self.locked or self.stuck
        return not asks and (
            all(not card.note or card.note.startswith("out") for card in self.cards)
            and all(one.well for one in self.instances)
            and all(one.state == "up" and one.in_force for one in self.balancers)
            and all(one.well for one in self.queues)
        )


def rows(plan: Plan, seen: Mapping[str, HostSeen | HostError]) -> tuple[HostRow, ...]:
    """The hosts that were asked, in the plan's order."""
    away, bad, queues = drained(plan, seen), failing(plan, seen), _queues(plan, seen)
    found = (_host(h, seen[h.host.name], away, bad) for h in plan.hosts if h.host.name in seen)
    return tuple(replace(row, queues=queues.get(row.name, ())) for row in found)


def drained(plan: Plan, seen: Mapping[str, HostSeen | HostError]) -> dict[str, tuple[tuple[str, float], ...]]:
    """ "host/instance" → the balancer hosts that are kept away from it, and for how many seconds more."""
    found: dict[str, dict[str, float]] = {}
    for edge, name, lease in _leases(plan, seen):
        if not lease.why:
            at = found.setdefault(name, {})
            at[edge] = max(at.get(edge, 0.0), lease.left)
    return {name: tuple(sorted(at.items())) for name, at in found.items()}


def failing(plan: Plan, seen: Mapping[str, HostSeen | HostError]) -> dict[str, tuple[tuple[str, str], ...]]:
    """ "host/instance" → the balancer hosts whose probes it fails, and why."""
    found: dict[str, list[tuple[str, str]]] = {}
    for edge, name, lease in _leases(plan, seen):
        if lease.why:
            kept = " (it stays, nobody else of its pool is left)" if lease.kept else ""
            found.setdefault(name, []).append((edge, lease.why + kept))
    return {name: tuple(sorted(at)) for name, at in found.items()}


def _leases(plan: Plan, seen: Mapping[str, HostSeen | HostError]) -> Iterator[tuple[str, str, LeaseSeen]]:
    """Balancer host, "host/instance", and what keeps the one away from the other."""
    for edge, one in seen.items():
        if not isinstance(one, HostError):
            names = {place(*where): name for where, name in members(plan, edge).items()}
            yield from ((edge, names[lease.server], lease) for lease in one.leases if lease.server in names)


def _host(
    plan: HostPlan,
    seen: HostSeen | HostError,
    away: Mapping[str, tuple[tuple[str, float], ...]],
    bad: Mapping[str, tuple[tuple[str, str], ...]],
) -> HostRow:
    if isinstance(seen, HostError):
        return HostRow(plan.host.name, seen)
    return HostRow(
        plan.host.name,
        release=seen.current,
        pending=pending(seen.comparison),
        edited=seen.comparison.edited,
        locked=seen.locked,
        stuck=seen.stuck,
        cards=tuple(_card(plan, gpu, seen) for gpu in plan.host.gpus),
        instances=tuple(_instance(one, seen, away, bad) for one in seen.instances),
        balancers=tuple(_balancer(one, plan, seen) for one in seen.balancers),
    )


def pending(comparison: Comparison) -> tuple[str, ...]:
    """What an apply would do beside taking back edits."""
    files = sum(one.state in ("pending", "removed", "in_the_way") for one in comparison.files)
    words = [f"{files} file{'s' if files != 1 else ''}"] if files else []
    for verb in ("restart", "reload", "stop"):
        names = getattr(comparison, verb)
        words += [f"{verb} {', '.join(names)}"] if names else []
    words += [f"make {', '.join(comparison.models)}"] if comparison.models else []
    return tuple(words + ([f"link {', '.join(comparison.links)}"] if comparison.links and not files else []))


def _card(plan: HostPlan, gpu: Gpu, seen: HostSeen) -> CardRow:
    mine = [i for i in plan.instances if any(g.index == gpu.index for g in i.gpus)]
    use = use_of(gpu, mine, plan.host.ollama.version)
    card = match(gpu, seen.cards)
    note = f"out: {gpu.reason or 'by the inventory'}" if gpu.state == "out" else ""
    if not note and card is None and seen.live and listed(gpu):
        note = "not there"
    return CardRow(
        gpu.index,
        gpu.model,
        total=card.total if card and card.total else gpu.vram,
        planned=0 if gpu.state == "out" else use.total - use.free,
        used=card.used if card else None,
        busy=card.busy if card else None,
        temperature=card.temperature if card else None,
        note=note,
    )


def _instance(
    one: InstanceSeen,
    seen: HostSeen,
    away: Mapping[str, tuple[tuple[str, float], ...]],
    bad: Mapping[str, tuple[tuple[str, str], ...]],
) -> InstanceRow:
    models = [ModelRow(m.name, True, m.vram, m.size, m.context) for m in one.models]
    lacking = [p for p in one.promised if p.resident and one.loaded(p) is None]
    state = _state(seen, one.unit)
    if state == "up" and one.error:
        state = "silent"
    if state == "up":
        models += [ModelRow(p.model, False) for p in lacking]
    name = f"{seen.host}/{one.name}"
    return InstanceRow(
        one.name,
        one.port,
        state,
        one.version,
        tuple(models),
        away.get(name, ()),
        bad.get(name, ()),
        one.rung,
    )


def _state(seen: HostSeen, unit: str) -> str:
    if not seen.live:
        return "unknown"
    found = seen.units.get(unit, UnitSeen())
    return "up" if found.up else found.active or "unknown"


def _balancer(one: BalancerSeen, plan: HostPlan, seen: HostSeen) -> BalancerRow:
    planned = next((e.balancer for e in plan.entries if e.balancer.name == one.name), None)
    right = bool(one.serves) and one.serves == one.wanted
    return BalancerRow(
        one.name,
        planned.listen if planned else None,
        _state(seen, one.unit),
        one.serves,
        right,
        one.running,
        one.waiting,
        one.slots,
    )


# -------------------------------------------------------------------------------------------- queues
def _queues(plan: Plan, seen: Mapping[str, HostSeen | HostError]) -> dict[str, tuple[QueueRow, ...]]:
    """By host. Each front tells of the whole queue: the first one that does is asked."""
    found: dict[str, tuple[QueueRow, ...]] = {}
    for work in plan.works:
        told = [
            (name, _queue(work, one))
            for name in work.fronts
            if isinstance(one := seen.get(name), HostSeen) and one.live
        ]
        if told:
            name, row = next((pair for pair in told if not pair[1].error), told[0])
            found[name] = (*found.get(name, ()), row)
    return found


def _queue(work: Work, seen: HostSeen) -> QueueRow:
    name, said = work.queue.name, seen.queues.get(work.queue.name)
    if said is None or said.get("error"):
        return QueueRow(name, str(said["error"]) if said else "its front does not run here")
    told = [pool for _, pool in finders_queue.pools(said)]
    heard = {worker for pool in told for worker in finders_queue.heard(pool)}
    every = {f"{m.host}/{m.instance}" for pool in work.pools for m in pool.members}
    memory = said.get("memory")
    held = memory if isinstance(memory, Mapping) else {}

    def total(kind: str) -> int:
        return sum(int(finders_queue.number(pool, kind)) for pool in told)

    return QueueRow(
        name,
        waiting=total("waiting") + total("delayed"),
        running=total("running"),
        dead=total("dead"),
        drained=any(pool.get("closed") is True for pool in told),
        workers=len(heard & every),
        planned=len(every),
        used=int(finders_queue.number(held, "used_bytes")),
        most=int(finders_queue.number(held, "most_bytes")),
    )
