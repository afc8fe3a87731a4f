"""Findings about what an instance answers: its version, its cards, the models that it should hold."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..agent import cards
from ..fit.account import CONTEXT
from ..inventory.model import Balancer
from ..plan.model import Placement
from .evidence import InstanceSeen, Loaded, Promise
from .finding import Case, Finding, gib, quoted
from .log_lines import Load, loads
from .places import Change

MUCH = 1 << 30  # bytes of weights in host memory beyond the planned
SETTLED = 20.0  # seconds after its start in which an instance may still be silent
_LOADING = re.compile(r'msg="(?:starting llama-server|starting runner)')
_LOADED = re.compile(r"started in \d")


def _up(case: Case) -> Iterator[InstanceSeen]:
    """Instances whose unit runs, and not only since a moment."""
    for instance in case.seen.instances:
        unit = case.unit(instance.unit)
        if unit.up and (unit.age is None or unit.age >= SETTLED or not instance.error):
            yield instance


def answers(case: Case) -> Iterator[Finding]:
    for instance in _up(case):
        if instance.error:
            yield case.finding(
                "no-answer",
                instance.name,
                f"{instance.unit} runs, but does not answer on port {instance.port}",
                [f"GET /api/version: {instance.error}", *quoted(case.log(instance.unit).last)[-2:]],
                f"systemctl restart {instance.unit}",
                case.place(instance.name),
            )


def version(case: Case) -> Iterator[Finding]:
    wanted = case.plan.host.ollama.version
    for instance in _up(case):
        if instance.version and instance.version.lstrip("v") != wanted.lstrip("v"):
            yield case.finding(
                "version",
                instance.name,
                f"runs Ollama {instance.version}, planned is {wanted}",
                [f'GET /api/version: {{"version":"{instance.version}"}}'],
                f"install Ollama {wanted} (`ogen provision`), or set ollama.version: {instance.version}",
                *case.set(instance.version.lstrip("v"), "ollama", "version"),
            )


def right_card(case: Case) -> Iterator[Finding]:
    """Which card an instance took is told by its log; /api/ps does not say."""
    known = [
        cards.Card(c.index, c.uuid, c.pci, c.total >> 20, c.name, c.driver)
        for c in case.seen.cards
        if c.vendor == "nvidia"
    ]
    for instance in _up(case):
        log = case.log(instance.unit)
        shown = [line for line in log.start if 'msg="inference compute"' in line.text]
        if not shown:
            continue  # its start is no longer in the journal
        wrong = cards.check([line.text for line in shown], list(instance.gpus), known)
        if not wrong:
            continue
        kind = "on-cpu" if "CPU" in wrong else "vulkan" if "Vulkan" in wrong else "wrong-card"
        there = [card for card in case.cards_of(instance) if card.vendor == "nvidia"]
        if kind == "wrong-card" and len(there) < len(instance.gpus):
            continue  # a card that is gone can't be compared: that is a finding of its own; nor can AMD's
        fix = {
            "on-cpu": f"restart {instance.unit} when the driver works again: nvidia-smi and dmesg tell",
            "vulkan": "OLLAMA_VULKAN=0 must be in the unit: take OLLAMA_VULKAN out of `env`, ogen apply",
            "wrong-card": "ogen lock records the cards' UUIDs: then ogen apply",
        }[kind]
        where = case.place(instance.name)
        if kind == "vulkan":
            host = case.plan.host
            owner = ("env",) if "OLLAMA_VULKAN" in host.env else ("ollama", "env")
            where = case.setting(*owner, "OLLAMA_VULKAN")
        yield case.finding(kind, instance.name, wrong, quoted(shown), fix, where)


def resident(case: Case) -> Iterator[Finding]:
    for instance in _up(case):
        age = case.unit(instance.unit).age
        if instance.error or (age is not None and age < SETTLED) or _loading(case, instance):
            continue
        for promise in instance.promised:
            if promise.resident and instance.loaded(promise) is None:
                there = ", ".join(m.name for m in instance.models) or "nothing"
                yield case.finding(
                    "not-resident",
                    instance.name,
                    f"{promise.model} is not in memory: the next request waits for its load",
                    [f"GET /api/ps: {there}"],
                    f"systemctl start ogen-preload@{instance.name}.service loads it; keep_alive: -1 keeps it",
                    *case.set_model(instance.name, promise.model, -1, "keep_alive"),
                )


def empty(case: Case, instance: InstanceSeen) -> bool:
    """It says that it holds no model, and is not about to load one."""
    unit = case.unit(instance.unit)
    settled = unit.up and (unit.age is None or unit.age >= SETTLED)
    return settled and not instance.error and not instance.models and not _loading(case, instance)


def _loading(case: Case, instance: InstanceSeen) -> bool:
    """A load is under way: its start is in the log, its end is not."""
    lines = case.log(instance.unit).lines
    last = next((n for n in reversed(range(len(lines))) if _LOADING.search(lines[n].text)), None)
    if last is None:
        return False
    young = case.seen.time - lines[last].time < 900
    return young and not any(_LOADED.search(line.text) or "[GIN]" in line.text for line in lines[last:])


def context(case: Case) -> Iterator[Finding]:
    """Another context is another memory: a client that asks for one reloads the model."""
    for instance in _up(case):
        for promise in instance.promised:
            found, placed = instance.loaded(promise), case.placement(instance.name, promise.model)
            # an embedding model's context is clamped to what it was trained with
            planned = promise.context or (placed.settings.context if placed else 0)
            wanted = 0 if placed and placed.model.embedding else planned
            if found and wanted and found.context and found.context != wanted:
                yield case.finding(
                    "context",
                    instance.name,
                    f"{promise.model} is loaded with context {found.context}, planned is {wanted}",
                    [f"GET /api/ps: {found.name} context_length {found.context}"],
                    "a client sends num_ctx: client_options: {max_context: plan} at the balancer stops it;"
                    " ogen apply if the plan has changed",
                    *kept_to_the_plan(case, instance, promise.model),
                )


def kept_to_the_plan(case: Case, instance: InstanceSeen, model: str) -> Change:
    """What makes a balancer leave no context to clients but the plan's."""
    balancer = _balancer_of(case, instance.name)
    if balancer is None:
        return case.model_setting(instance.name, model, "context"), ""
    if balancer.routing != "by_model":  # nothing else reads requests
        return case.places.set(balancer.where, "by_model", "routing")
    return case.places.set(balancer.where, "plan", "client_options", "max_context")


def _balancer_of(case: Case, instance: str) -> Balancer | None:
    """The first balancer that sends to an instance of this host."""
    member = (case.plan.host.name, instance)
    return next(
        (
            entry.balancer
            for entry in case.whole.entries
            if any((m.host, m.instance) == member for pool in entry.pools for m in pool.members)
        ),
        None,
    )


def spilled(case: Case) -> Iterator[Finding]:
    """Layers or experts in host memory that were planned on the card: slow, and easily overlooked."""
    for instance in _up(case):
        log = case.log(instance.unit)
        told = loads([*log.start, *(line for line in log.lines if line not in log.start)])
        for promise in instance.promised:
            found, placed = instance.loaded(promise), case.placement(instance.name, promise.model)
            if found is None:
                continue
            last = next((one for one in reversed(told) if _is(case, one, promise, instance)), None)
            what = _spill(found, last, promise, placed)
            if what:
                shown = quoted([last.line]) if last else ()
                why, change = advice(case, instance, promise.model, None)
                yield case.finding(
                    "spilled",
                    instance.name,
                    f"{promise.model} is not wholly on the card: {what}",
                    [*shown, f"GET /api/ps: {gib(found.vram)} of {gib(found.size)} in VRAM"],
                    f"free the card, or {why}",
                    *change,
                )


def _is(case: Case, load: Load, promise: Promise, instance: InstanceSeen) -> bool:
    names = case.seen.deep.blobs.get(load.blob, ()) if case.seen.deep else ()
    return promise.tagged in names or (not names and len(instance.promised) == 1)


def _spill(found: Loaded, load: Load | None, promise: Promise, placed: Placement | None) -> str:
    """What of a model is in host memory that the plan has on the card."""
    planned = placed.account if placed else None
    full = promise.verdict == "full"
    layers = load.layers if load else None
    if load and layers is not None:
        wanted = load.layers_total if full else planned.layers if planned else 0
        near = 0 if full else max(2, load.layers_total // 10)  # fit measures what the plan computes
        if layers < wanted - near:
            return f"{layers} of {load.layers_total} layers" + ("" if full else f", planned {wanted}")
    if not full:
        return ""
    if load and load.overflow:
        return f"all layers, but parts of {load.overflow} overflow into host memory"
    if (
        load
        and planned
        and load.on_host > planned.host_weights_bytes + max(MUCH, planned.weights_bytes // 10)
    ):
        return f"all layers, but {gib(load.on_host)} of its weights are in host memory (experts of a mixture)"
    if found.vram < found.size:
        return f"{100 * found.vram / max(1, found.size):.0f} % of it"
    return ""


def advice(case: Case, instance: InstanceSeen, model: str, room: int | None) -> tuple[str, Change]:
    """The next concession in words, and the line of the model that makes it.

    room: bytes on the cards that were free for it; None: what the cards have beside what others hold.
    """
    placed, planned = case.placement(instance.name, model), case.instance(instance.name)
    step, where = None, case.model_place(instance.name, model)
    words = "were free" if room is not None else "others leave"
    if placed and planned:
        free = room if room is not None else _room(case, instance)
        step = case.ladder.lower(case.plan.host, planned, placed, free)
        room = free
    if step is None or not step.sets:
        return "next concession: a smaller context or quantisation", (where, "")
    fits = f"fits in the {gib(room or 0)} that {words}" if step.fits and room else ""
    much = f"needs {gib(step.needs)}, saves {gib(step.saves)}" + (f": {fits}" if fits else "")
    sets = ", ".join(step.sets)
    where = case.places.under(where, step.sets[0].partition(":")[0])
    return f"next concession: {sets} for {model} ({much})", (where, sets)


def _room(case: Case, instance: InstanceSeen) -> int | None:
    """Bytes on an instance's cards beside what programs other than ogen's hold: as the driver names them,
    else what is in use beyond the models that are loaded there."""
    here = case.cards_of(instance)
    if not here:
        return None
    units = {one.unit for one in case.seen.instances}
    uuids = {card.uuid for card in here}
    named = sum(p.used for p in case.seen.programs if p.unit not in units and p.uuid in uuids)
    own = [m for one in case.seen.instances if {*case.cards_of(one)} & {*here} for m in one.models]
    beyond = sum(card.used for card in here) - sum(m.vram + CONTEXT for m in own)
    return sum(card.total for card in here) - max(named, beyond, 0)


FINDERS = (answers, version, right_card, resident, context, spilled)
