"""What bin/probe.py is told of an instance's models: where each must be, and how it is asked."""

from __future__ import annotations

from typing import Any

from ..plan.model import Instance, Placement


def probes(instance: Instance) -> list[dict[str, Any]]:
    """One entry for each model; only resident ones are ever asked for.

    stays: it must be in memory at all times. Not so where its keep_alive ends, nor where models that take
    turns may have thrown it out. rungs: contexts that the host may have chosen by itself (autofit).
    """
    shared = any(p.model.residency != "resident" for p in instance.placements)
    return [_probe(placement, instance, shared) for placement in instance.placements]


def _probe(placement: Placement, instance: Instance, shared: bool) -> dict[str, Any]:
    model, keep = placement.model, placement.model.keep_alive or instance.server.keep_alive
    resident = model.residency == "resident" and not model.hours  # whose clock is its own host's
    lower = [p for rung in instance.rungs for p in rung.placements if p.model.name == model.name]
    spills = any(p.verdict != placement.verdict for p in lower)
    return {
        "name": model.name,
        "verdict": "partial" if spills else placement.verdict,
        "resident": resident,
        "stays": resident and not shared and keep.startswith("-"),
        "embedding": model.embedding,
        "context": placement.settings.context,
        "keep_alive": keep,
        **({"rungs": sorted({p.settings.context for p in lower})} if lower else {}),
    }
