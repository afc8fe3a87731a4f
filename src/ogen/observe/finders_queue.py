"""Findings about queues: nobody works, jobs wait too long, the queue fills up, dead letters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import Where
from .finding import Case, Finding

SILENT = 30.0  # seconds after which a worker is not there
FULL = 0.8  # of the places
MEMORY = 0.7  # of Redis' memory: four fifths of the seven eighths that jobs may take (queue.lua)
OLD = 600.0  # seconds that a job may wait


def queues(case: Case) -> Iterator[Finding]:
    """Each front tells of the whole queue: the first of its hosts does."""
    for work in case.plan.works:
        name, where = work.queue.name, work.queue.where
        if not case.seen.live or case.plan.host.name not in work.fronts:
            continue
        said = case.seen.queues.get(name)
        if said is None or said.get("error"):
            why = str(said["error"]) if said else f"/run/ogen-queue-front-{name}/front.sock is not there"
            yield _found(case, "queue-down", name, f"queue {name} does not answer", why, "", where)
        elif case.plan.host.name == work.fronts[0]:
            for model, pool in pools(said):
                yield from _pool(case, name, model, pool, where)
            yield from _memory(case, name, said, where)


def pools(said: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    pools = said.get("pools")
    for model, pool in pools.items() if isinstance(pools, dict) else ():
        if isinstance(pool, dict):
            yield str(model), pool


def _pool(
    case: Case, name: str, model: str, pool: Mapping[str, Any], where: Where | None
) -> Iterator[Finding]:
    waiting, dead = number(pool, "waiting") + number(pool, "delayed"), number(pool, "dead")
    if not heard(pool):
        what = f"nobody works on the jobs for {model}"
        shown = f"workers heard of within {SILENT:.0f} s: 0 of {len(_ages(pool))}; {waiting:.0f} jobs wait"
        fix = f"systemctl status 'ogen-queue-worker-{name}-*' on the hosts of its instances"
        yield _found(case, "queue-no-worker", name, what, shown, fix, where)
    if waiting >= FULL * max(1.0, number(pool, "length")):
        what = f"the queue for {model} is nearly full: then jobs are refused"
        shown = f"{waiting:.0f} of {number(pool, 'length'):.0f} places are taken"
        yield _found(
            case, "queue-near-full", name, what, shown, "more instances of it, or a larger `length`", where
        )
    elif number(pool, "oldest_s") > OLD:
        what = f"jobs for {model} wait long"
        shown = (
            f"the one that is next has waited for {number(pool, 'oldest_s'):.0f} s, behind it {waiting:.0f}"
        )
        yield _found(case, "queue-slow", name, what, shown, "more instances of it: `replicas`", where)
    if dead:
        what = f"{dead:.0f} jobs for {model} failed at every try"
        fix = "`ogen queue status` has the reasons; `ogen queue retry` runs them again, `discard` drops them"
        yield _found(case, "queue-dead", name, what, f"{dead:.0f} dead letters", fix, where)


def _memory(case: Case, name: str, said: Mapping[str, Any], where: Where | None) -> Iterator[Finding]:
    memory = said.get("memory")
    if not isinstance(memory, dict):
        return
    used, most = number(memory, "used_bytes"), number(memory, "most_bytes")
    if most and used > MEMORY * most:
        what = f"the Redis of queue {name} is nearly full: then jobs are refused"
        shown = f"{used / 2**20:.0f} of {most / 2**20:.0f} MiB are used"
        fix = "a shorter `expiry`, fewer `dead_letters`, or more `redis.memory`"
        yield _found(case, "queue-memory", name, what, shown, fix, where)


def _found(case: Case, kind: str, name: str, what: str, shown: str, fix: str, where: Where | None) -> Finding:
    mend = fix or f"systemctl status ogen-queue-front-{name} ogen-queue-redis-{name}"
    return case.finding(kind, f"queue {name}", what, [shown], mend, where)


def heard(pool: Mapping[str, Any]) -> tuple[str, ...]:
    """The pool's workers that are there."""
    return tuple(name for name, age in _ages(pool).items() if age < SILENT)


def _ages(pool: Mapping[str, Any]) -> dict[str, float]:
    told = pool.get("workers")
    return {str(name): number(told, name) for name in told} if isinstance(told, dict) else {}


def number(values: Mapping[str, Any], name: str) -> float:
    """What was said under `name`; 0 where it is no number."""
    value = values.get(name)
    if isinstance(value, (int, float)) and value is not True and math.isfinite(value):
        return float(value)
    return 0.0


FINDERS = (queues,)
