"""The words of the VRAM account: settings, cards, accounts, concessions. All sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Backend = Literal["cuda", "vulkan", "rocm"]
KvType = Literal["f16", "q8_0", "q4_0"]
Verdict = Literal["full", "partial", "cpu"]
Split = Literal["layer", "row", "tensor"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the engine is started with; `context` counts tokens of one slot."""

    context: int
    parallel: int = 1
    batch: int | None = None  # None: what the era's Ollama chooses
    kv_cache: KvType = "f16"
    flash_attention: bool = True
    gpu_layers: int | None = None  # None: all (blocks + 1); counts the output layer
    kv_on_host: bool = False
    experts_on_host: int = 0  # MoE layers whose experts stay in host memory
    version: str = "0.32.15"  # of Ollama
    backend: Backend = "cuda"
    split: Split = "layer"  # how several cards share the model
    kv_unified: bool = False  # one cache for all slots; Ollama gives each its own
    swa_full: bool = False  # sliding window layers keep the whole context
    margin: int | None = None  # bytes left free on each card; None: what the era's Ollama leaves


@dataclass(frozen=True, slots=True)
class Card:
    """Room on one card: `total` as the driver reports it, `free` what ogen may plan with."""

    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Account:
    """What one model needs on the cards of one instance, and beside them."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    reserve_bytes: int  # context of the driver and the margin that the era's Ollama leaves
    host_weights_bytes: int
    host_kv_bytes: int
    layers: int  # on the cards
    layers_total: int  # blocks + 1
    per_card: tuple[int, ...] = ()  # total_gpu_bytes divided over the instance's cards

    @property
    def total_gpu_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + self.reserve_bytes


@dataclass(frozen=True, slots=True)
class Concession:
    """One step of the ladder."""

    what: str  # quantisation | kv_cache | context | batch | experts | gpu_layers | kv_on_host
    before: str
    after: str
    saved_bytes: int
    cost: str  # in words: what it costs
