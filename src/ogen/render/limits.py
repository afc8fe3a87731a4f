"""What one client of a balancer may ask for, as zones of nginx: one for each rate and each number."""

from __future__ import annotations

import math
from typing import Any

from ..inventory.model import Balancer, Limit


def limits(balancer: Balancer, ident: str) -> dict[str, Any]:
    """Zones of limit_req and limit_conn; each counts the clients that its own limit is for."""
    named = balancer.limits.keys
    groups: dict[Limit, list[str]] = {balancer.limits.each: []}
    for name, limit in sorted(named.items()):
        groups.setdefault(limit, []).append(name)
    client = f"${ident}_key" if balancer.keys else "$binary_remote_addr"
    zones = []
    for number, (limit, names) in enumerate(groups.items()):
        if limit == Limit():
            continue
        others = sorted(set(named) - set(names))
        zones.append(
            {
                "about": _about(limit, "each" if number == 0 else ", ".join(names)),
                "name": f"{ident}_limit_{number}",
                # the key that is counted; the limit of each is for all but those with one of their own
                "default": client if number == 0 else "",
                "cases": [(name, "") for name in others] if number == 0 else [(name, name) for name in names],
                "key": f"${ident}_limit_{number}" if balancer.keys or balancer.gate else client,
                "rate": f"{limit.rate.replace('/', 'r/')}" if limit.rate else "",
                "burst": limit.burst,
                "concurrent": limit.concurrent,
            }
        )
    rates = [limit.rate for limit in groups if limit.rate]
    return {"limits": zones, "retry_after": max(map(_pause, rates), default=1)}


def _about(limit: Limit, whose: str) -> str:
    parts = [limit.rate, f"{limit.concurrent} at once" if limit.concurrent else None, whose]
    return ", ".join(part for part in parts if part)


def _pause(rate: str) -> int:
    """Seconds until one more request is let in."""
    number, unit = rate.split("/")
    return math.ceil((60 if unit == "m" else 1) / int(number))
