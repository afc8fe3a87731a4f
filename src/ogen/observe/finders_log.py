"""Findings in the journals of instances: memory that ran out, refused names, errors, ignored settings."""

from __future__ import annotations

from collections.abc import Iterator

from .evidence import InstanceSeen
from .finders_instance import concession
from .finding import Case, Finding, clock, quoted
from .log_lines import answers, deaths, ignored, shortages

BUSY = "503"
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
        step = concession(case, instance.name, model) if model else "a smaller context or quantisation"
        yield case.finding(
            "out-of-memory",
            instance.name,
            f"{model or 'a model'} ran out of memory on the card, {times} at {clock(found[-1].line.time)}",
            quoted(one.line for one in found),
            f"next concession: {step}",
            case.model_place(instance.name, model),
        )


def _model(case: Case, instance: InstanceSeen, blob: str) -> str:
    """The promised model of a model file; the only one where there is one."""
    names = case.seen.deep.blobs.get(blob, ()) if case.seen.deep else ()
    named = next((p.model for p in instance.promised if p.tagged in names), "")
    return named or (instance.promised[0].model if len(instance.promised) == 1 else "")


def runners(case: Case) -> Iterator[Finding]:
    for instance in case.seen.instances:
        log = case.log(instance.unit).lines
        found = deaths(log)
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
                case.place(instance.name),
            )
        if failed and not shortages(log):
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
                case.place(instance.name),
            )


def variables(case: Case) -> Iterator[Finding]:
    """Variables of the inventory that the host's Ollama does not read any more."""
    from ..catalog import at_least

    host = case.plan.host
    given = {
        name for env in (host.ollama.env, host.env, *(i.env for i in case.plan.instances)) for name in env
    }
    for name in sorted(given & GONE.keys()):
        if at_least(host.ollama.version, GONE[name]):
            yield case.finding(
                "variable-ignored",
                "",
                f"{name} does nothing since Ollama {GONE[name]}",
                [f"env of {host.name} in the inventory; its Ollama is {host.ollama.version}"],
                f"take {name} out of `env`",
            )


FINDERS = (memory, runners, refused, errors, settings, variables)
