"""The work of `ogen bench`: warm up, load step by step, look at hosts meanwhile, one document of it all."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OgenError
from . import background
from .bench_options import MOST
from .bench_place import Place

if TYPE_CHECKING:
    from ..observe.bench_answers import Asked
    from ..observe.bench_hosts import Hosts
    from ..observe.bench_load import Bounds, Load
    from ..observe.view_bench import Run
    from .bench_bar import Bar

HOUR = 3600.0  # what a run by --requests may take


@dataclass(frozen=True, slots=True)
class Job:
    """What is sent, and for how long."""

    asked: Asked
    steps: tuple[int, ...]
    bounds: Bounds
    warmup: int
    began: str


@dataclass(slots=True)
class Done:
    runs: list[Run] = field(default_factory=list)
    interrupted: bool = False
    errors: list[OgenError] = field(default_factory=list)


def job(where: Place, said: Mapping[str, Any]) -> Job:
    from ..observe.bench_answers import Asked
    from ..observe.bench_load import Bounds

    prompt: str = said["prompt"]
    if prompt.startswith("@"):
        prompt = Path(prompt[1:]).read_text(encoding="utf-8", errors="replace")
    requests, duration = said["requests"], said["duration"]
    bounds = Bounds(requests, duration or (HOUR if requests else 30.0), said["timeout"])
    warmup = min(MOST, where.instances) if said["warmup"] is None else said["warmup"]
    steps = said["sweep"] or (said["concurrency"],)
    began = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Job(Asked(where.model, prompt, said["tokens"], said["api"]), steps, bounds, warmup, began)


def measure(where: Place, job: Job) -> Done:
    """Whatever happens to hosts, load is measured; Ctrl-C keeps what there is."""
    from .bench_bar import bar

    done = Done()
    with ExitStack() as stack:
        hosts = _connected(where, stack) if where.plan else None
        shown = stack.enter_context(bar())
        try:
            for run in _runs(where, job, hosts, shown, done):
                done.runs.append(run)
        except KeyboardInterrupt:
            done.interrupted = True
        done.errors += hosts.errors if hosts else []
    return done


def _connected(where: Place, stack: ExitStack) -> Hosts:
    """Ctrl-C meanwhile ends the program: nothing was measured, and a host that hangs is not waited for."""
    from ..observe.bench_hosts import Hosts

    assert where.plan is not None
    assert where.options is not None
    hosts = Hosts(where.plan, where.balancer, where.edges, where.nodes, where.options)
    try:
        background.result(hosts.__enter__)
    except KeyboardInterrupt:
        background.leave()
        raise
    stack.push(hosts.__exit__)
    return hosts


def _runs(where: Place, job: Job, hosts: Hosts | None, shown: Bar, done: Done) -> Iterator[Run]:
    from ..observe.bench_load import Bounds, load

    number = secrets.randbelow(10**6) * 1000  # no prompt of an earlier run is in a cache
    if job.warmup:
        bounds = Bounds(job.warmup, None, job.bounds.timeout)
        shown.step(f"{job.warmup} to warm up", bounds)
        warm = load(where.target, job.asked, job.warmup, bounds, first=number, tell=shown)
        number += len(warm.records)
        if warm.interrupted or not any(not record.error for record in warm.records):
            done.interrupted = warm.interrupted
            if not warm.interrupted:
                yield _run(warm, job.warmup)
            return
    for concurrency in job.steps:
        shown.step(f"{concurrency} at once", job.bounds)
        if hosts:
            hosts.begin()
        found = load(where.target, job.asked, concurrency, job.bounds, first=number, tell=shown)
        number += len(found.records) + concurrency
        run = _run(found, concurrency)
        if hosts:
            try:
                shares, cards = hosts.end(job.asked.path, found.addresses, run.step.requests)
                run = replace(run, shares=shares, cards=cards)
            except KeyboardInterrupt:  # what was measured stays, without what hosts saw
                found.interrupted = True
        yield run
        if found.interrupted or found.hopeless:
            done.interrupted = found.interrupted
            return


def _run(found: Load, concurrency: int) -> Run:
    from ..observe.bench_figures import step
    from ..observe.view_bench import Client, Run

    return Run(step(found.records, concurrency), Client(found.late, found.cpu))


# ------------------------------------------------------------------------------------- what is told
def document(where: Place, job: Job, done: Done) -> dict[str, Any]:
    from ..observe.bench_figures import knee
    from . import failure

    return {
        "url": where.url,
        "balancer": where.balancer or None,
        "began": job.began,
        "asked": asdict(job.asked),
        "steps": [
            asdict(run.step)
            | {
                "client": asdict(run.client) | {"slow": run.client.slow(run.step)},
                "shares": asdict(run.shares),
                "cards": [asdict(card) for card in run.cards],
            }
            for run in done.runs
        ],
        "knee": knee([run.step for run in done.runs]),
        "interrupted": done.interrupted,
        "errors": [failure.as_json(error) for error in done.errors],
    }
