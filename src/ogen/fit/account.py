"""The account of one model on the cards of one instance, each part its own number in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..catalog.shape import ModelShape
from ..catalog.versions import Era, era
from .cache import block_caches
from .compute import Hosted, compute_buffer, micro_batch
from .model import Account, Settings

MIB = 1024 * 1024
#: driver context and library workspaces of one device: Ollama's own constant for all but Metal
CONTEXT = 457 * MIB
#: what llama.cpp's fit leaves free on each device (LLAMA_ARG_FIT_TARGET)
FIT_TARGET = 1024 * MIB


def margin(version: str) -> int:
    """Bytes that Ollama leaves free on each card beyond the driver's context: era C 1024 MiB, before none."""
    return FIT_TARGET if era(version) is Era.C else 0


def reserve(settings: Settings) -> int:
    """Bytes on each card that are neither weights, cache nor compute: context and margin."""
    return CONTEXT + (margin(settings.version) if settings.margin is None else settings.margin)


@lru_cache(maxsize=16384)
def account(
    shape: ModelShape, settings: Settings, *, cards: int = 1, shares: tuple[float, ...] = ()
) -> Account:
    """What `shape` needs with `settings` on `cards` cards; no card (0) puts everything on the host.

    `shares` divides a model over cards (any scale, equal where not given).
    """
    total = shape.layers
    wanted = total if settings.gpu_layers is None else settings.gpu_layers
    layers = max(0, min(total, wanted)) if cards else 0
    placed = _place(shape, settings, layers)
    if not cards:
        return Account(0, 0, 0, 0, placed.host_weights, placed.host_kv, 0, total)
    compute = compute_buffer(shape, settings, _hosted(shape, settings, layers))
    parts = _divide(placed, settings, compute, _normal(shares, cards), shape)
    return Account(
        weights_bytes=placed.weights,
        kv_bytes=placed.kv,
        compute_bytes=sum(compute for _, compute in parts),
        reserve_bytes=reserve(settings) * cards,
        host_weights_bytes=placed.host_weights,
        host_kv_bytes=placed.host_kv,
        layers=layers,
        layers_total=total,
        per_card=tuple(held + compute + reserve(settings) for held, compute in parts),
    )


@dataclass(frozen=True, slots=True)
class _Placed:
    """Bytes by layer: the blocks in order, then the output."""

    weights_by_layer: tuple[int, ...]
    kv_by_layer: tuple[int, ...]
    host_weights: int
    host_kv: int

    @property
    def weights(self) -> int:
        return sum(self.weights_by_layer)

    @property
    def kv(self) -> int:
        return sum(self.kv_by_layer)


def _place(shape: ModelShape, settings: Settings, layers: int) -> _Placed:
    """Weights and cache by place: the output layer first, then blocks from the last one down.

    So llama.cpp does since `i_gpu_start = n_layer + 1 - n_gpu_layers`; older engines are said to place the
    output last, which was not measured. token_embd is always on the host; without an output.weight the
    card gets a copy of it. Cache is where its block is, unless all of it is kept on the host.
    """
    first = shape.blocks + 1 - layers
    caches = block_caches(shape, settings, micro_batch(settings))
    away = min(settings.experts_on_host, shape.blocks)
    weights, kv = [], []
    for block, size in enumerate(shape.block_bytes):
        if block < first:
            weights.append(0)
            kv.append(0)
            continue
        weights.append(size - (shape.expert_bytes[block] if block < away else 0))
        kv.append(0 if settings.kv_on_host else caches[block])
    if layers:
        weights.append(shape.output_bytes + shape.other_bytes)
        kv.append(0)
    copied = shape.output_bytes if shape.tied and layers else 0
    return _Placed(
        tuple(weights),
        tuple(kv),
        shape.tensor_bytes - sum(weights) + copied,
        sum(caches) - sum(kv),
    )


def _hosted(shape: ModelShape, settings: Settings, layers: int) -> Hosted:
    """What of the blocks is in host memory."""
    first = min(shape.blocks, shape.blocks + 1 - layers)
    tensor = max(shape.largest_tensor[:first], default=0)
    away = list(zip(shape.expert_bytes, shape.largest_tensor, strict=True))[: settings.experts_on_host]
    tensor = max([tensor, *(largest for experts, largest in away if experts)])
    caches = block_caches(shape, settings, micro_batch(settings))[:first]
    cache = 0 if settings.kv_on_host else max(caches, default=0)
    return Hosted(tensor, cache, layers == 0)


# ------------------------------------------------------------------------------------ several cards
def _normal(shares: Sequence[float], cards: int) -> tuple[float, ...]:
    given = [max(0.0, float(s)) for s in shares[:cards]]
    if len(given) < cards or sum(given) <= 0:
        return (1.0 / cards,) * cards
    return tuple(s / sum(given) for s in given)


def _divide(
    placed: _Placed, settings: Settings, compute: int, shares: tuple[float, ...], shape: ModelShape
) -> list[tuple[int, int]]:
    """Of each card: weights with cache, and compute.

    layer: consecutive layers by cumulated shares, the output on the last card; each card computes, and
    keeps three more copies of a step's inputs for the pipeline. row: weights by shares, cache and the rest
    on the first card. tensor: weights and cache by shares.
    """
    if len(shares) == 1:
        return [(placed.weights + placed.kv, compute)]
    if settings.split == "layer":
        return _by_layer(placed, compute + _pipeline(shape, settings), shares)
    parts = []
    for card, share in enumerate(shares):
        held = placed.weights * share
        held += placed.kv * share if settings.split == "tensor" else (placed.kv if card == 0 else 0)
        parts.append((int(held) + 1, compute))
    return parts


def _by_layer(placed: _Placed, compute: int, shares: tuple[float, ...]) -> list[tuple[int, int]]:
    """The rule of llama.cpp: layer i of n goes to the first card whose cumulated share is above i/n."""
    on_card = [i for i, size in enumerate(placed.weights_by_layer) if size or placed.kv_by_layer[i]]
    bounds, total = [], 0.0
    for share in shares:
        total += share
        bounds.append(total)
    held = [0] * len(shares)
    for rank, layer in enumerate(on_card):
        card = next((c for c, bound in enumerate(bounds) if bound > rank / len(on_card)), len(shares) - 1)
        held[card] += placed.weights_by_layer[layer] + placed.kv_by_layer[layer]
    return [(size, compute) for size in held]


def _pipeline(shape: ModelShape, settings: Settings) -> int:
    """Three more copies of a step's inputs (hidden state and mask) when layers are spread over cards."""
    tokens = micro_batch(settings)
    mask = settings.context * settings.parallel * (2 if settings.flash_attention else 4)
    return 3 * tokens * (4 * shape.embedding + mask)
