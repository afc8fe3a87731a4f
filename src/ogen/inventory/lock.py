"""inventory.lock.yaml: what names resolved to when a person last looked; read and written as text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..source import Node
from .checking import check
from .faults import Faults
from .merging import bare
from .model import Lock
from .rules_hosts import key

_UUIDS: dict[str, Any] = {
    "keysrules": {"type": "string", "check_with": "card_index"},
    "valuesrules": {"type": "string", "check_with": "uuid"},
}
_HOST: dict[str, Any] = {
    "ollama": key("The Ollama version that was seen.", type="string", form="text", check_with="version"),
    "uuids": key("Card number to UUID.", type="dict", **_UUIDS),
}
_SOURCE: dict[str, Any] = {
    "digest": key("The model's digest.", type="string", check_with="digest"),
    "size": key("Its bytes.", type="integer", min=0),
}
RULES: dict[str, Any] = {
    "type": "dict",
    "schema": {
        "version": key("The version of this format: 1.", type="integer", required=True, allowed=[1]),
        "hosts": key(
            "What was seen on each host.",
            type="dict",
            keysrules={"type": "string", "check_with": "name"},
            valuesrules={"type": "dict", "schema": _HOST},
        ),
        "sources": key(
            "What each source of a model resolved to.",
            type="dict",
            keysrules={"type": "string", "check_with": "ref"},
            valuesrules={"type": "dict", "schema": _SOURCE},
        ),
        "placements": key(
            "Where each model was placed: host/instance.",
            type="dict",
            keysrules={"type": "string", "check_with": "name"},
            valuesrules={"type": "list", "schema": {"type": "string", "check_with": "place"}},
        ),
    },
}


def path_beside(inventory: Path) -> Path:
    """Where the lock of an inventory lies: in its folder, or beside fleet.yaml as fleet.lock.yaml."""
    if inventory.is_dir():
        return inventory / "inventory.lock.yaml"
    return inventory.with_name(f"{inventory.stem}.lock.yaml")


def parse(node: Node) -> Lock:
    """The lock that `node` holds. Raises Problems."""
    faults = Faults()
    checked = check(node, RULES, faults, "lock")
    faults.check()
    assert checked is not None
    values = bare(checked)
    hosts: Mapping[str, Any] = values.get("hosts", {})
    sources: Mapping[str, Any] = values.get("sources", {})
    return Lock(
        uuids={
            host: {int(index): uuid for index, uuid in seen["uuids"].items()}
            for host, seen in hosts.items()
            if "uuids" in seen
        },
        versions={host: seen["ollama"] for host, seen in hosts.items() if "ollama" in seen},
        digests={ref: seen["digest"] for ref, seen in sources.items() if "digest" in seen},
        sizes={ref: seen["size"] for ref, seen in sources.items() if "size" in seen},
        placements=values.get("placements", {}),
    )


def text(lock: Lock) -> str:
    """The lock as YAML: sorted, one fact per line, so that a review shows what moved."""
    lines = [
        "# Written by `ogen lock`: what names resolved to. Review and commit it like the inventory.",
        "version: 1",
    ]
    hosts = sorted({*lock.uuids, *lock.versions})
    if hosts:
        lines.append("hosts:")
    for host in hosts:
        lines.append(f"  {_quoted(host)}:")
        if host in lock.versions:
            lines.append(f"    ollama: {_quoted(lock.versions[host])}")
        if host in lock.uuids:
            lines.append("    uuids:" if lock.uuids[host] else "    uuids: {}")
            lines += [f"      {index}: {uuid}" for index, uuid in sorted(lock.uuids[host].items())]
    lines += _sources(lock)
    if lock.placements:
        lines.append("placements:")
    for name, places in sorted(lock.placements.items()):
        lines.append(f"  {_quoted(name)}:" if places else f"  {_quoted(name)}: []")
        lines += [f"    - {place}" for place in places]
    return "\n".join(lines) + "\n"


def _sources(lock: Lock) -> list[str]:
    refs = sorted({*lock.digests, *lock.sizes})
    lines = ["sources:"] if refs else []
    for ref in refs:
        lines.append(f"  {_quoted(ref)}:")
        if ref in lock.digests:
            lines.append(f"    digest: {lock.digests[ref]}")
        if ref in lock.sizes:
            lines.append(f"    size: {lock.sizes[ref]}")
    return lines


def _quoted(text: str) -> str:
    """The text as YAML; in quotes (JSON's are YAML's) where it could be read as something else."""
    plain = re.fullmatch(r"[a-z][a-z0-9._-]*(:[a-z0-9._-]+)?", text) and text not in _WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)


_WORDS = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
