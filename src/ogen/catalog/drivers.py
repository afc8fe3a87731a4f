"""The oldest driver of NVIDIA's that a version of Ollama works with."""

from __future__ import annotations

from ..errors import CatalogError
from .gpus import find_gpu
from .versions import Era, era


def least_driver(version: str, model: str) -> int:
    """The first number of the driver's version, for a card.

    By Ollama's documentation: 550, and 570 for cards of compute capability 5.0 to 6.2; of versions before
    0.30 it says 531, and of some of them 570 as above: the lower number is taken.
    """
    if era(version) is not Era.C:
        return 531
    try:
        compute = float(find_gpu(model).compute)
    except (CatalogError, ValueError):
        return 550
    return 570 if compute <= 6.2 else 550
