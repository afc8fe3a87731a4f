"""The shapes behind the models of an inventory: catalog cards, or GGUF files of the project."""

from __future__ import annotations

from pathlib import Path

from ..catalog import find_model, gguf
from ..catalog.shape import ModelShape
from ..errors import CatalogError, OgenError
from ..inventory.model import Inventory, Model, Source
from .fitting import Candidates


def candidates_of(inventory: Inventory) -> tuple[dict[str, Candidates], list[OgenError]]:
    """By model its sources with their shapes, and an error for each that nothing is known about."""
    found: dict[str, Candidates] = {}
    problems: list[OgenError] = []
    for model in inventory.models:
        shapes: list[tuple[Source, ModelShape]] = []
        for source in model.sources:
            try:
                shapes.append((source, _shape(inventory, model, source)))
            except CatalogError as problem:
                where = problem.where or source.where or model.where
                problems.append(
                    CatalogError(f"{model.name}: {problem.message}", where=where, hint=problem.hint)
                )
        found[model.name] = tuple(shapes)
    return found, problems


def _shape(inventory: Inventory, model: Model, source: Source) -> ModelShape:
    """A card that the inventory names is believed before a file, and a file before its name."""
    if model.card is None and source.ref.endswith(".gguf") and not source.ref.startswith("hf.co/"):
        return gguf.read(Path(inventory.folder) / source.ref).shape(model.name, source.ref)
    return find_model(source.ref, source.quant, model.card)
