"""Findings in the journals of instances: memory that ran out, refused names, errors, ignored settings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from ..errors import Where
from .evidence import InstanceSeen, Line
from .finders_instance import advice, kept_to_the_plan
from .finding import Case, Finding, clock, gib, quoted
from .log_lines import (
    answers,
    context_of,
    deaths,
    evictions,
    ignored,
    late_loads,
    shortages,
    starts,
)
from .places import Change

BUSY = "503"
OFTEN = 4  # loads of a model that is to stay
#: variables that the engine no longer reads (removed in Ollama 0.30 and before)
GONE = {
    "OLLAMA_NEW_ENGINE": "0.30",
    "OLLAMA_MULTIUSER_CACHE": "0.30",
    "OLLAMA_RUNNERS_DIR": "0.5",
    "OLLAMA_TMPDIR": "0.5",
    "OLLAMA_MAX_VRAM": "0.5",
    "OLLAMA_INTEL_GPU": "0.12.9",
}


def memory(case: Case) -> Iterator[Finding]:
    for instance in case.seen.instances:
        found = shortages(case.log(instance.unit).lines)
        if not found:
            continue
        model = _model(case, instance, found[-1].blob)
        times = f"{len(found)} times, last" if len(found) > 1 else "once,"
        why, change = advice(case, instance, model, found[-1].free or None)
        yield case.finding(
            "out-of-memory",
            instance.name,
            f"{model or 'a model'} ran out of memory on the card, {times} at {clock(found[-1].line.time)}",
            [*quoted(one.line for one in found[-1:]), *_figures(case, instance, found[-1].free)],
            why,
            *change,
        )


def _figures(case: Case, instance: InstanceSeen, free: int) -> Iterator[str]:
    """What the cards had for the load, as its log told, and what they have now."""
    if free:
        yield f"the log before it: {gib(free)} were free on the cards"
    cards = case.cards_of(instance)
    if cards:
        used = ", ".join(f"{card.index}: {card.used >> 20} of {card.total >> 20} MiB used" for card in cards)
        yield f"nvidia-smi now: card {used}"


def _model(case: Case, instance: InstanceSeen, blob: str) -> str:
    """The promised model of a model file; the only one where there is one."""
    names = case.seen.deep.blobs.get(blob, ()) if case.seen.deep else ()
    named = next((p.model for p in instance.promised if p.tagged in names), "")
    return named or (instance.promised[0].model if len(instance.promised) == 1 else "")


def runners(case: Case) -> Iterator[Finding]:
    for instance in case.seen.instances:
        log = case.log(instance.unit).lines
        late = [line.time for line in late_loads(log)]
        found = [line for line in deaths(log) if all(abs(line.time - at) > 5 for at in late)]
        if found and not shortages(log):
            yield case.finding(
                "runner-died",
                instance.name,
                f"a model's runner ended or did not load, {len(found)} times",
                quoted(found),
                "the host's dmesg tells of a kill for want of memory; the lines before tell of anything else",
                case.place(instance.name),
            )


def refused(case: Case) -> Iterator[Finding]:
    for instance in case.seen.instances:
        found = answers(case.log(instance.unit).lines, "403")
        if found:
            yield case.finding(
                "host-refused",
                instance.name,
                f"{len(found)} requests were answered 403: their Host is no name of this machine",
                quoted(found),
                "a proxy before it must send `Host: localhost:PORT`, as ogen's balancers do; use one of them",
                case.place(instance.name),
            )


def errors(case: Case) -> Iterator[Finding]:
    for instance in case.seen.instances:
        log = case.log(instance.unit).lines
        busy, failed = answers(log, BUSY), [one for one in answers(log, "5") if one not in answers(log, BUSY)]
        if busy:
            yield case.finding(
                "busy",
                instance.name,
                f"{len(busy)} requests were turned away as too many (503)",
                quoted(busy),
                "more replicas or `parallel`, or ollama.max_queue",
                *case.set(2 * (case.plan.host.ollama.max_queue or 512), "ollama", "max_queue"),
            )
        if failed and not shortages(log) and not late_loads(log):
            yield case.finding(
                "requests-fail",
                instance.name,
                f"{len(failed)} requests ended with an error",
                quoted(failed),
                f"ogen logs shows what came before; systemctl restart {instance.unit} if it goes on",
                case.place(instance.name),
            )


def settings(case: Case) -> Iterator[Finding]:
    for instance in case.seen.instances:
        for name, line in ignored(case.log(instance.unit).lines):
            quant = " " in name
            yield case.finding(
                "setting-ignored",
                instance.name,
                name if quant else f"Ollama does not take the option {name}",
                quoted([line]),
                "flash_attention: true goes with a quantised cache"
                if quant
                else f"take {name} out of the model's parameters, or out of what clients send",
                *_option_place(case, instance, name),
            )


def _option_place(case: Case, instance: InstanceSeen, name: str) -> Change:
    if " " in name:
        return case.set("true", "ollama", "flash_attention")
    for promise in instance.promised:
        placed = case.placement(instance.name, promise.model)
        if placed and name in placed.model.parameters:
            return case.model_setting(instance.name, promise.model, "parameters", name), ""
    return case.place(instance.name), ""


def late(case: Case) -> Iterator[Finding]:
    for instance in case.seen.instances:
        found = late_loads(case.log(instance.unit).lines)
        if found:
            given = case.plan.host.ollama.load_timeout
            yield case.finding(
                "load-timeout",
                instance.name,
                f"{len(found)} loads were given up: nothing moved for {given}",
                quoted(found),
                "a longer load_timeout for models on a slow disk; dmesg tells of a disk that fails",
                *case.set(_longer(given), "ollama", "load_timeout"),
            )


def _longer(span: str) -> str:
    """Twice a Go duration of one unit; half an hour where it is another."""
    found = re.fullmatch(r"(\d+)([smh])", span)
    return f"{2 * int(found[1])}{found[2]}" if found else "30m"


def reloads(case: Case) -> Iterator[Finding]:
    """A resident model that is loaded again and again: each time requests wait, and memory moves."""
    for instance in case.seen.instances:
        log = case.log(instance.unit).lines
        if shortages(log) or deaths(log) or late_loads(log):
            continue  # that is why
        for blob, begun in starts(log).items():
            model = _model(case, instance, blob)
            found = _unchosen(case, instance, model, begun)
            if len(found) < OFTEN or not any(p.model == model and p.resident for p in instance.promised):
                continue
            contexts = sorted({context_of(line) or 0 for line in found})
            evicted = evictions(log)
            yield case.finding(
                "reloads",
                instance.name,
                f"{model} was loaded {len(found)} times in this run, last at {clock(found[-1].time)}",
                [*quoted(evicted[-1:]), *quoted(found)[-2:]],
                *_reloads_fix(case, instance, model, contexts, evicted),
            )


def _unchosen(case: Case, instance: InstanceSeen, model: str, found: tuple[Line, ...]) -> tuple[Line, ...]:
    """Loads but those by which autofit goes from one rung to another."""
    planned = case.instance(instance.name)
    rungs = planned.rungs if planned else ()
    rooms = {p.settings.context * p.slots for rung in rungs for p in rung.placements if p.model.name == model}
    if not all(context_of(line) in rooms for line in found):
        return found  # clients ask for contexts that are no rung's
    chosen = [line for before, line in pairwise(found) if _settings(line) != _settings(before)]
    return tuple(line for line in found if line not in chosen)


def _settings(line: Line) -> str:
    """What a runner was started with, but its port, which is another each time."""
    return re.sub(r"--port \d+|time=\S+", "", line.text)


def _reloads_fix(
    case: Case, instance: InstanceSeen, model: str, contexts: list[int], evicted: tuple[Line, ...]
) -> tuple[str, Where | None, str]:
    if len(contexts) > 1:
        asked = ", ".join(map(str, contexts))
        fix = f"clients ask for other contexts ({asked}): let the balancer keep them to the plan's"
        return fix, *kept_to_the_plan(case, instance, model)
    if evicted:
        fix = f"another model takes its place: give {model} a card of its own, or let both take turns"
        return fix, *case.set_model(instance.name, model, "on_demand", "residency")
    fix = "its keep_alive runs out between requests: keep it"
    return fix, *case.set_model(instance.name, model, -1, "keep_alive")


def variables(case: Case) -> Iterator[Finding]:
    """Variables of the inventory that the host's Ollama does not read any more."""
    from ..catalog import at_least

    host = case.plan.host
    given = {
        name for env in (host.ollama.env, host.env, *(i.env for i in case.plan.instances)) for name in env
    }
    for name in sorted(given & GONE.keys()) if case.plan.instances else ():
        if at_least(host.ollama.version, GONE[name]):
            yield case.finding(
                "variable-ignored",
                "",
                f"{name} does nothing since Ollama {GONE[name]}",
                [f"env of {host.name} in the inventory; its Ollama is {host.ollama.version}"],
                f"take {name} out of `env`",
                _variable_place(case, name),
            )


def _variable_place(case: Case, name: str) -> Where | None:
    host = case.plan.host
    pinned = next((pin.where for pin in host.pins if name in pin.env), None)
    if pinned:
        return case.places.under(pinned, "env", name)
    return case.setting("env", name) if name in host.env else case.setting("ollama", "env", name)


FINDERS = (memory, runners, late, reloads, refused, errors, settings, variables)
