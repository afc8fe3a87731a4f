"""What the VRAM account needs to know of a model, drawn from GGUF metadata and the tensor table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import CatalogError
from .tensors import FILE_TYPES, Tensor

#: architectures with sliding windows → every n-th layer sees everything; metadata may say otherwise
_WINDOW_PERIODS = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gemma-embedding": 6,
    "gpt-oss": 2,
    "cohere2": 4,
    "exaone4": 4,
    "olmo2": 4,
    "olmo3": 4,
    "llama4": 4,
    "smallthinker": 4,
}
_DEFAULT_WINDOWS = {"gemma2": 4096, "llama4": 8192}
#: families that Ollama serves with one slot only (`server/sched.go`)
SINGLE_SLOT = frozenset(
    {
        "mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe",
        "nemotron_h", "nemotron_h_moe", "bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2",
    }
)  # fmt: skip
_ENCODERS = frozenset({"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2"})
_EMBEDDING = _ENCODERS | {"gemma-embedding"}
_INPUTS = ("token_types.", "position_embd.", "token_embd_norm.")
_EXPERT = re.compile(r"ffn_(up|down|gate|gate_up)_(ch)?exps\b")
_BLOCK = re.compile(r"blk\.(\d{1,6})\.(.+)")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """One model in one quantisation: counts of elements, and bytes of its tensors by where they go."""

    name: str
    arch: str
    quant: str
    blocks: int
    embedding: int
    heads: int  # the most of any layer
    kv_heads: tuple[int, ...]  # of each block; 0 where a block keeps no cache
    key_length: int
    value_length: int
    feed_forward: int  # of the widest dense block
    vocab: int
    context_train: int
    experts: int = 0
    experts_used: int = 0
    expert_feed_forward: int = 0
    window: int = 0  # tokens; 0: no sliding window
    windowed: tuple[bool, ...] = ()  # of each block
    recurrent: tuple[int, ...] = ()  # bytes of state of each block and slot
    post_norms: bool = False  # norms after attention and feed-forward (gemma)
    sinks: bool = False  # attention sinks (gpt-oss)
    fused_qkv: bool = False  # one tensor for query, key and value (phi3)
    block_bytes: tuple[int, ...] = ()
    expert_bytes: tuple[int, ...] = ()  # the part of block_bytes that expert tensors make
    largest_tensor: tuple[int, ...] = ()  # of each block
    embd_bytes: int = 0  # token_embd and what else belongs to the input: always on the host
    output_bytes: int = 0  # output.weight, or token_embd's copy where there is none
    other_bytes: int = 0  # output_norm, rope factors: on the card with the output
    tied: bool = False
    source: str = ""  # where the figures come from
    tags: tuple[str, ...] = field(default=(), compare=False)

    @property
    def tensor_bytes(self) -> int:
        """All tensors of the file."""
        return (
            self.embd_bytes
            + (0 if self.tied else self.output_bytes)
            + self.other_bytes
            + sum(self.block_bytes)
        )

    @property
    def layers(self) -> int:
        """Layers that can be on a card: the blocks and the output."""
        return self.blocks + 1

    @property
    def single_slot(self) -> bool:
        """Whether Ollama forces parallel to 1 for this family."""
        return self.arch in SINGLE_SLOT

    @property
    def is_embedding(self) -> bool:
        return self.arch in _EMBEDDING

    @property
    def is_moe(self) -> bool:
        return self.experts_used > 0 and any(self.expert_bytes)


def shape_of(
    metadata: Mapping[str, Any], tensors: Iterable[Tensor], *, name: str = "", source: str = ""
) -> ModelShape:
    """The shape told by GGUF metadata and tensors; raises CatalogError where they make no model."""
    facts = _Facts(metadata)
    blocks = facts.count("block_count")
    sums = _sums(tensors, blocks)
    heads = facts.per_block("attention.head_count", blocks)
    kv_heads = facts.per_block("attention.head_count_kv", blocks, heads)
    embedding = facts.count("embedding_length")
    length = embedding // max(1, max(heads))
    window, windowed = _window(facts, blocks)
    encoder = facts.arch in _ENCODERS
    if encoder:
        kv_heads = (0,) * blocks  # nothing is generated, so nothing is cached
    key, value, kv_heads = _cache_lengths(facts, length, kv_heads)
    return ModelShape(
        name=name or str(metadata.get("general.name", "")) or "model",
        arch=facts.arch,
        quant=_quant(metadata, sums),
        blocks=blocks,
        embedding=embedding,
        heads=max(heads),
        kv_heads=kv_heads,
        key_length=key,
        value_length=value,
        feed_forward=max(facts.per_block("feed_forward_length", blocks, (0,) * blocks)),
        vocab=facts.vocab(sums),
        context_train=facts.number("context_length", 0),
        experts=facts.number("expert_count", 0),
        experts_used=facts.number("expert_used_count", 0),
        expert_feed_forward=facts.number("expert_feed_forward_length", sums.expert_width),
        window=window,
        windowed=windowed,
        recurrent=_recurrent(facts, kv_heads, sums),
        post_norms=sums.post_norms,
        sinks=sums.sinks,
        fused_qkv=sums.fused_qkv,
        block_bytes=tuple(sums.block),
        expert_bytes=tuple(sums.expert),
        largest_tensor=tuple(sums.largest),
        embd_bytes=sums.embd + sums.inputs,
        output_bytes=0 if encoder else sums.output or sums.embd,
        other_bytes=sums.other,
        tied=not sums.output and not encoder,
        source=source,
    )


# ---------------------------------------------------------------------------------------- metadata
class _Facts:
    """Checked access to the keys of one architecture."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.metadata = metadata
        arch = metadata.get("general.architecture")
        if not isinstance(arch, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", arch):
            raise CatalogError("the GGUF metadata names no architecture", hint="is it a language model?")
        self.arch = arch

    def get(self, key: str) -> Any:
        return self.metadata.get(f"{self.arch}.{key}")

    def number(self, key: str, default: int) -> int:
        value = self.get(key)
        if value is None:
            return default
        if isinstance(value, (list, tuple)) and value and all(_is_count(v) for v in value):
            return int(max(value))
        return self._checked(key, value)

    def count(self, key: str) -> int:
        """A number that must be there and above 0."""
        value = self._checked(key, self.get(key))
        if value <= 0:
            raise CatalogError(f"{self.arch}.{key} is {value} in the GGUF metadata")
        return value

    def per_block(self, key: str, blocks: int, default: Sequence[int] | None = None) -> tuple[int, ...]:
        """A number for each block: metadata may hold one for all or a list."""
        value = self.get(key)
        if value is None:
            if default is None:
                raise CatalogError(f"{self.arch}.{key} is missing in the GGUF metadata")
            return tuple(default)
        if isinstance(value, (list, tuple)):
            if len(value) < blocks:
                raise CatalogError(f"{self.arch}.{key} has {len(value)} values for {blocks} blocks")
            return tuple(self._checked(key, v) for v in value[:blocks])
        return (self._checked(key, value),) * blocks

    def vocab(self, sums: _Sums) -> int:
        """The rows of the output; the tensor is surer than the metadata."""
        return sums.vocab or self.number("vocab_size", 0)

    def _checked(self, key: str, value: Any) -> int:
        if value is None:
            raise CatalogError(f"{self.arch}.{key} is missing in the GGUF metadata")
        if not _is_count(value):
            raise CatalogError(f"{self.arch}.{key} is {str(value)[:40]!r} in the GGUF metadata")
        return int(value)


def _is_count(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 <= value < 2**40
        and float(value).is_integer()
    )


def _window(facts: _Facts, blocks: int) -> tuple[int, tuple[bool, ...]]:
    """Window in tokens and which blocks have it; unknown architectures see everything, as llama does."""
    period = _WINDOW_PERIODS.get(facts.arch, 0)
    window = facts.number("attention.sliding_window", _DEFAULT_WINDOWS.get(facts.arch, 0))
    if facts.arch == "llama4":
        window = facts.number("attention.chunk_size", window)
    pattern = facts.get("attention.sliding_window_pattern")
    if isinstance(pattern, (list, tuple)) and len(pattern) >= blocks:
        return window, tuple(bool(p) for p in pattern[:blocks])
    if period and pattern is not None:
        period = facts.number("attention.sliding_window_pattern", period)
    if not window or not period:
        return 0, (False,) * blocks
    return window, tuple(i % period < period - 1 for i in range(blocks))


def _cache_lengths(facts: _Facts, length: int, kv_heads: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
    """Elements of a cached key and value per head; MLA keeps one joint key and no value."""
    key = facts.number("attention.key_length", length)
    value = facts.number("attention.value_length", length)
    if facts.number("attention.key_length_mla", 0):
        rank = facts.number("attention.kv_lora_rank", 0)
        return (key or rank), 0, tuple(min(1, n) for n in kv_heads)
    shared = facts.number("attention.shared_kv_layers", 0)
    if shared:
        own = max(0, len(kv_heads) - shared)
        kv_heads = tuple(n if i < own else 0 for i, n in enumerate(kv_heads))
    return key, value, kv_heads


def _recurrent(facts: _Facts, kv_heads: tuple[int, ...], sums: _Sums) -> tuple[int, ...]:
    """Bytes of recurrent state of each block and slot.

    ((conv - 1) · (inner + 2 · groups · state) + state · inner) · 4: always f32, whatever the context.
    """
    inner, cache = facts.number("ssm.inner_size", 0), facts.number("shortconv.l_cache", 0)
    if cache:  # lfm2: the last columns of a short convolution
        size = (cache - 1) * facts.count("embedding_length") * 4
        return tuple(size if has else 0 for has in sums.has_state)
    if not inner:
        return (0,) * len(kv_heads)
    conv, state = facts.number("ssm.conv_kernel", 0), facts.number("ssm.state_size", 0)
    groups = facts.number("ssm.group_count", 0)
    size = (max(0, conv - 1) * (inner + 2 * groups * state) + state * inner) * 4
    return tuple(size if has else 0 for has in sums.has_state)


def _quant(metadata: Mapping[str, Any], sums: _Sums) -> str:
    number = metadata.get("general.file_type")
    if isinstance(number, int) and number & 1023 in FILE_TYPES:
        return FILE_TYPES[number & 1023]
    return max(sums.by_type, key=lambda t: sums.by_type[t], default="F16")


# ----------------------------------------------------------------------------------------- tensors
class _Sums:
    """Bytes by destination."""

    def __init__(self, blocks: int) -> None:
        self.block = [0] * blocks
        self.expert = [0] * blocks
        self.largest = [0] * blocks
        self.has_state = [False] * blocks
        self.embd = self.inputs = self.output = self.other = self.vocab = self.expert_width = 0
        self.post_norms = self.sinks = self.fused_qkv = False
        self.by_type: dict[str, int] = {}


def _sums(tensors: Iterable[Tensor], blocks: int) -> _Sums:
    if blocks > 4096:
        raise CatalogError(f"{blocks} blocks are more than any model has")
    sums = _Sums(blocks)
    for tensor in tensors:
        size = tensor.size
        sums.by_type[tensor.type] = sums.by_type.get(tensor.type, 0) + size
        match = _BLOCK.fullmatch(tensor.name)
        if match and int(match[1]) < blocks:
            _add_to_block(sums, int(match[1]), match[2], tensor, size)
        elif tensor.name == "token_embd.weight":
            sums.embd, sums.vocab = size, tensor.dims[-1]
        elif tensor.name == "output.weight":
            sums.output, sums.vocab = size, tensor.dims[-1]
        elif tensor.name.startswith(_INPUTS):
            sums.inputs += size
        else:
            sums.other += size
    if not sums.embd or not any(sums.block):
        raise CatalogError(
            "the tensors make no language model", hint="a projector or adapter alone has no account"
        )
    return sums


def _add_to_block(sums: _Sums, block: int, role: str, tensor: Tensor, size: int) -> None:
    sums.block[block] += size
    sums.largest[block] = max(sums.largest[block], size)
    if _EXPERT.match(role):
        sums.expert[block] += size
        if role.startswith("ffn_down_exps.weight"):
            sums.expert_width = tensor.dims[0]
    elif role.startswith("post_ffw_norm"):
        sums.post_norms = True
    elif role.startswith("attn_sinks"):
        sums.sinks = True
    elif role.startswith("attn_qkv."):
        sums.fused_qkv = True
    elif role.startswith(("ssm_conv1d", "shortconv.conv")):
        sums.has_state[block] = True
