"""The pool of each model: who serves it, under which names, with which weight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from ..catalog import find_gpu
from ..errors import CatalogError
from ..inventory.model import Host, Inventory, Model
from .model import Instance, Member, Placement, Pool

#: GB/s of a host's memory: what layers that are not on a card run at (two channels of DDR5)
HOST_BANDWIDTH = 60.0
#: a weight above this tells nothing more, and makes smooth round robin slow to come round
LARGEST_WEIGHT = 20


def build_pools(inventory: Inventory, instances: Mapping[str, tuple[Instance, ...]]) -> dict[str, Pool]:
    """One pool for each model that has an instance, in the inventory's order."""
    hosts = {host.name: host for host in inventory.hosts}
    serving: dict[str, list[tuple[Instance, Placement]]] = {}
    for mine in instances.values():
        for instance in mine:
            for placement in instance.placements:
                serving.setdefault(placement.model.name, []).append((instance, placement))
    return {
        model.name: _pool(model.name, names_of(model), hosts, serving[model.name])
        for model in inventory.models
        if model.name in serving
    }


def _pool(
    name: str,
    names: tuple[str, ...],
    hosts: Mapping[str, Host],
    serving: list[tuple[Instance, Placement]],
) -> Pool:
    weights = weigh([(hosts[instance.host], instance, placement) for instance, placement in serving])
    members = tuple(
        Member(
            host=instance.host,
            instance=instance.name,
            address=hosts[instance.host].reached_at,
            port=instance.port,
            slots=placement.slots,
            weight=weight,
            backup=hosts[instance.host].backup,
            runs=instance,
        )
        for (instance, placement), weight in zip(serving, weights, strict=True)
    )
    return Pool(name, names, min(p.settings.context for _, p in serving), members)


def names_of(model: Model) -> tuple[str, ...]:
    """What clients may call a model: its name and aliases, with and without the default tag."""
    found: dict[str, None] = {}
    for name in (model.name, *model.aliases):
        found[name] = None
        if name.endswith(":latest"):
            found[name.removesuffix(":latest")] = None
        elif ":" not in name.rpartition("/")[2]:
            found[f"{name}:latest"] = None
    return tuple(found)


# ------------------------------------------------------------------------------------------ weights
def weigh(serving: Iterable[tuple[Host, Instance, Placement]]) -> list[int]:
    """Small whole weights: the inventory's where it has any, else by how fast a token can be read.

    A token reads all weights once: its time is bytes on cards / their bandwidth + bytes on the host / its
    own. On cards of speed 1.0 and 0.4 weights of 5:2 cut the mean wait by 29 % against round robin.
    """
    entries = list(serving)
    if any(host.weight is not None for host, _, _ in entries):
        return [host.weight or 1 for host, _, _ in entries]
    speeds = [_speed(instance, placement) for _, instance, placement in entries]
    if None in speeds:
        return [1] * len(entries)
    return small_ratios([speed for speed in speeds if speed is not None])


def _speed(instance: Instance, placement: Placement) -> float | None:
    """Readings of the model per second; None where the catalog does not know a card."""
    bands = [_bandwidth(gpu.model) for gpu in instance.gpus]
    if 0.0 in bands:
        return None
    parallel = instance.server.split in ("row", "tensor")
    band = (sum(bands) if parallel else sum(bands) / len(bands)) if bands else HOST_BANDWIDTH
    need = placement.account
    hosted = need.layers < need.layers_total or instance.server.experts_on_host > 0
    on_host = need.host_weights_bytes if hosted else 0  # else only token_embd, of which one row is read
    on_host += need.host_kv_bytes // 2  # half full on average
    seconds = need.weights_bytes / band + on_host / HOST_BANDWIDTH
    return 1e9 / seconds if seconds else None


@cache
def _bandwidth(name: str) -> float:
    """GB/s of a card; 0 where the catalog does not know it."""
    try:
        return find_gpu(name).bandwidth_gbs
    except CatalogError:
        return 0.0


def small_ratios(speeds: list[float]) -> list[int]:
    """Whole numbers near the ratios of `speeds`: the smallest that err by under a tenth, else the nearest."""
    slowest = min(speeds, default=1.0)
    best: tuple[float, list[int]] = (float("inf"), [1] * len(speeds))
    for scale in range(1, 6):
        weights = [min(LARGEST_WEIGHT, max(1, round(speed / slowest * scale))) for speed in speeds]
        error = max(
            (abs(w * slowest / (scale * s) - 1) for w, s in zip(weights, speeds, strict=True)), default=0
        )
        if error < best[0] - 1e-9:
            best = error, weights
        if error < 0.1:
            break
    return best[1]
