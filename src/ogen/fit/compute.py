"""The compute buffer: what the engine reserves on a card for the largest step of its graph."""

from __future__ import annotations

from dataclasses import dataclass

from ..catalog.shape import ModelShape
from ..catalog.versions import Era, era
from .cache import seen_cells, windowed_cells
from .model import Settings


def auto_batch(settings: Settings) -> int:
    """What Ollama chooses where num_batch is not set, before it looks at free memory.

    Era C: 512 up to a context of 4096, 1024 up to 32768, else 2048; 512 without flash attention on
    CUDA (`server/sched.go`). It lowers the figure where memory is short, so this is the most. Earlier: 512.
    """
    if era(settings.version) is not Era.C:
        return 512
    if settings.backend == "cuda" and not settings.flash_attention:
        return 512
    if settings.context <= 4096:
        return 512
    return 1024 if settings.context <= 32768 else 2048


def micro_batch(settings: Settings) -> int:
    """Tokens of one step: the batch, but never more than the whole context."""
    batch = settings.batch if settings.batch is not None else auto_batch(settings)
    return max(1, min(batch, settings.context * settings.parallel))


def reserved_outputs(settings: Settings, tokens: int) -> int:
    """Rows of logits that the engine reserves: one for each slot in era C, all of a step before.

    llama.cpp's pull request 23861; Ollama's own runners up to 0.24 reserve n_batch rows.
    """
    return min(tokens, settings.parallel) if era(settings.version) is Era.C else tokens


#: rows from which the engine copies weights of the host to the card instead of computing beside them
_OFFLOADED_ROWS = 32
_MOST_LOST = 128 * 1024 * 1024  # bytes between buffers


@dataclass(frozen=True, slots=True)
class Hosted:
    """What of the blocks is in host memory, in bytes: it is copied up piece by piece for large batches."""

    tensor: int = 0  # the largest weight
    cache: int = 0  # the largest cache of a block whose attention the card computes
    all_blocks: bool = False


def compute_buffer(shape: ModelShape, settings: Settings, hosted: Hosted = Hosted()) -> int:
    """Bytes of the compute buffer on a card.

    4 · ubatch · max(logits, feed-forward + mask, attention), in floats for each token of a step; the terms
    are fitted to llama.cpp's own figures (docs/fit.md). CUDA holds one more row of embeddings than Vulkan.
    With blocks in host memory the feed-forward adds the largest of their tensors and attention the cache of
    one block; a cache that is all in host memory adds two rows of embeddings. Exact to 140 MiB there.
    """
    tokens = micro_batch(settings)
    outputs = reserved_outputs(settings, tokens)
    mask = _mask(shape, settings, tokens)
    crossing = 2 * shape.embedding if settings.kv_on_host else 0
    feed_forward = 4 * tokens * (_feed_forward(shape, settings) + mask + crossing)
    attention = 4 * tokens * (_attention(shape, settings, outputs < tokens, tokens) + crossing)
    logits = 4 * tokens * _logits(shape, settings, outputs, tokens)
    if hosted.all_blocks and outputs >= _OFFLOADED_ROWS:
        # the output's weights are copied up too; beside them between none and twice the largest tensor
        # was seen to be lost, so one is taken, as far as it is not very large
        rows = 4 * (shape.vocab * outputs + shape.embedding * tokens)
        logits = max(logits, shape.output_bytes + rows + min(hosted.tensor, _MOST_LOST))
    extra = 0 if settings.backend == "vulkan" else 4 * tokens * shape.embedding
    return int(max(logits, feed_forward + hosted.tensor, attention + hosted.cache) + extra)


def _mask(shape: ModelShape, settings: Settings, tokens: int) -> float:
    """The attention mask: a float for each cell seen, half of one with flash attention."""
    cells = seen_cells(settings)
    if any(shape.windowed):
        cells += windowed_cells(shape, settings, tokens)
    return cells * (0.5 if settings.flash_attention else 1.0)


def _logits(shape: ModelShape, settings: Settings, outputs: int, tokens: int) -> float:
    """The reserved rows of logits beside two rows of embeddings.

    Where query, key and value are views of one tensor the mask outlives them. CUDA before era C keeps a
    mask of full floats as well, where flash attention is on.
    """
    floats = shape.vocab * outputs / tokens + 2 * shape.embedding
    if shape.fused_qkv:
        floats += _mask(shape, settings, tokens)
    if settings.backend == "cuda" and settings.flash_attention and era(settings.version) is not Era.C:
        floats += seen_cells(settings)
    return floats


def _feed_forward(shape: ModelShape, settings: Settings) -> float:
    embedding, used, width = shape.embedding, shape.experts_used, shape.expert_feed_forward
    if shape.is_moe:
        floats = max(3 * used * width, 2 * used * embedding + used * width) + 2 * embedding
        return floats + (shape.heads * shape.key_length if shape.sinks else 0)
    if shape.post_norms:
        return 3 * shape.feed_forward + (3 if settings.flash_attention else 5) * embedding
    return 3 * shape.feed_forward + 2 * embedding


def _attention(shape: ModelShape, settings: Settings, few_outputs: bool, tokens: int) -> float:
    embedding, mask = shape.embedding, _mask(shape, settings, tokens)
    query = shape.heads * shape.key_length
    keys = max(shape.kv_heads) * shape.key_length
    if settings.flash_attention:
        return 2 * embedding + 2 * query + 2 * keys + mask
    scores = seen_cells(settings) * shape.heads + mask
    if shape.is_moe or shape.post_norms:
        return scores + 2 * embedding + (4 if shape.post_norms else 2) * query + 2 * keys
    return scores + (embedding if few_outputs else 2 * embedding) + query + 2 * keys
