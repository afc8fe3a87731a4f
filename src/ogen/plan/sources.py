"""The shapes behind the models of an inventory: catalog cards, or GGUF files of the project."""

from __future__ import annotations

from pathlib import Path

from ..catalog import find_model
from ..catalog.shape import ModelShape
from ..errors import CatalogError, OgenError
from ..inventory.model import Inventory, Source
from .fitting import Candidates


def candidates_of(inventory: Inventory) -> tuple[dict[str, Candidates], list[OgenError]]:
    """By model its sources with their shapes, and an error for each that nothing is known about."""
    found: dict[str, Candidates] = {}
    problems: list[OgenError] = []
    folder = Path(inventory.folder)
    for model in inventory.models:
        shapes: list[tuple[Source, ModelShape]] = []
        for source in model.sources:
            try:
                shapes.append((source, find_model(source.ref, source.quant, model.card, folder=folder)))
            except CatalogError as problem:
                where = problem.where or source.where or model.where
                problems.append(
                    CatalogError(f"{model.name}: {problem.message}", where=where, hint=problem.hint)
                )
        found[model.name] = tuple(shapes)
    return found, problems
