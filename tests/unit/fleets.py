"""Inventories made by hand, for the tests of the plan: catalog cards and models, no files."""

from __future__ import annotations

from ogen.catalog import find_gpu
from ogen.inventory.model import Balancer, Context, Gpu, Host, Inventory, Lock, Model, Rollout, Source

GIB = 2**30
TAGS = {
    "tiny": "llama3.2:1b",
    "chat": "llama3.1:8b-instruct-q4_K_M",
    "writer": "qwen2.5:14b",
    "coder": "qwen2.5-coder:32b-instruct-q4_K_M",
    "large": "llama3.3:70b-instruct-q4_K_M",
    "embed": "nomic-embed-text",
}


def gpus(*names, **more):
    return tuple(
        Gpu(index, card.name, card.vendor, card.vram, **more)
        for index, card in enumerate(find_gpu(name) for name in names)
    )


def host(name, *cards, **more):
    number = sum(map(ord, name)) % 250 + 1
    return Host(name, f"192.0.2.{number}", gpus=gpus(*cards), **more)


def model(name, tag=None, *, context=8192, at_least=None, **more):
    return Model(name, (Source(None, tag or TAGS[name]),), Context(context, at_least or context), **more)


def fleet(hosts, models, balancers=(), *, lock=None, groups=None):
    return Inventory(
        tuple(hosts), tuple(models), tuple(balancers), groups or {}, Rollout(), ".", "fleet.yaml", lock
    )


def balancer(name="api", hosts="edge", **more):
    return Balancer(name, hosts, **more)


def places(plan):
    """Model → places, e.g. {"chat": ["a/gpu0"]}."""
    found = {}
    for one in plan.hosts:
        for instance in one.instances:
            for placement in instance.placements:
                found.setdefault(placement.model.name, []).append(f"{instance.host}/{instance.name}")
    return found


def locked(plan, **more):
    return Lock(placements={name: tuple(p) for name, p in places(plan).items()}, **more)
