"""Bins of a monitor as series: cards against plan and total, instances that were down, gaps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..agent.binned import CARD_BIN
from ..plan.model import HostPlan
from ..plan.picture import use_of
from ..release.plaintext import one_line
from .report_span import Span, Zone, natural, runs, when

Said = Mapping[str, Any]
GIB = 1024  # MiB
MARKS = 60
HOT = 90  # °C
FULL = 0.95  # of a card's memory
BEYOND = 0.5  # GiB beyond the plan
SPILL = 64  # MiB in host memory
_SAMPLES, _USED, _, _MOST, _BUSY_N, _BUSY, _, _HOT_N, _HOT, _WATT_N, _WATTS, _LOST = range(len(CARD_BIN))


def host(one: HostPlan, said: Said, span: Span, zone: Zone) -> dict[str, Any]:
    name = one.host.name
    cards = [_card(one, card, span) for card in said["cards"].values()]
    cards.sort(key=lambda card: (card["gpu"], card["name"]))
    instances = [_instance(who, said["instances"][who], span) for who in said["instances"]]
    instances.sort(key=lambda instance: natural(instance["name"]))
    gaps, begin = _gaps(cards, instances, span)
    missing, silent = list(_missing(one, cards)), not cards and not instances
    marks = sorted(_marks(said, instances, span))[:MARKS]
    notable = [f"{name} {text}" for card in cards for text in _of_card(card, span, zone)]
    bare = {instance.name for instance in one.instances if not instance.gpus}
    for instance in instances:
        spills = instance["name"] not in bare
        notable += [f"{name}/{text}" for text in _of_instance(instance, span, zone, spills=spills)]
    later = [place for place in gaps if begin is None or place > begin]
    notable += [f"{name}: nothing was written {text}" for text in when(later, span, zone)]
    notable += [f"{name}: {text}" for text in missing if silent]
    begins = [f"its figures begin {zone.clock(span.at(begin))}"] if begin else []
    return {
        "name": name,
        "cards": cards,
        "instances": instances,
        "begin": begin,
        "gaps": runs(gaps),
        "marks": marks,
        "events": [f"{zone.clock(at)} {text}" for at, text in marks],
        "notable": notable,
        "notes": [*_reading(said), *begins, *([] if silent else missing)],
    }


# ------------------------------------------------------------------------------------------- cards
def _card(one: HostPlan, card: Said, span: Span) -> dict[str, Any]:
    rows = span.rows(card["bins"])
    name = str(card["name"]).removeprefix("NVIDIA ").removeprefix("GeForce ")
    return {
        "gpu": int(card["gpu"]),
        "name": one_line(name, 60),
        "total": round(int(card["total"]) / GIB, 2),
        "planned": _planned(one, int(card["gpu"])),
        "used": _mean(rows, _USED, _SAMPLES, GIB),
        "most": [round(row[_MOST] / GIB, 2) if row and row[_SAMPLES] else None for row in rows],
        "busy": _mean(rows, _BUSY, _BUSY_N),
        "hot": [row[_HOT] if row and row[_HOT_N] else None for row in rows],
        "watts": _mean(rows, _WATTS, _WATT_N),
        "lost": [place for place, row in enumerate(rows) if row and row[_LOST]],
    }


def _mean(rows: Sequence[Any], total: int, count: int, scale: int = 1) -> list[float | int | None]:
    digits = 2 if scale > 1 else None
    return [round(row[total] / row[count] / scale, digits) if row and row[count] else None for row in rows]


def _planned(one: HostPlan, index: int) -> float | None:
    """GiB that the plan has on a card, as `ogen status` tells it; None where it has no such card."""
    gpu = next((g for g in one.host.gpus if g.index == index), None)
    if gpu is None or gpu.state == "out":
        return None
    mine = [i for i in one.instances if any(g.index == index for g in i.gpus)]
    use = use_of(gpu, mine, one.host.ollama.version)
    return round((use.total - use.free) / 2**30, 2)


def _of_card(card: Said, span: Span, zone: Zone) -> Iterator[str]:
    who = f"card {card['gpu']}"
    most = max(((v, at) for at, v in enumerate(card["most"]) if v is not None), default=None)
    if most is not None and card["total"]:
        peak = f"{most[0]:.1f} of {card['total']:.1f} GiB at {zone.clock(span.at(most[1]))}"
        if most[0] > FULL * card["total"]:
            yield f"{who}: memory was nearly full, {peak}"
        elif card["planned"] is not None and most[0] > card["planned"] + BEYOND:
            yield f"{who}: {most[0] - card['planned']:.1f} GiB more than planned, {peak}"
    hot = max(((v, at) for at, v in enumerate(card["hot"]) if v is not None), default=None)
    if hot is not None and hot[0] >= HOT:
        yield f"{who}: {hot[0]} °C at {zone.clock(span.at(hot[1]))}"
    for text in when(card["lost"], span, zone):
        yield f"{who}: lost to its driver {text}"


# --------------------------------------------------------------------------------------- instances
def _instance(name: str, said: Said, span: Span) -> dict[str, Any]:
    rows = span.rows(said["bins"])
    models = []
    for model, bins in sorted(said["models"].items()):
        vram, beside = (max(row[place] for row in bins.values()) for place in (0, 1))
        models.append({"name": one_line(model, 100), "vram": vram, "host": beside})
    return {
        "name": one_line(name, 60),
        "seen": [place for place, row in enumerate(rows) if row],
        "down": [place for place, row in enumerate(rows) if row and row[1]],
        "models": models,
    }


def _of_instance(instance: Said, span: Span, zone: Zone, *, spills: bool) -> Iterator[str]:
    for text in when(instance["down"], span, zone):
        yield f"{instance['name']}: did not answer within {text}"
    for model in instance["models"]:
        if spills and model["host"] > SPILL:
            yield f"{instance['name']}: up to {model['host'] / GIB:.1f} GiB of {model['name']} in host memory"


# ----------------------------------------------------------------------------------- gaps and marks
def _gaps(cards: Sequence[Said], instances: Sequence[Said], span: Span) -> tuple[list[int], int | None]:
    """Bins for which the monitor wrote nothing, and the one in which its figures begin if that is not at
    once; the last bin has only begun, the first one may be cut."""
    seen = {place for instance in instances for place in instance["seen"]}
    seen |= {at for card in cards for at, used in enumerate(card["used"]) if used is not None}
    seen |= {at for card in cards for at in card["lost"]}
    if not seen:
        return [], None
    gaps = [place for place in range(1, span.bins - 1) if place not in seen]
    return gaps, min(seen) if min(seen) > 1 else None


def _marks(said: Said, instances: Sequence[Said], span: Span) -> Iterator[tuple[float, str]]:
    for at, status, release in said.get("events", []):
        if span.start <= float(at) <= span.end:
            yield float(at), one_line(f"{status} {str(release)[:8]}", 60)
    for instance in instances:
        for first, _ in runs(instance["down"]):
            yield span.at(first), f"{instance['name']} down"


def _reading(said: Said) -> Iterator[str]:
    words = {
        "torn": "{} lines are torn or no figures: left out",
        "back": "its clock went back, {} times",
        "future": "{} lines lie in the future and are left out: its clock is ahead",
        "late": "there was more than could be read in time: the oldest lines are missing",
        "unreadable": "{} files could not be read to their end",
    }
    for what, count in sorted(said["notes"].items()):
        if what in words:
            yield words[what].format(count)


def _missing(one: HostPlan, cards: Sequence[Said]) -> Iterator[str]:
    there = {card["gpu"] for card in cards}
    gone = [str(g.index) for g in one.host.gpus if g.state == "in" and g.index not in there]
    if gone and not one.host.monitoring.enabled:
        yield "its monitoring is off: no figures of its cards"
    elif gone and there:
        yield f"no figures of card{'s' if len(gone) > 1 else ''} {', '.join(gone)}"
    elif gone:
        words = "its monitor wrote nothing; `ogen apply` starts it, `ogen doctor` looks at it"
        yield f"no figures of its cards: {words}"
