"""What is right but worth knowing: settings without effect, or with another than their name says.

All of it depends on the Ollama version of the hosts; the figures are from Ollama's source at
0.33.0-rc2 and its history.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from ..catalog import at_least
from ..errors import Where
from . import environment
from .faults import near
from .model import Host, Inventory, Model
from .patterns import matching

LLAMA_SERVER = "0.30.0"  # since then Ollama starts llama.cpp's server, which takes LLAMA_ARG_…


@dataclass(frozen=True, slots=True)
class Note:
    """A warning or a note with its place, for reviewers."""

    message: str
    where: Where | None = field(default=None, compare=False)
    hint: str | None = None
    severity: Literal["warning", "note"] = "warning"


def notes(inventory: Inventory) -> tuple[Note, ...]:
    """All notes, each once, in the order of the inventory."""
    found: dict[Note, None] = {}
    for model in inventory.models:
        found.update(dict.fromkeys(_model(model, inventory)))
    for host in inventory.hosts:
        found.update(dict.fromkeys(_host(host)))
    found.update(dict.fromkeys(_lock(inventory)))
    return tuple(found)


# ---------------------------------------------------------------------------------------- models
def _model(model: Model, inventory: Inventory) -> Iterator[Note]:
    names = set(matching([h.name for h in inventory.hosts], inventory.groups, model.on))
    versions = {h.ollama.version for h in inventory.hosts if h.name in names and (h.gpus or h.pins)}
    for message, hint, severity in (*_on_old(model, versions), *_always(model, versions)):
        yield Note(f"models.{model.name}: {message}", model.where, hint, severity)


_Told = tuple[str, str | None, Literal["warning", "note"]]


def _on_old(model: Model, versions: Iterable[str]) -> Iterator[_Told]:
    old = sorted(v for v in versions if not at_least(v, LLAMA_SERVER))
    if not old:
        return
    settings = (
        ("low_vram", model.low_vram),
        ("split", model.split is not None and model.split != "layer"),
        ("shares", bool(model.shares)),
    )
    for name, given in settings:
        if given:
            hint = f"it takes effect from Ollama {LLAMA_SERVER} on"
            yield f"{name} has no effect on Ollama {old[0]}", hint, "warning"


def _always(model: Model, versions: Iterable[str]) -> Iterator[_Told]:
    new = any(at_least(v, LLAMA_SERVER) for v in versions)
    if model.use_mmap:
        yield "use_mmap: true has no effect; only false acts", "remove it", "note"
    if model.num_gpu and new:
        hint = "leave it out, and Ollama fits the layers to the memory that is free"
        yield f"num_gpu {model.num_gpu} is taken as it is, also where memory is short", hint, "note"
    if model.main_gpu is not None and new and (model.gpus_per_replica or 1) > 1:
        hint = "remove main_gpu, or gpus_per_replica"
        yield "main_gpu keeps the model on one card of its instance", hint, "warning"


# ----------------------------------------------------------------------------------------- hosts
def _host(host: Host) -> Iterator[Note]:
    names = {*host.env, *host.ollama.env, *(name for pin in host.pins for name in pin.env)}
    for name in sorted(names):
        yield from _variable(name, host)
    ollama = host.ollama
    if ollama.kv_cache in ("q8_0", "q4_0") and ollama.flash_attention is None:
        hint = "set flash_attention: true"
        yield Note(f"kv_cache {ollama.kv_cache} needs flash attention", host.where, hint)


def _variable(name: str, host: Host) -> Iterator[Note]:
    if name in environment.GONE:
        since, hint = environment.GONE[name]
        if at_least(host.ollama.version, since):
            yield Note(f"{name} has no effect since Ollama {since}", host.where, hint)
    elif name in environment.RISKY:
        yield Note(f"{name}: {environment.RISKY[name]}", host.where)
    elif name.startswith("OLLAMA_") and name not in environment.KNOWN:
        yield Note(f"Ollama is not known to read {name}", host.where, near(name, environment.KNOWN))


# ------------------------------------------------------------------------------------------ lock
def _lock(inventory: Inventory) -> Iterator[Note]:
    if inventory.lock is None:
        return
    hosts = {host.name: host for host in inventory.hosts}
    for name in inventory.forgotten:
        message = f"the lock knows a host {name!r} that the inventory does not have"
        left = "what runs there is left as it is, but a balancer there is let in nowhere any more"
        yield Note(
            message, None, f"{left}; put it back with `state: out` to retire it; `ogen lock` forgets it"
        )
    for name, seen in inventory.lock.versions.items():
        # where ogen installs it, another version is one that was not applied yet
        if name in hosts and seen != hosts[name].ollama.version and not hosts[name].ollama.source:
            said = hosts[name].ollama.version
            message = f"hosts.{name}: Ollama {seen} was seen there, the inventory says {said}"
            yield Note(message, hosts[name].where, "correct ollama.version, or run `ogen lock`")
    yield from _swapped(inventory)


def _swapped(inventory: Inventory) -> Iterator[Note]:
    assert inventory.lock is not None
    for host in inventory.hosts:
        locked = inventory.lock.uuids.get(host.name, {})
        for gpu in host.gpus:
            if gpu.uuid and locked.get(gpu.index, gpu.uuid) != gpu.uuid:
                message = f"hosts.{host.name}: card {gpu.index} has another uuid in the lock"
                yield Note(message, gpu.where or host.where, "run `ogen lock` if the card was changed")
