"""Findings about cards: gone, other than planned, hot, or with memory that others hold."""

from __future__ import annotations

from collections.abc import Iterator

from ..inventory.model import Gpu
from ..plan.picture import use_of
from .evidence import CardSeen, listed
from .finders_instance import empty
from .finding import Case, Finding, clock, gib

SLACK = 512 * 2**20  # bytes: driver contexts differ
IDLE = 1536 * 2**20  # bytes on a card with nothing loaded: several driver contexts
HOT = 90.0  # °C: cards slow down somewhere between 83 and 95
SMALLER = 0.97


def driver(case: Case) -> Iterator[Finding]:
    if _planned(case, "amd") and not _there(case, "amd"):
        yield case.finding(
            "driver",
            "",
            "the kernel shows no AMD card",
            ["/sys/class/drm: no card of amdgpu's"],
            "modprobe amdgpu; dmesg says why it does not load; firmware is in firmware-amd-graphics",
        )
    if not _planned(case, "nvidia") or _there(case, "nvidia"):
        return
    said = case.seen.card_said or ("nvidia-smi is not there" if case.seen.card_code == 127 else "no card",)
    mismatch = any("mismatch" in line for line in said)
    yield case.finding(
        "driver-mismatch" if mismatch else "driver",
        "",
        "the driver's kernel module is of another version than its library"
        if mismatch
        else "nvidia-smi shows no card",
        [f"nvidia-smi: exit {case.seen.card_code}", *said],
        "reboot the host: the driver was updated while it was in use"
        if mismatch
        else "modprobe nvidia; dmesg says why it does not load; reinstall the driver after a kernel update",
    )


def lost(case: Case) -> Iterator[Finding]:
    for gpu in _planned(case):
        seen = _there(case, gpu.vendor)
        if seen and case.card(gpu) is None:
            there = ", ".join(f"{c.index} {c.uuid}" for c in seen)
            wanted = gpu.uuid or f"index {gpu.index}"
            yield case.finding(
                "card-lost",
                f"card {gpu.index}",
                f"{gpu.model} ({wanted}) is not among the host's cards",
                [*case.seen.card_said, f"{seen[0].source} shows: {there}"],
                f"reboot the host; if it stays away: gpus: {{{gpu.index}: {{state: out, reason: …}}}}"
                ", or a new UUID by `ogen lock`",
                *case.places.set(gpu.where, "out", "state"),
            )


def smaller(case: Case) -> Iterator[Finding]:
    for gpu in _planned(case):
        card = case.card(gpu)
        if card and card.total < gpu.vram * SMALLER:
            yield case.finding(
                "card-smaller",
                f"card {gpu.index}",
                f"planned was {gpu.model} with {gib(gpu.vram)}, there is {card.name} with {gib(card.total)}",
                [f"{card.source}: {card.index}, {card.name}, {card.total >> 20} MiB"],
                f"set the card's true model, or vram: {card.total >> 20}MiB",
                *case.places.set(gpu.where, f"{card.total >> 20}MiB", "vram"),
            )


def others(case: Case) -> Iterator[Finding]:
    """Memory of programs that are not ogen's: by name where the driver tells, else by the sum."""
    units = {instance.unit for instance in case.seen.instances}
    for gpu in _used(case):
        card = case.card(gpu)
        if card is None:
            continue
        foreign = [p for p in case.seen.programs if p.uuid == card.uuid and p.unit not in units]
        named = sum(p.used for p in foreign)
        over = _over(case, gpu, card)
        if named > max(gpu.reserve, SLACK) or over > 0:
            held = named or over
            room = named or gpu.reserve + over
            who = ", ".join(sorted({p.name.rsplit("/", 1)[-1] for p in foreign})) or "others than ogen"
            programs = [f"pid {p.pid} {p.name} ({p.unit or 'no unit'}): {p.used >> 20} MiB" for p in foreign]
            planned = _held(case, gpu) >> 20
            figures = f"{card.source}: {card.used >> 20} of {card.total >> 20} MiB used, planned {planned}"
            yield case.finding(
                "memory-others",
                f"card {gpu.index}",
                f"{who} hold {gib(held)} of the card",
                [*programs, figures],
                f"stop them, or leave them room: reserve: {-(-room >> 20)}MiB",
                *case.places.set(gpu.where, f"{-(-room >> 20)}MiB", "reserve"),
            )


def moves(case: Case) -> Iterator[Finding]:
    """Memory that was held and is free again: the monitor has seen it since the instances run."""
    told = {one.about for one in others(case)}
    for gpu in _used(case):
        card = case.card(gpu)
        peak = case.seen.deep.peaks.get(card.uuid) if card and case.seen.deep else None
        if card is None or peak is None or f"card {gpu.index}" in told:
            continue
        when, most = peak
        planned = _held(case, gpu)
        if most > planned + SLACK:
            room = gpu.reserve + most - planned
            yield case.finding(
                "memory-moves",
                f"card {gpu.index}",
                f"others held up to {gib(most - planned)} of the card, at {clock(when)}",
                [
                    f"monitor: {most >> 20} MiB used at {clock(when)}, planned {planned >> 20}",
                    f"{card.source}: {card.used >> 20} MiB used now",
                ],
                f"the monitor's cards.csv tells when; leave them room: reserve: {-(-room >> 20)}MiB",
                *case.places.set(gpu.where, f"{-(-room >> 20)}MiB", "reserve"),
            )


def _over(case: Case, gpu: Gpu, card: CardSeen) -> int:
    """Bytes in use beyond what the plan explains; 0 if it does."""
    here = [i for i in case.seen.instances if card in case.cards_of(i)]
    if here and all(empty(case, one) for one in here):
        limit = IDLE + gpu.reserve
        return card.used - gpu.reserve if card.used > limit else 0
    planned = _held(case, gpu)
    return card.used - planned if card.used > planned + SLACK else 0


def _held(case: Case, gpu: Gpu) -> int:
    """Bytes that the plan accounts for: models, contexts, margin, what is left to others."""
    mine = [i for i in case.plan.instances if any(g.index == gpu.index for g in i.gpus)]
    use = use_of(gpu, mine, case.plan.host.ollama.version)
    return use.total - use.free


def hot(case: Case) -> Iterator[Finding]:
    for card in case.seen.cards:
        if card.temperature is not None and card.temperature >= HOT:
            yield case.finding(
                "card-hot",
                f"card {card.index}",
                f"{card.name} is at {card.temperature:.0f} °C: it slows down",
                [f"{card.source}: {card.temperature:.0f} °C, {card.power or 0:.0f} W"],
                "clean the fans, look at the air; `nvidia-smi -pl` limits the power"
                if card.vendor == "nvidia"
                else "clean the fans, look at the air; `rocm-smi --setpoweroverdrive` limits the power",
            )


def _planned(case: Case, vendor: str = "") -> list[Gpu]:
    """The cards that ogen uses, as far as hosts list them: no slices of a card."""
    cards = [gpu for gpu in case.plan.host.gpus if case.seen.live and gpu.state == "in" and listed(gpu)]
    return [gpu for gpu in cards if vendor in ("", gpu.vendor)]


def _there(case: Case, vendor: str) -> list[CardSeen]:
    return [card for card in case.seen.cards if card.vendor == vendor]


def _used(case: Case) -> list[Gpu]:
    """Of these the ones with an instance: what others do with the rest is their business."""
    used = {gpu.index for instance in case.plan.instances for gpu in instance.gpus}
    return [gpu for gpu in _planned(case) if gpu.index in used]


FINDERS = (driver, lost, smaller, others, moves, hot)
