"""The inventory: read, checked and merged, with every value's place kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .model import (
    Autofit,
    Balancer,
    ClientOptions,
    Context,
    Gate,
    Gpu,
    Host,
    Inventory,
    Limit,
    Limits,
    Lock,
    Message,
    Mirror,
    Model,
    Monitoring,
    Ollama,
    Pin,
    Queue,
    Redis,
    Rollout,
    Secret,
    Source,
    Ssh,
    Tls,
)

if TYPE_CHECKING:
    from .noting import Note


def load(path: Path | str) -> Inventory:
    """The inventory at `path`, a file or a folder of files. Raises Problems with every mistake."""
    from .loading import load

    return load(path)


def schema() -> dict[str, Any]:
    """The inventory's JSON Schema (draft 2020-12), made of the rules for cerberus."""
    from .editor import schema

    return schema()


def hosts_matching(inventory: Inventory, pattern: str) -> tuple[Host, ...]:
    """The hosts that "gpu*,@boxes,!gpu03" names. Raises UsageError if a term matches nothing."""
    from .patterns import hosts_matching

    return hosts_matching(inventory, pattern)


def notes(inventory: Inventory) -> tuple[Note, ...]:
    """What is right but worth knowing: settings without effect on the host's Ollama version."""
    from .noting import notes

    return notes(inventory)


__all__ = [
    "Autofit",
    "Balancer",
    "ClientOptions",
    "Context",
    "Gate",
    "Gpu",
    "Host",
    "Inventory",
    "Limit",
    "Limits",
    "Lock",
    "Message",
    "Mirror",
    "Model",
    "Monitoring",
    "Ollama",
    "Pin",
    "Queue",
    "Redis",
    "Rollout",
    "Secret",
    "Source",
    "Ssh",
    "Tls",
    "hosts_matching",
    "load",
    "notes",
    "schema",
]
