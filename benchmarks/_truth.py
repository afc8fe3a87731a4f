"""llama.cpp's own figures (tests/data) as values: what the account and its rivals are measured against."""

from __future__ import annotations

import gzip
import json
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ogen.catalog import ModelShape, find_model, gguf
from ogen.fit import Settings

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
MIB = 1024 * 1024
NEW, OLD = "0.32.15", "0.24.0"  # an Ollama of each era of reserved outputs


@dataclass(frozen=True)
class Run:
    """One measurement; sizes in MiB."""

    model: str
    quant: str
    settings: Settings
    weights: float
    kv: float
    compute: float
    host_weights: float
    host_kv: float
    n_batch: int

    @property
    def shape(self) -> ModelShape:
        return shape(self.model, self.quant)

    @property
    def total(self) -> float:
        return self.weights + self.kv + self.compute

    @property
    def is_full(self) -> bool:
        """All layers on the card, a cache for each slot, the cache on the card."""
        s = self.settings
        return s.gpu_layers is None and not s.kv_unified and not s.kv_on_host


class _Bytes:
    """A header out of the archive."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name = data, name

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    """Everything that the file of figures holds."""
    loaded: dict[str, Any] = json.loads(gzip.decompress((DATA / "vram.json.gz").read_bytes()))
    return loaded


@lru_cache(maxsize=1)
def headers() -> dict[tuple[str, str], bytes]:
    """(model, quantisation) → the GGUF header's bytes."""
    with zipfile.ZipFile(DATA / "headers.zip") as archive:
        names = [name.removesuffix(".gguf") for name in archive.namelist()]
        return {
            (name.rpartition(".")[0], name.rpartition(".")[2]): archive.read(f"{name}.gguf") for name in names
        }


def header(model: str, quant: str) -> gguf.Header:
    """One header, parsed."""
    return gguf.parse(_Bytes(headers()[model, quant], f"{model}.{quant}.gguf"))


@lru_cache(maxsize=256)
def shape(model: str, quant: str) -> ModelShape:
    """From the header; from the catalog's card where there is none for this quantisation."""
    if (model, quant) in headers():
        return header(model, quant).shape(model)
    return find_model(model, quant, model)


@lru_cache(maxsize=1)
def runs() -> tuple[Run, ...]:
    """All measurements."""
    loaded = document()
    found = []
    for record in loaded["records"]:
        for values in record["runs"]:
            row = dict(zip(loaded["columns"], values, strict=True))
            found.append(_run(record["model"], record["quant"], row))
    return tuple(found)


def _run(model: str, quant: str, row: dict[str, Any]) -> Run:
    slots = row["n_parallel"]
    settings = Settings(
        context=row["n_ctx"] // slots,
        parallel=slots,
        batch=row["n_ubatch"],
        kv_cache=row["type_k"],
        flash_attention=row["flash_attn"],
        gpu_layers=None if row["n_gpu_layers"] == 99 else row["n_gpu_layers"],
        kv_on_host=not row["offload_kqv"],
        version=NEW if row["n_outputs_max"] == slots else OLD,
        backend="vulkan",
        kv_unified=row["kv_unified"],
        swa_full=row["swa_full"],
    )
    return Run(
        model, quant, settings, row["model_buffer_mib"], row["kv_mib"], row["compute_mib"],
        row["host_model_mib"], row["host_kv_mib"], row["n_batch"],
    )  # fmt: skip
