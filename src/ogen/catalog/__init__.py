"""What is known: GPUs, models and their quantisations, Ollama's versions, GGUF headers."""

from .cards import ModelCard, cards, find_model, tag_names
from .drivers import least_driver
from .gpus import GpuCard, find_gpu, gpu_names, gpus
from .shape import ModelShape, shape_of
from .versions import Era, at_least, era

__all__ = [
    "Era",
    "GpuCard",
    "ModelCard",
    "ModelShape",
    "at_least",
    "cards",
    "era",
    "find_gpu",
    "find_model",
    "gpu_names",
    "gpus",
    "least_driver",
    "shape_of",
    "tag_names",
]
