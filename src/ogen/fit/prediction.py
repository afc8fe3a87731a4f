"""What Ollama itself predicts before a load: coarse, and what decides whether a neighbour is evicted."""

from __future__ import annotations

from collections.abc import Iterable

from ..catalog.shape import ModelShape
from ..catalog.versions import Era, era
from .account import CONTEXT
from .compute import auto_batch
from .model import Settings

_MIB = 1024 * 1024
_SURCHARGE = {512: 0, 1024: 768 * _MIB, 2048: 2048 * _MIB}


def predicted_by_ollama(shape: ModelShape, settings: Settings) -> int:
    """Bytes that era C's scheduler expects: file + 2·L·KV heads·(E/heads)·context·parallel·2.

    `llm.PredictServerVRAM`: no compute buffer, no sliding window, no key length, no cache type.
    """
    heads = min((n for n in shape.kv_heads if n), default=0)
    context = min(settings.context, shape.context_train or settings.context) * settings.parallel
    cache = 2 * shape.blocks * heads * (shape.embedding // max(1, shape.heads)) * context * 2
    return shape.tensor_bytes + cache


def evicts(shape: ModelShape, settings: Settings, total: int, residents: Iterable[int]) -> bool:
    """Whether loading this model makes Ollama throw out a neighbour on a card of `total` bytes.

    Era C loads a further model only where its prediction, with a surcharge for a batch that it chose, is at
    most 80 % of what is free; `residents` are the bytes that the models already there really take. Earlier
    eras measure, so they evict only where it does not fit.
    """
    resident = sum(residents)
    if not resident:
        return False
    free = total - CONTEXT - resident
    if era(settings.version) is not Era.C:
        return predicted_by_ollama(shape, settings) > free
    surcharge = _SURCHARGE.get(auto_batch(settings), 0) if settings.batch is None else 0
    return (predicted_by_ollama(shape, settings) + surcharge) * 10 > free * 8
