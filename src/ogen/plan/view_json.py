"""A plan as JSON values: stable names, bytes, nothing rounded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from .model import Entry, HostPlan, Instance, Placement, Plan, Pool, Remark, Work
from .picture import use_of

_MEMBER = ("host", "instance", "address", "port", "slots", "weight", "backup")


def document(plan: Plan, only: Iterable[str] | None = None) -> dict[str, Any]:
    """The whole plan, or its hosts named in `only` with all pools and balancers."""
    wanted = None if only is None else set(only)
    pools = {pool.name: pool for entry in plan.entries for pool in entry.pools}
    return {
        "inventory": plan.inventory.name,
        "hosts": [_host(h) for h in plan.hosts if wanted is None or h.host.name in wanted],
        "pools": [_pool(pool) for pool in pools.values()],
        "balancers": [_entry(entry) for entry in plan.entries],
        "queues": [_work(work) for work in plan.works],
        "remarks": [remark_json(remark) for remark in plan.remarks],
    }


def _host(host: HostPlan) -> dict[str, Any]:
    cards = []
    for gpu in host.host.gpus:
        mine = [i for i in host.instances if any(g.index == gpu.index for g in i.gpus)]
        use = use_of(gpu, mine, host.host.ollama.version)
        uuid = next((g.uuid for i in mine for g in i.gpus if g.index == gpu.index), gpu.uuid)
        cards.append(
            {
                "index": gpu.index,
                "model": gpu.model,
                "uuid": uuid,
                "state": gpu.state,
                "vram_bytes": gpu.vram,
                **{f"{name}_bytes": size for name, size in use.parts()},
                "instances": [instance.name for instance in mine],
            }
        )
    return {
        "name": host.host.name,
        "address": host.host.address,
        "ollama": host.host.ollama.version,
        "cards": cards,
        "instances": [_instance(instance) for instance in host.instances],
        "balancers": [entry.balancer.name for entry in host.entries],
    }


def _instance(instance: Instance) -> dict[str, Any]:
    return {
        "name": instance.name,
        "unit": instance.unit,
        "port": instance.port,
        "gpus": [gpu.index for gpu in instance.gpus],
        "server": asdict(instance.server),
        "models": [_placement(placement) for placement in instance.placements],
    }


def _placement(placement: Placement) -> dict[str, Any]:
    need = placement.account
    return {
        "name": placement.model.name,
        "from": placement.source.ref,
        "quantisation": placement.source.quant,
        "verdict": placement.verdict,
        "slots": placement.slots,
        "settings": asdict(placement.settings),
        "account": {**asdict(need), "total_gpu_bytes": need.total_gpu_bytes},
        "concessions": [asdict(concession) for concession in placement.concessions],
        "notes": list(placement.notes),
    }


def _pool(pool: Pool) -> dict[str, Any]:
    return {
        "name": pool.name,
        "names": list(pool.names),
        "context": pool.context,
        "members": [
            {name: getattr(member, name) for name in _MEMBER}  # what runs behind it is told at its host
            for member in pool.members
        ],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.balancer.name,
        "hosts": list(entry.hosts),
        "listen": entry.balancer.listen,
        "strategy": entry.balancer.strategy,
        "gate": entry.balancer.gate is not None,
        "routing": entry.balancer.routing,
        "pools": [pool.name for pool in entry.pools],
        "ports": dict(entry.ports),
    }


def _work(work: Work) -> dict[str, Any]:
    return {
        "name": work.queue.name,
        "redis": work.queue.redis.host,
        "fronts": list(work.fronts),
        "pools": [pool.name for pool in work.pools],
        "workers": [
            {"host": m.host, "instance": m.instance, "model": pool.name, "slots": m.slots}
            for pool in work.pools
            for m in pool.members
        ],
    }


def remark_json(remark: Remark) -> dict[str, Any]:
    where = remark.where
    return {
        "severity": remark.severity,
        "message": remark.message,
        "hint": remark.hint,
        "file": where.file if where else None,
        "line": where.line if where else None,
        "column": where.column if where else None,
    }
