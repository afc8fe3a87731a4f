"""What the views of a plan show: the use of every card, and hosts that look the same told once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from ..fit.account import margin
from ..inventory.model import Gpu, Host
from .model import HostPlan, Instance, Placement, Plan, Pool, Work

#: parts of a bar, in its order, with the word for a legend
PARTS = {
    "weights": "weights",
    "kv": "KV cache",
    "compute": "compute",
    "reserve": "reserve",
    "free": "free",
}


@dataclass(frozen=True, slots=True)
class Use:
    """Bytes of one card by what holds them; together they are its memory."""

    weights: int = 0
    kv: int = 0
    compute: int = 0
    reserve: int = 0  # driver contexts, Ollama's margin, and what the inventory leaves to others
    free: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, part.name) for part in fields(self))

    def parts(self) -> tuple[tuple[str, int], ...]:
        return tuple((name, getattr(self, name)) for name in PARTS)


@dataclass(frozen=True, slots=True)
class CardRow:
    """One card and the instances on it."""

    gpu: Gpu
    use: Use
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class HostRow:
    """Hosts whose cards, versions and placements are the same, shown once."""

    hosts: tuple[Host, ...]
    cards: tuple[CardRow, ...]
    without_card: tuple[Instance, ...]

    @property
    def names(self) -> str:
        return listed([host.name for host in self.hosts])


def rows(plan: Plan, only: Iterable[str] | None = None) -> tuple[HostRow, ...]:
    """The hosts with cards or instances, those that look the same together, in the plan's order."""
    wanted = None if only is None else set(only)
    alike: dict[tuple[object, ...], list[HostPlan]] = {}
    for host in plan.hosts:
        if (host.host.gpus or host.instances) and (wanted is None or host.host.name in wanted):
            alike.setdefault(_look(host), []).append(host)
    return tuple(
        HostRow(
            tuple(h.host for h in group),
            tuple(_card(group[0], gpu) for gpu in group[0].host.gpus),
            tuple(i for i in group[0].instances if not i.gpus),
        )
        for group in alike.values()
    )


def _look(host: HostPlan) -> tuple[object, ...]:
    """What makes two hosts look the same; names, addresses and UUIDs do not count."""
    gpus = tuple((g.index, g.model, g.vram, g.reserve, g.state, g.reason) for g in host.host.gpus)
    instances = tuple(
        (i.name, i.port, tuple(g.index for g in i.gpus), i.server, tuple(map(_placed, i.placements)))
        for i in host.instances
    )
    return (host.host.ollama.version, gpus, instances)


def _placed(placement: Placement) -> tuple[object, ...]:
    return (placement.model.name, placement.source.ref, placement.settings, placement.account)


def _card(host: HostPlan, gpu: Gpu) -> CardRow:
    mine = tuple(i for i in host.instances if any(g.index == gpu.index for g in i.gpus))
    return CardRow(gpu, use_of(gpu, mine, host.host.ollama.version), mine)


def use_of(gpu: Gpu, instances: Iterable[Instance], version: str) -> Use:
    """How the instances on a card use it. Of models that take turns the largest counts.

    The margin that Ollama leaves free is there once, however many models share the card.
    """
    total, spare = Use(), 0
    for instance in instances:
        spare = margin(version)
        uses = [_part(gpu, instance, placement, spare) for placement in instance.placements]
        if instance.server.max_loaded_models == 1:
            uses = [max(uses, key=lambda use: use.total)]
        for use in uses:
            total = _sum(total, use)
    total = replace(total, reserve=total.reserve + gpu.reserve + spare)
    return replace(total, free=max(0, gpu.vram - total.total))


def _part(gpu: Gpu, instance: Instance, placement: Placement, spare: int) -> Use:
    """The part of a placement that is on one of its cards, in the proportions of the whole."""
    need = placement.account
    card = [g.index for g in instance.gpus].index(gpu.index)
    reserve = need.reserve_bytes // max(1, len(instance.gpus))
    mine = need.per_card[card] - reserve if need.per_card else 0
    whole = max(1, need.total_gpu_bytes - need.reserve_bytes)
    weights, kv = (mine * size // whole for size in (need.weights_bytes, need.kv_bytes))
    return Use(weights, kv, mine - weights - kv, max(0, reserve - spare))


def _sum(one: Use, two: Use) -> Use:
    return Use(*(getattr(one, part.name) + getattr(two, part.name) for part in fields(Use)))


# --------------------------------------------------------------------------------------------- words
def gib(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / 2**30:.1f} GiB"


def context_of(placement: Placement) -> str:
    """ "16384 × 2": tokens of a slot, and slots."""
    slots = f" × {placement.slots}" if placement.slots > 1 else ""
    return f"{placement.settings.context}{slots}"


def verdict_of(placement: Placement) -> str:
    need = placement.account
    if placement.verdict == "partial" and need.layers < need.layers_total:
        return f"partial: {need.layers} of {need.layers_total} layers"
    if placement.verdict == "partial":
        return "partial: KV cache in host memory" if not need.kv_bytes else "partial: experts in host memory"
    return placement.verdict


def quant_of(placement: Placement) -> str:
    """The quantisation where the inventory names it; else the tag tells."""
    return placement.source.quant or ""


def concessions_of(placement: Placement) -> tuple[str, ...]:
    """ "context 16384 → 8192, saves 1.0 GiB: …" for each step of the ladder."""
    return tuple(
        f"{c.what} {c.before} → {c.after}, saves {gib(c.saved_bytes)}: {c.cost}"
        for c in placement.concessions
    )


def pool_line(pool: Pool) -> tuple[str, str, str, str]:
    """Names, members, slots and context of a pool, as words."""
    members = listed([f"{m.host}/{m.instance}" for m in pool.members])
    return ", ".join(pool.names), members, str(sum(m.slots for m in pool.members)), str(pool.context)


def work_head(work: Work) -> str:
    """Where a queue keeps its jobs, and where they come in."""
    redis = work.queue.redis
    kept = f"Redis on {redis.host}" if redis.host else "a Redis of yours"
    return f"{kept}, jobs from {', '.join(work.queue.balancers)} on {listed(work.fronts)}"


def work_lines(work: Work) -> tuple[tuple[str, str, str, str], ...]:
    """For each pool of a queue its model, workers, jobs at once and places, as words."""
    return tuple(
        (pool.name, members, slots, str(work.queue.length))
        for pool in work.pools
        for _, members, slots, _ in [pool_line(pool)]
    )


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names with commas; of many the first, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def headline(plan: Plan) -> str:
    """One line on the whole fleet."""
    instances = [i for h in plan.hosts for i in h.instances]
    cards = {(i.host, g.index) for i in instances for g in i.gpus}
    every = sum(g.state == "in" for h in plan.hosts for g in h.host.gpus)
    partial = sum(p.verdict != "full" for i in instances for p in i.placements)
    words = [
        _count(len(instances), "instance"),
        f"{len(cards)} of {_count(every, 'card')} in use",
        f"{_count(len(plan.inventory.models), 'model')}",
        f"{_count(len(plan.entries), 'balancer')}",
    ]
    if plan.works:
        words.append(_count(len(plan.works), "queue"))
    if partial:
        words.append(f"{partial} not fully on a card")
    return ", ".join(words)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
