"""Instances as people name them on a command line: HOST, HOST/gpu0, HOST/0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from ..plan.model import HostPlan, Instance, Plan


def chosen(plan: Plan, words: Sequence[str]) -> dict[tuple[str, str], int]:
    """(host, instance) → port, in the order of the words; HOST means all of its instances."""
    found: dict[tuple[str, str], int] = {}
    for word in words:
        name, _, part = word.partition("/")
        host = _host(plan, name)
        for instance in _instances(host, part):
            found[name, instance.name] = instance.port
    return found


def _host(plan: Plan, name: str) -> HostPlan:
    from .failure import did_you_mean

    names = [host.host.name for host in plan.hosts]
    if name not in names:
        near = did_you_mean(name, names)
        raise UsageError(
            f"no host {name} is in service", hint=near or f"there are: {', '.join(names) or 'none'}"
        )
    return plan.host(name)


def _instances(host: HostPlan, part: str) -> list[Instance]:
    found = [i for i in host.instances if part in ("", i.name) or (part.isdigit() and i.name == f"gpu{part}")]
    if not found:
        there = ", ".join(i.name for i in host.instances)
        raise UsageError(
            f"{host.host.name} has no instance {part}" if part else f"{host.host.name} has no instances",
            hint=f"there are: {there}" if there else "it is a balancer, or nothing was placed on it",
        )
    return found
