"""The KV cache: bytes of each block, exact for llama.cpp's unified, separate and windowed caches."""

from __future__ import annotations

from ..catalog.shape import ModelShape
from .model import KvType, Settings

#: bytes of one element: blocks of 32 with their scale
ELEMENT = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
CACHE_TYPES: tuple[KvType, ...] = ("f16", "q8_0", "q4_0")  # largest first


def pad(value: int, step: int = 256) -> int:
    """`value` rounded up to a multiple of `step`."""
    return -(-value // step) * step


def seen_cells(settings: Settings) -> int:
    """Cells that one sequence attends over in a full layer: c of the compute formula."""
    if settings.kv_unified:
        return pad(settings.context * settings.parallel)
    return pad(settings.context)


def windowed_cells(shape: ModelShape, settings: Settings, micro_batch: int) -> int:
    """Cells that one sequence attends over in a sliding window layer.

    min(full, pad(window · sequences in the cache + ubatch, 256)): llama-kv-cache-iswa.cpp.
    """
    full = seen_cells(settings)
    if settings.swa_full:
        return full
    sequences = settings.parallel if settings.kv_unified else 1
    return min(full, pad(shape.window * sequences + micro_batch))


def block_caches(shape: ModelShape, settings: Settings, micro_batch: int) -> tuple[int, ...]:
    """Bytes of cache of each block: cells · KV heads · (key + value) · bytes of an element.

    Recurrent blocks keep a state of fixed size for each slot instead.
    """
    streams = 1 if settings.kv_unified else settings.parallel
    full = seen_cells(settings) * streams
    windowed = windowed_cells(shape, settings, micro_batch) * streams
    row = (shape.key_length + shape.value_length) * ELEMENT[settings.kv_cache]
    sizes = []
    for block, heads in enumerate(shape.kv_heads):
        cells = windowed if shape.windowed[block] else full
        sizes.append(int(cells * heads * row) + shape.recurrent[block] * settings.parallel)
    return tuple(sizes)
