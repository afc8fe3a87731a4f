"""`lock`: what the lock file should say, from the inventory, the plan, and what was seen of hosts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ..inventory.model import Inventory, Lock
from .model import Plan

K = TypeVar("K")
V = TypeVar("V")


def lock(inventory: Inventory, plan: Plan, observed: Lock | None = None) -> Lock:
    """The lock for `plan`: seen values before the inventory's, and those before the old lock's.

    Of the old lock it keeps what is still in the inventory: cards and versions of its hosts, also of those
    that are out, and digests of its sources. Placements are the plan's.
    """
    old, seen = inventory.lock or Lock(), observed or Lock()
    hosts = [host.name for host in inventory.hosts]
    refs = {source.ref for model in inventory.models for source in model.sources}
    return Lock(
        uuids=_uuids(inventory, old, seen),
        versions=_kept(hosts, old.versions, seen.versions),
        digests=_kept(sorted(refs), old.digests, seen.digests),
        sizes=_kept(sorted(refs), old.sizes, seen.sizes),
        placements=placements(plan),
    )


def seen(facts: Mapping[str, Mapping[str, Any]]) -> Lock:
    """What hosts said of themselves, as a lock: UUIDs of cards, versions, sources held.

    `facts`: by host, `gpus` (index, uuid), `ollama` (a version) and `models` (source → digest, size). Two
    hosts that hold different models under one tag disagree: the first one's counts.
    """
    models: dict[str, Mapping[str, Any]] = {}
    for said in facts.values():
        for ref, model in said.get("models", {}).items():
            models.setdefault(str(ref), model)
    return Lock(
        uuids={
            name: {int(gpu["index"]): str(gpu["uuid"]) for gpu in said.get("gpus", ()) if gpu.get("uuid")}
            for name, said in facts.items()
        },
        versions={name: str(said["ollama"]) for name, said in facts.items() if said.get("ollama")},
        digests={ref: f"sha256:{model['digest']}" for ref, model in models.items()},
        sizes={ref: int(model["size"]) for ref, model in models.items()},
    )


def placements(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Model → "host/instance" of each replica, in the plan's order."""
    found: dict[str, list[str]] = {model.name: [] for model in plan.inventory.models}
    for host in plan.hosts:
        for instance in host.instances:
            for placement in instance.placements:
                found[placement.model.name].append(f"{instance.host}/{instance.name}")
    return {name: tuple(places) for name, places in found.items() if places}


def _uuids(inventory: Inventory, old: Lock, seen: Lock) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for host in inventory.hosts:
        said = {gpu.index: gpu.uuid for gpu in host.gpus if gpu.uuid}
        known = {**old.uuids.get(host.name, {}), **said, **seen.uuids.get(host.name, {})}
        mine = {gpu.index: known[gpu.index] for gpu in host.gpus if gpu.index in known}
        if mine:
            found[host.name] = mine
    return found


def _kept(keys: Iterable[K], old: Mapping[K, V], seen: Mapping[K, V]) -> dict[K, V]:
    known = {**old, **seen}
    return {key: known[key] for key in keys if key in known}
