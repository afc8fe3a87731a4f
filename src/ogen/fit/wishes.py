"""What a model is wished to run with, how far that may be given up, and what came out of it."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import OgenError
from .model import Account, Backend, Concession, KvType, Settings, Split, Verdict

#: the ladder, from what costs least to what costs most
ORDER = ("quantisation", "kv_cache", "context", "batch", "experts", "gpu_layers", "kv_on_host")


@dataclass(frozen=True, slots=True)
class Wishes:
    """Wanted settings, and the least that a concession may go down to."""

    context: int  # tokens per slot
    context_at_least: int | None = None  # None: as wanted
    parallel: int = 1
    batch: int | None = None  # None: what the era's Ollama chooses
    batch_at_least: int = 128
    kv_cache: KvType | None = None  # None: f16, and q8_0 as a concession
    kv_cache_at_least: KvType | None = None  # None: as wanted
    num_gpu: int | None = None  # a fixed number of layers; None leaves it to the engine
    gpu_layers_at_least: int | None = None  # None: no concession may use host memory, unless `order` names it
    low_vram: bool = False  # cache in host memory from the start
    flash_attention: bool | None = None  # None: as the version decides
    version: str = "0.32.15"
    backend: Backend = "cuda"
    order: tuple[str, ...] | None = None  # None: ORDER
    split: Split = "layer"
    shares: tuple[float, ...] = ()
    margin: int | None = None  # bytes left free on each card; None: the era's


@dataclass(frozen=True, slots=True)
class Choice:
    """The first rung that fits. `num_gpu` is what the Modelfile says: None leaves it automatic."""

    candidate: int  # index into the candidates
    source: str
    settings: Settings
    account: Account
    verdict: Verdict
    concessions: tuple[Concession, ...] = ()
    num_gpu: int | None = None
    remarks: tuple[str, ...] = ()


class DoesNotFit(OgenError):
    """No rung fits; `missing_bytes` is what the lowest one lacks, `nearest` a change that would do."""

    def __init__(self, message: str, *, missing_bytes: int, nearest: str) -> None:
        super().__init__(message, hint=nearest)
        self.missing_bytes = missing_bytes
        self.nearest = nearest
