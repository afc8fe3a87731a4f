"""Types of tensors by mixture."""

import sys
from pathlib import Path

import pytest

from ogen.catalog.mixture import quantise
from ogen.catalog.tensors import Tensor
from ogen.errors import CatalogError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from _truth import header, headers


def test_every_type_of_every_header_is_reproduced():
    compared = 0
    for model, quant in headers():
        found = header(model, quant)
        arch = found.metadata["general.architecture"]
        heads, kv_heads = (found.metadata[f"{arch}.attention.head_count{k}"] for k in ("", "_kv"))
        blocks, experts = found.metadata[f"{arch}.block_count"], found.metadata.get(f"{arch}.expert_count", 0)
        plain = [Tensor(t.name, t.dims, "F32") for t in found.tensors]
        made = quantise(plain, quant, blocks=blocks, gqa=heads // kv_heads, experts=experts)
        assert made == found.tensors, (model, quant)
        compared += len(made)
    assert compared > 25_000


def test_rows_that_no_k_type_can_hold():
    tensors = [Tensor("blk.0.ffn_up.weight", (96, 10), "F32"), Tensor("output.weight", (96, 10), "F32")]
    assert [t.type for t in quantise(tensors, "Q4_K_M", blocks=8)] == ["Q5_0", "Q8_0"]


def test_an_unknown_mixture():
    with pytest.raises(CatalogError, match="no mixture"):
        quantise([], "Q7_K", blocks=1)
