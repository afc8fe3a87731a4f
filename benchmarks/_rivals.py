"""Other people's estimates, from their formulas as published; MiB on the card, all layers offloaded.

Each returns weights, KV cache and compute. Where a tool reads figures that are given here in another
form (bytes of attn_q), the difference is about one percent of its compute.
"""

from __future__ import annotations

from collections.abc import Callable

from ogen.catalog import ModelShape
from ogen.fit import Settings, predicted_by_ollama

MIB = 1024 * 1024
Parts = tuple[float, float, float]
_ROUGH = {"f16": 2.0, "q8_0": 1.0, "q4_0": 0.5}  # bytes of an element in Ollama's own table
_TRUE = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
_ARTICLE = {
    "Q4_K_M": 0.25,
    "Q4_0": 0.25,
    "Q4_K_S": 0.25,
    "Q5_K_M": 0.33,
    "Q8_0": 0.5,
    "MXFP4": 0.25,
}  # of FP16


def _weights(shape: ModelShape) -> float:
    return sum(shape.block_bytes) + shape.output_bytes + shape.other_bytes


def _total(settings: Settings) -> int:
    return settings.context * settings.parallel


def _batch(settings: Settings) -> int:
    return min(settings.batch or 512, _total(settings))


def ollama_before(shape: ModelShape, settings: Settings) -> Parts:
    """Ollama's `GraphSize` (eras A and B): flash attention only for gpt-oss."""
    c, b, e, h = _total(settings), _batch(settings), shape.embedding, shape.heads
    kv_heads, dk, v = max(shape.kv_heads), shape.key_length, shape.vocab
    row = kv_heads * (dk + shape.value_length) * _ROUGH[settings.kv_cache]
    cells = [c] * shape.blocks
    if shape.arch == "gemma3":
        local = settings.parallel * shape.window + b
        cells = [local if windowed else c for windowed in shape.windowed]
    elif shape.arch == "gpt-oss":
        local = settings.parallel * 4096 + b
        cells = [local if windowed else c for windowed in shape.windowed]
    cache = sum(n * row for n in cells)
    graph = _graph(shape.arch, c, b, e, h, dk, v)
    if shape.arch == "gpt-oss" and settings.flash_attention:
        graph = (4 * settings.parallel + c / 1024 + 110) * MIB
    elif graph is None:
        graph = h / kv_heads * cache / 6
    return _weights(shape) / MIB, cache / MIB, graph / MIB


def _graph(arch: str, c: int, b: int, e: int, h: int, dk: int, v: int) -> float | None:
    if arch == "llama":
        return max(4 * b * (1 + 4 * e + c * (1 + h)), 4 * b * (e + v))
    if arch == "qwen2":
        return max(4 * b * (e + v), 4 * b * (1 + 2 * e + c + c * h))
    if arch.startswith("gemma"):
        return max(4 * b * (e + v), 4 * b * (2 + c + c * h + 2 * e + 2 * dk * h))
    return None  # a sixth of the cache times the ratio of heads


def ollama_now(shape: ModelShape, settings: Settings) -> Parts:
    """`llm.PredictServerVRAM` (era C): the file and a rough cache; nothing else."""
    total = predicted_by_ollama(shape, settings)
    return shape.tensor_bytes / MIB, (total - shape.tensor_bytes) / MIB, 0.0


def gguf_parser(shape: ModelShape, settings: Settings) -> Parts:
    """gguf-parser-go: true weights; cache by batch, not micro-batch; inputs + max(attention, ffn, output)."""
    c, b, e, h = _total(settings), _batch(settings), shape.embedding, shape.heads
    kv_heads, dk = max(shape.kv_heads), shape.key_length
    row = kv_heads * (dk + shape.value_length) * _TRUE[settings.kv_cache]
    knows_windows = shape.arch in ("gemma2", "gemma3")
    local = min(c, shape.window * settings.parallel + b)
    cells = [local if knows_windows and windowed else c for windowed in shape.windowed]
    cache = sum(n * row for n in cells)
    query, keys = h * dk, kv_heads * dk
    if settings.flash_attention:
        attn_q = shape.embedding * query * 4.5 / 8
        attention = 4 * b * (query + 2 * keys) + 2 * b * c + attn_q + c * row
    else:
        attention = 4 * b * (c * h + query + 2 * keys)
    width = shape.experts_used * shape.expert_feed_forward or shape.feed_forward
    compute = 4 * b * (e + 1 + c) + max(attention, 4 * b * 2 * width, 4 * b * (e + shape.vocab))
    return _weights(shape) / MIB, cache / MIB, compute / MIB


def article(shape: ModelShape, settings: Settings) -> Parts:
    """The founding article: a share of the FP16 size, and context · layers · width · 2 bytes; no compute."""
    width = shape.experts_used * shape.expert_feed_forward * shape.experts or shape.feed_forward
    params = _parameters(shape, width)
    weights = params * 2 * _ARTICLE.get(shape.quant, 1.0)
    cache = _total(settings) * shape.blocks * shape.embedding * 2
    return weights / MIB, cache / MIB, 0.0


def _parameters(shape: ModelShape, width: int) -> float:
    """The count of weights, near enough for a percentage of it."""
    query = shape.heads * shape.key_length
    attention = shape.embedding * (2 * query + 2 * max(shape.kv_heads) * shape.key_length)
    if shape.is_moe:
        width = shape.experts * shape.expert_feed_forward
    block = attention + 3 * shape.embedding * width
    return float(shape.blocks * block + shape.vocab * shape.embedding * (1 if shape.tied else 2))


RIVALS: dict[str, Callable[[ModelShape, Settings], Parts]] = {
    "Ollama, GraphSize (to 0.24)": ollama_before,
    "Ollama, PredictServerVRAM (from 0.30)": ollama_now,
    "gguf-parser": gguf_parser,
    "the article": article,
}
