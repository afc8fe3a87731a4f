"""`ogen lock`: writes what an inventory resolves to beside it, to be reviewed and committed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import HostError
from . import console, options
from .exits import Exit

if TYPE_CHECKING:
    from ..inventory.model import Lock


@click.command()
@options.inventory
@click.option("--check", is_flag=True, help="Write nothing; exit code 2 if the lock would change.")
@click.option("--live", is_flag=True, help="Ask the hosts: UUIDs of cards, Ollama's version, models held.")
@options.shape("text", "json")
@options.parallel
def command(path: Path, check: bool, live: bool, shape: str, parallel: int) -> Exit:
    """Write the lock file: where every model is placed, and what is known of cards and sources.

    With it, a new host or model moves only what must move. UUIDs, versions and digests that the lock has
    stay, those of the inventory are added, and what left the inventory goes. Without --live no host is
    contacted.
    """
    from ..inventory import load
    from ..inventory.lock import path_beside, text
    from ..plan import lock, plan

    inventory = load(path)
    old = inventory.lock
    new = lock(inventory, plan(inventory), _seen(path, parallel) if live else None)
    file = path_beside(path)
    changed = old != new or not file.exists()
    moved = moves(old, new)
    if changed and not check:
        _write(file, text(new))
    if shape == "json":
        console.document({"lock": str(file), "changed": changed, "moves": moved, "errors": []})
    else:
        for line in moved:
            console.say(line)
        done = "would change" if check else "written"
        console.say(f"{file}: {done if changed else 'up to date'}")
    return Exit.CHANGES if check and changed else Exit.DONE


def _seen(path: Path, parallel: int) -> Lock:
    """What the hosts say. One that does not answer is an error: a lock without it would look complete."""
    from .. import push
    from ..plan import seen
    from .fleet import fleet

    ready = fleet(path, parallel, what="lock")
    sources = sorted({s.ref for model in ready.inventory.models for s in model.sources})
    answers = push.observe(ready.hosts(None), sources, ready.options)
    errors = [answer for answer in answers.values() if isinstance(answer, HostError)]
    if errors:
        raise errors[0]
    return seen({n: a for n, a in answers.items() if not isinstance(a, HostError)})


def moves(old: Lock | None, new: Lock) -> list[str]:
    """What changes place, in words: "chat: + gpu05/gpu0", "coder: - gpu01/gpu1"."""
    before = old.placements if old else {}
    lines = []
    for model in sorted({*before, *new.placements}):
        was, now = set(before.get(model, ())), set(new.placements.get(model, ()))
        lines += [f"{model}: - {place}" for place in sorted(was - now)]
        lines += [f"{model}: + {place}" for place in sorted(now - was)]
    return lines


def _write(file: Path, content: str) -> None:
    """In one step: a reader sees the old lock or the new one."""
    fresh = file.with_name(file.name + ".new")
    fresh.write_text(content, encoding="utf-8")
    fresh.replace(file)
