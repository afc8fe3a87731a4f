"""Autofit's choice on this host (templates/autofit.py): which of a release's rungs an instance has.

It is the host's own: no release holds it, and no difference from the plan is an edit.
"""

from __future__ import annotations

import json
from typing import Any, Dict

CHOSEN = "/var/lib/ogen/autofit/%s/chosen.json"
LADDER = "/etc/ogen/current/instances/%s/rungs.json"

Told = Dict[str, Any]


def chosen(instance: str) -> Told:
    """The choice with its place among the rungs of the release in force; {} without autofit."""
    ladder, choice = _read(LADDER % instance), _read(CHOSEN % instance)
    rungs = ladder.get("rungs") or []
    number = next((n for n, rung in enumerate(rungs) if rung.get("id") == choice.get("id")), None)
    if number is None:
        return {}
    told = {name: choice.get(name) for name in ("about", "why", "since")}
    return {**told, "rung": number + 1, "of": len(rungs)}


def served(instance: str, promised: Told) -> Told:
    """What an instance must show of a model: a lower rung may have less of it on the card than planned."""
    ladder, choice = _read(LADDER % instance), _read(CHOSEN % instance)
    rung: Told = next((r for r in ladder.get("rungs") or [] if r.get("id") == choice.get("id")), {})
    found = (rung.get("models") or {}).get(promised["model"]) or {}
    return {**promised, **{name: found[name] for name in ("verdict", "context") if name in found}}


def _read(path: str) -> Told:
    try:
        with open(path, "rb") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
