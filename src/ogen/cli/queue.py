"""`ogen queue`: what an operator does with the jobs of a queue."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import OgenError, UsageError
from . import console, options
from .exits import Exit
from .spans import Span

if TYPE_CHECKING:
    from ..inventory.model import Inventory
    from ..plan.model import Plan, Work
    from ..push import Options

F = TypeVar("F", bound=Callable[..., Any])
POLL = 1.0  # seconds between two looks at a job
ENDED = ("done", "failed", "expired", "cancelled")


@click.group()
def command() -> None:
    """Submit jobs to a queue, see what waits, retry or discard dead letters, let it run empty."""


# ------------------------------------------------------------------------------- for a shell's Tab key
def _inventory(ctx: click.Context) -> Inventory | None:
    """What a shell completes from; None where it can't be read."""
    from ..inventory import load

    # an option that has no value yet keeps click from telling arguments apart
    given = ctx.params.get("path") or next(iter(ctx.args), None)
    try:
        return load(Path(given)) if given else None
    except (OgenError, OSError):
        return None


def _queues(ctx: click.Context, param: click.Parameter, begun: str) -> list[str]:
    inventory = _inventory(ctx)
    return [q.name for q in inventory.queues if q.name.startswith(begun)] if inventory else []


def _models(ctx: click.Context, *, aliases: bool) -> list[str]:
    inventory = _inventory(ctx)
    if inventory is None:
        return []
    wanted = {name for queue in inventory.queues for name in queue.models}
    every = any(not queue.models for queue in inventory.queues)
    mine = [model for model in inventory.models if every or model.name in wanted]
    return [name for model in mine for name in (model.name, *(model.aliases if aliases else ()))]


def _pools(ctx: click.Context, param: click.Parameter, begun: str) -> list[str]:
    return [name for name in _models(ctx, aliases=False) if name.startswith(begun)]


def _names(ctx: click.Context, param: click.Parameter, begun: str) -> list[str]:
    return [name for name in _models(ctx, aliases=True) if name.startswith(begun)]


# ------------------------------------------------------------------------------------------ options
def _queue(command: F) -> F:
    return click.option(
        "--queue",
        "name",
        metavar="NAME",
        help="Which queue, where there are several.",
        shell_complete=_queues,
    )(command)


def _model(command: F) -> F:
    return click.option(
        "--model", metavar="MODEL", help="Of this model only; default: of all.", shell_complete=_pools
    )(command)


class _Asked:
    """A queue that is asked by one command."""

    def __init__(self, path: Path, name: str | None, what: str, model: str | None = None) -> None:
        from ..push import queues
        from . import fleet

        ready = fleet.fleet(path, what=f"queue {what}")
        self.plan: Plan = fleet.planned(ready)
        self.work: Work = queues.work_of(self.plan, name)
        queues.model_of(self.work, model)
        self.options: Options = ready.options

    def __call__(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        from ..push import queues

        return queues.ask(self.plan, self.work, self.options, method, path, body, headers)


@command.command()
@options.inventory
@_queue
@options.shape("text", "json")
def status(path: Path, name: str | None, shape: str) -> Exit:
    """Show what waits, runs and has failed in each pool, and who works on it."""
    asked = _Asked(path, name, "status")
    found, dead = asked("GET", "/admin/status"), asked("GET", "/admin/dead")
    if shape == "json":
        console.document({"queue": asked.work.queue.name, **found, "dead": dead, "errors": []})
        return Exit.DONE
    for model, pool in found["pools"].items():
        state = "  drained: takes no jobs" if pool["closed"] else ""
        counts = ", ".join(f"{pool[kind]} {kind}" for kind in ("waiting", "delayed", "running", "dead"))
        console.out(f"{model}  {counts}; the oldest waits {pool['oldest_s']:.0f} s{state}")
        for worker, ago in sorted(pool["workers"].items()):
            console.out(f"  worker {worker}  heard of {ago:.0f} s ago")
        for letter in dead.get(model, ()):
            console.out(
                f"  dead {letter['id']}  after {letter.get('attempts', 0)} tries: {letter.get('error', '')}"
            )
    memory = found["memory"]
    console.out(f"Redis uses {memory['used_bytes'] >> 20} of {memory['most_bytes'] >> 20} MiB")
    return Exit.DONE


@command.command()
@options.inventory
@click.argument("model", shell_complete=_names)
@click.argument("prompt")
@_queue
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), default="normal", show_default=True)
@click.option(
    "--deadline", metavar="TIME", type=Span(), help="After which the job is not begun any more: 90s, 10m, 2h."
)
@click.option("--key", metavar="TEXT", help="Idempotency key: with the same one the job is made once.")
@click.option("--wait", is_flag=True, help="Until the job has ended; its answer goes to stdout.")
def submit(
    path: Path, model: str, prompt: str, name: str | None, priority: str, deadline: float | None,
    key: str | None, wait: bool,
) -> Exit:  # fmt: skip
    """Submit one prompt as a job, and print its id.

    Clients use POST /queue/api/generate of a balancer instead (docs/queue.md). Exit code 3 with --wait
    where the job fails.
    """
    asked = _Asked(path, name, "submit", model)
    headers = {"X-Ogen-Priority": priority}
    headers |= {"X-Ogen-Deadline": f"{math.ceil(deadline)}s"} if deadline else {}
    headers |= {"Idempotency-Key": key} if key else {}
    body = {"model": model, "prompt": prompt}
    job = asked("POST", "/queue/api/generate", body, headers)
    if not wait:
        console.out(job["id"])
        return Exit.DONE
    console.say(f"job {job['id']}")
    while True:
        found = asked("GET", job["job"])
        if found["state"] in ENDED:
            break
        time.sleep(POLL)
    if found["state"] != "done":
        console.say(f"{found['state']}: {found.get('error', '')}")
        return Exit.FAILED
    console.out(str(found["result"].get("response", json.dumps(found["result"]))))
    return Exit.DONE


@command.command()
@options.inventory
@click.argument("ids", metavar="[ID]...", nargs=-1)
@_queue
@_model
@options.shape("text", "json")
def retry(path: Path, ids: tuple[str, ...], name: str | None, model: str | None, shape: str) -> Exit:
    """Run dead letters again: those named, or all.

    Exit code 3 where one that was named is no dead letter.
    """
    return _letters(
        _Asked(path, name, "retry", model), ids, model, shape, ("retry", "retried", "waiting again")
    )


@command.command()
@options.inventory
@click.argument("ids", metavar="[ID]...", nargs=-1)
@_queue
@_model
@click.option("--all", "every", is_flag=True, help="All of them, or with --model all of that model.")
@options.shape("text", "json")
def discard(
    path: Path, ids: tuple[str, ...], name: str | None, model: str | None, every: bool, shape: str
) -> Exit:
    """Throw dead letters away: those named, or with --all all. They are gone.

    For requests that no try will help, such as those that an instance answers with 400. Exit code 3 where
    one that was named is no dead letter.
    """
    if bool(ids) == every:
        raise UsageError("which dead letters?", hint="their ids (`ogen queue status` has them), or --all")
    asked = _Asked(path, name, "discard", model)
    return _letters(asked, ids, model, shape, ("discard", "discarded", "thrown away"))


def _letters(
    asked: _Asked, ids: tuple[str, ...], model: str | None, shape: str, words: tuple[str, str, str]
) -> Exit:
    """Does with dead letters what `words` say, as the front has it and for people."""
    if ids and model:
        raise UsageError("ids name their model themselves", hint="leave --model out")
    found = asked("POST", f"/admin/{words[0]}", {"ids": list(ids), "model": model})
    if shape == "json":
        console.document({"queue": asked.work.queue.name, **found, "errors": []})
    else:
        console.out(f"{console.count(len(found[words[1]]), 'job')} {words[2]}")
        for one in found["unknown"]:
            console.say(f"no dead letter: {one}")
    return Exit.FAILED if found["unknown"] else Exit.DONE


@command.command()
@options.inventory
@_queue
@_model
@click.option("--end", is_flag=True, help="Let jobs in again.")
@click.option("--wait", is_flag=True, help="Until nothing waits or runs any more.")
def drain(path: Path, name: str | None, model: str | None, end: bool, wait: bool) -> Exit:
    """Take no new jobs, and work on those that are there; --end takes jobs again."""
    asked = _Asked(path, name, "drain", model)
    pools = asked("POST", "/admin/undrain" if end else "/admin/drain", {"model": model})
    while wait and not end and _left(pools, model):
        time.sleep(POLL)
        pools = asked("GET", "/admin/status")["pools"]
    state = "takes jobs again" if end else f"takes no jobs; {_left(pools, model)} left"
    console.out(f"{asked.work.queue.name}  {state}")
    return Exit.DONE


def _left(pools: Mapping[str, Any], model: str | None) -> int:
    chosen = [pool for name, pool in pools.items() if model in (None, name)]
    return sum(int(pool[kind]) for pool in chosen for kind in ("waiting", "delayed", "running"))
