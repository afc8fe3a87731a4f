"""What a balancer's nginx calls a pool, and which servers it has there."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from ..plan.model import Entry, Member, Pool
from .escape import server_address


def upstream_name(pool: str) -> str:
    """A name for nginx that is unique: what had to be replaced comes back as a hash."""
    plain = re.sub(r"[^a-z0-9]+", "_", pool.lower()).strip("_")[:40]
    same = plain == pool
    return f"pool_{plain}" if same else f"pool_{plain}_{hashlib.sha256(pool.encode()).hexdigest()[:6]}"


def upstream(pool: Pool, host: str, prefix: str, gated: bool) -> dict[str, Any]:
    """The values of one `upstream` block."""
    only_backups = all(member.backup for member in pool.members)  # of which nginx would use none
    servers = [
        {
            "address": reached(member, host),
            "port": member.port,
            "slots": member.slots,
            "weight": max(1, _weight(member, gated)),
            "backup": member.backup and not only_backups,
        }
        for member in pool.members
    ]
    zone = max(64, -(-len(servers) * 2 // 64) * 64)  # KiB; nginx keeps about 1 KiB for each server
    name = upstream_name(pool.name)
    return {
        "name": pool.name,
        "upstream": f"{prefix}_{name}" if prefix else name,
        "zone": zone,
        "slots": sum(member.slots for member in pool.members),
        "servers": servers,
    }


def _weight(member: Member, gated: bool) -> int:
    """The planned one; below a gate the slots, so that least_conn finds one that is free before it gives
    an instance more than it can do (a fast card asks for its next request sooner by itself)."""
    return member.slots if gated else member.weight


def reached(member: Member, host: str) -> str:
    """Its own instances a balancer reaches by loopback."""
    return "127.0.0.1" if member.host == host else member.address


def place(address: str, port: int) -> str:
    """A server as nginx lists it: ADDRESS:PORT."""
    return f"{server_address(address)}:{port}"


def queues(entry: Entry, host: str, pools: list[dict[str, Any]]) -> dict[str, Any]:
    """For the gate: the slots of each server, and which share of them this balancer's gate may fill."""
    own = f"{entry.balancer.name}@{host}"
    gates = entry.gates or (own,)
    return {
        "slots": {
            pool["upstream"]: {place(s["address"], s["port"]): s["slots"] for s in pool["servers"]}
            for pool in pools
        },
        "turns": _turns(entry, {pool["name"]: pool["upstream"] for pool in pools}),
        "gates": len(gates),
        "gate": gates.index(own),
    }


def _turns(entry: Entry, upstreams: dict[str, str]) -> dict[str, int]:
    """Pools of models that take turns and share an instance, with the number of their group."""
    if not entry.balancer.gate or not entry.balancer.gate.turn:
        return {}
    groups: list[tuple[set[str], set[tuple[str, str]]]] = []  # pools, and the instances that they share
    for pool in entry.pools:
        pools, places = {pool.name}, {(m.host, m.instance) for m in pool.members if _in_turn(pool, m)}
        if places and pool.name in upstreams:
            near = [group for group in groups if group[1] & places]
            groups = [group for group in groups if group not in near]
            groups.append((pools.union(*(g[0] for g in near)), places.union(*(g[1] for g in near))))
    shared = (pools for pools, _ in groups if len(pools) > 1)
    return {upstreams[name]: number for number, pools in enumerate(shared, 1) for name in sorted(pools)}


def _in_turn(pool: Pool, member: Member) -> bool:
    placements = member.runs.placements if member.runs else ()
    return any(p.model.name == pool.name and p.model.residency == "on_demand" for p in placements)
