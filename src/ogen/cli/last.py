"""How each host ended when it was last applied to: `.ogen/last.json` beside the inventory, for `--failed`.

    {"version": 1, "inventories": {"inventory.yaml": {"gpu01": "applied", "gpu02": "rolled_back"}}}

A run writes it before it begins, with all of its hosts as interrupted, and again when it is through; hosts
outside of a run keep what they had. It is a convenience: where it can't be written, that is only a note.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import UsageError
from ..inventory.model import Inventory
from . import console

VERSION = 1


def path_of(inventory: Inventory) -> Path:
    return Path(inventory.folder, ".ogen", "last.json")


def ends(inventory: Inventory) -> dict[str, str]:
    """Host → status; empty if nothing is remembered. UsageError if the file can't be understood."""
    path = path_of(inventory)
    try:
        return _all(path).get(_key(inventory), {})
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise UsageError(f"{path}: {why}", hint="remove it, and apply without --failed") from None


def remember(inventory: Inventory, statuses: Mapping[str, str], *, quiet: bool = False) -> None:
    """Notes how these hosts ended, and forgets those that the inventory no longer has."""
    path = path_of(inventory)
    known: dict[str, dict[str, str]] = {}
    with suppress(OSError, ValueError):
        known = _all(path)
    names = {host.name for host in inventory.hosts}
    mine = {**known.get(_key(inventory), {}), **statuses}
    known[_key(inventory)] = {name: mine[name] for name in sorted(mine) if name in names}
    try:
        _write(path, json.dumps({"version": VERSION, "inventories": known}, indent=1) + "\n")
    except OSError as error:
        if not quiet:
            why = (error.strerror or str(error)).lower()
            console.say(f"note: {path} can't be written ({why}), so `--failed` will not know of this run")


def _key(inventory: Inventory) -> str:
    return Path(inventory.name).absolute().name


def _all(path: Path) -> dict[str, dict[str, str]]:
    """ValueError if it is not ours."""
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict) or value.get("version") != VERSION:
        raise ValueError("another version")
    found = value.get("inventories")
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise ValueError("no inventories")
    return {str(k): {str(h): str(s) for h, s in one.items()} for k, one in found.items()}


def _write(path: Path, text: str) -> None:
    """Whole or not at all, for whoever reads; not synced to the disk, for it is only a convenience."""
    path.parent.mkdir(exist_ok=True)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=".last-")
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
