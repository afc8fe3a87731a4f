"""The tensor table of a model from its hyperparameters: names and dimensions as in its GGUF file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .tensors import Tensor

FLAGS = {
    "tied": "the output shares token_embd",
    "qkv_bias": "biases on query, key and value (qwen2)",
    "attn_bias": "biases on all attention matrices",
    "qk_norm": "norms on each head's query and key (qwen3, gemma3)",
    "qk_norm_wide": "norms on the whole query and key (olmo2)",
    "post_norms": "norms after attention and feed-forward (gemma)",
    "no_pre_norms": "no norms before them (olmo2)",
    "parallel": "attention and feed-forward side by side under one norm (command-r)",
    "fused_qkv": "one tensor for query, key and value (phi3)",
    "fused_up": "one tensor for gate and up (phi3)",
    "no_gate": "feed-forward of up and down only (starcoder2)",
    "ffn_bias": "biases on the feed-forward matrices",
    "norm_bias": "norms with biases",
    "rope_freqs": "frequencies of a stretched rope (llama3.1)",
    "rope_factors": "long and short factors of a stretched rope (phi3 128k)",
    "qk_norm_heads": "norms with weights of their own for each head (command-r-plus)",
    "sinks": "attention sinks (gpt-oss)",
    "expert_bias": "biases on router and experts (gpt-oss)",
    "encoder": "no causal output: an embedding model (bert)",
    "router_bias": "a bias that balances the experts (glm4moe)",
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Hyperparameters of a card, in the words of its file."""

    arch: str
    blocks: int
    embedding: int
    heads: int
    kv_heads: int
    vocab: int
    context: int
    feed_forward: int = 0
    head: int = 0  # elements of a head; 0: embedding / heads
    experts: int = 0
    experts_used: int = 0
    expert_feed_forward: int = 0
    shared_feed_forward: int = 0  # of the experts that every token passes
    dense_blocks: int = 0  # leading blocks without experts
    window: int = 0
    rope: int = 0  # elements that the rope turns, where not the whole head (MLA)
    kv_rank: int = 0  # MLA
    value_head: int = 0  # MLA
    flags: frozenset[str] = field(default_factory=frozenset)

    @property
    def head_length(self) -> int:
        return self.head or self.embedding // self.heads

    def has(self, flag: str) -> bool:
        return flag in self.flags


def metadata(sizes: Sizes) -> dict[str, Any]:
    """The GGUF keys that a shape is drawn from."""
    values: Mapping[str, Any] = {
        "block_count": sizes.blocks,
        "context_length": sizes.context,
        "embedding_length": sizes.embedding,
        "feed_forward_length": sizes.feed_forward,
        "attention.head_count": sizes.heads,
        "attention.head_count_kv": sizes.kv_heads,
        "attention.key_length": sizes.head_length,
        "attention.value_length": sizes.value_head or sizes.head_length,
        "attention.sliding_window": sizes.window,
        "expert_count": sizes.experts,
        "expert_used_count": sizes.experts_used,
        "expert_feed_forward_length": sizes.expert_feed_forward,
        "vocab_size": sizes.vocab,
    }
    keys = {f"{sizes.arch}.{key}": value for key, value in values.items() if value}
    return {"general.architecture": sizes.arch, **keys}


def tensors(sizes: Sizes) -> Iterator[Tensor]:
    """All tensors in F32; `mixture.quantise` gives them their types."""
    for name, dims in _all(sizes):
        yield Tensor(name, dims, "F32")


_Row = tuple[str, tuple[int, ...]]


def _all(sizes: Sizes) -> Iterator[_Row]:
    embedding = sizes.embedding
    if sizes.has("rope_freqs"):
        yield "rope_freqs.weight", (sizes.head_length // 2,)
    if sizes.has("rope_factors"):
        yield "rope_factors_long.weight", (sizes.head_length // 2,)
        yield "rope_factors_short.weight", (sizes.head_length // 2,)
    yield "token_embd.weight", (embedding, sizes.vocab)
    if sizes.has("encoder"):
        yield "token_types.weight", (embedding, 2)
        if sizes.arch == "bert":
            yield "position_embd.weight", (embedding, sizes.context)
        yield from _norm(sizes, "token_embd_norm")
    for block in range(sizes.blocks):
        for role, dims in _block(sizes, block):
            yield f"blk.{block}.{role}", dims
    if not sizes.has("encoder"):
        yield from _norm(sizes, "output_norm")
        if not sizes.has("tied"):
            yield "output.weight", (embedding, sizes.vocab)


def _norm(sizes: Sizes, name: str, length: int = 0) -> Iterator[_Row]:
    yield f"{name}.weight", (length or sizes.embedding,)
    if sizes.has("norm_bias"):
        yield f"{name}.bias", (length or sizes.embedding,)


def _block(sizes: Sizes, block: int) -> Iterator[_Row]:
    pre = not sizes.has("no_pre_norms") and not sizes.has("encoder")
    if pre:
        yield from _norm(sizes, "attn_norm")
    yield from _mla(sizes) if sizes.kv_rank else _attention(sizes)
    if sizes.has("post_norms") or sizes.has("no_pre_norms"):
        yield from _norm(sizes, "post_attention_norm")
        yield from _norm(sizes, "post_ffw_norm")
    if sizes.has("encoder"):
        yield from _norm(sizes, "attn_output_norm")
        yield from _norm(sizes, "layer_output_norm")
    elif sizes.has("sinks"):
        yield from _norm(sizes, "post_attention_norm")
    elif pre and not sizes.has("parallel"):
        yield from _norm(sizes, "ffn_norm")
    yield from _experts(sizes) if sizes.experts and block >= sizes.dense_blocks else _dense(sizes)


def _attention(sizes: Sizes) -> Iterator[_Row]:
    embedding, head = sizes.embedding, sizes.head_length
    query, keys = sizes.heads * head, sizes.kv_heads * head
    biased = sizes.has("attn_bias")
    if sizes.has("fused_qkv"):
        yield "attn_qkv.weight", (embedding, query + 2 * keys)
        if biased or sizes.has("qkv_bias"):
            yield "attn_qkv.bias", (query + 2 * keys,)
    else:
        for name, width in (("q", query), ("k", keys), ("v", keys)):
            yield f"attn_{name}.weight", (embedding, width)
            if biased or sizes.has("qkv_bias"):
                yield f"attn_{name}.bias", (width,)
    yield "attn_output.weight", (query, embedding)
    if biased:
        yield "attn_output.bias", (embedding,)
    if sizes.has("qk_norm"):
        yield "attn_k_norm.weight", (head,)
        yield "attn_q_norm.weight", (head,)
    if sizes.has("qk_norm_wide"):
        yield "attn_k_norm.weight", (keys,)
        yield "attn_q_norm.weight", (query,)
    if sizes.has("qk_norm_heads"):
        yield "attn_k_norm.weight", (head, sizes.kv_heads)
        yield "attn_q_norm.weight", (head, sizes.heads)
    if sizes.has("sinks"):
        yield "attn_sinks.weight", (sizes.heads,)


def _mla(sizes: Sizes) -> Iterator[_Row]:
    """Attention over one joint latent of keys and values (deepseek2), in the file's older form."""
    embedding, heads, head = sizes.embedding, sizes.heads, sizes.head_length
    plain = head - sizes.rope
    yield "attn_q.weight", (embedding, heads * head)
    yield "attn_kv_a_mqa.weight", (embedding, sizes.kv_rank + sizes.rope)
    yield "attn_kv_a_norm.weight", (sizes.kv_rank,)
    yield "attn_kv_b.weight", (sizes.kv_rank, heads * (plain + sizes.value_head))
    yield "attn_output.weight", (heads * sizes.value_head, embedding)


def _dense(sizes: Sizes) -> Iterator[_Row]:
    embedding, width = sizes.embedding, sizes.feed_forward
    if sizes.has("fused_up"):
        yield "ffn_up.weight", (embedding, 2 * width)
    else:
        if not sizes.has("no_gate"):
            yield "ffn_gate.weight", (embedding, width)
        yield "ffn_up.weight", (embedding, width)
        if sizes.has("ffn_bias"):
            yield "ffn_up.bias", (width,)
    yield "ffn_down.weight", (width, embedding)
    if sizes.has("ffn_bias"):
        yield "ffn_down.bias", (embedding,)


def _experts(sizes: Sizes) -> Iterator[_Row]:
    embedding, count, width = sizes.embedding, sizes.experts, sizes.expert_feed_forward
    yield "ffn_gate_inp.weight", (embedding, count)
    shapes = (("gate", embedding, width), ("down", width, embedding), ("up", embedding, width))
    for name, rows, columns in shapes:
        yield f"ffn_{name}_exps.weight", (rows, columns, count)
    if sizes.has("expert_bias"):
        yield "ffn_gate_inp.bias", (count,)
        for name, _, columns in shapes:
            yield f"ffn_{name}_exps.bias", (columns, count)
    if sizes.has("router_bias"):
        yield "exp_probs_b.bias", (count,)
    if sizes.shared_feed_forward:
        shared = sizes.shared_feed_forward
        for name, rows, columns in (
            ("gate", embedding, shared),
            ("down", shared, embedding),
            ("up", embedding, shared),
        ):
            yield f"ffn_{name}_shexp.weight", (rows, columns)
        if sizes.arch == "qwen2moe":
            yield "ffn_gate_inp_shexp.weight", (embedding,)
