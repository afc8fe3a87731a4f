"""GPU cards and the names that people give them."""

import pytest

from ogen.catalog import find_gpu, gpu_names, gpus
from ogen.errors import CatalogError

MIB = 2**20


def test_there_are_enough_of_each_kind():
    assert len(gpu_names()) >= 60
    assert len(set(gpu_names())) == len(gpu_names())
    assert sum(g.vendor == "amd" for g in gpus()) >= 20
    for gpu in gpus():
        assert 4000 * MIB <= gpu.vram <= 300_000 * MIB, gpu
        assert 50 <= gpu.bandwidth_gbs <= 10_000, gpu
        assert gpu.source
        assert gpu.compute.startswith("gfx") if gpu.vendor == "amd" else float(gpu.compute) >= 6.0


@pytest.mark.parametrize(
    ("name", "mib"),
    [
        ("RTX 3090", 24576),
        ("NVIDIA GeForce RTX 3090", 24576),
        ("rtx-3090", 24576),
        ("rtx3090ti", 24564),
        ("RTX 4060 Ti 16 GB", 16380),
        ("NVIDIA A100-SXM4-80GB", 81920),
        ("NVIDIA H100 80GB HBM3", 81559),
        ("Tesla T4", 15360),
        ("NVIDIA RTX 6000 Ada Generation", 49140),
        ("AMD Radeon RX 7900 XTX", 24560),
        ("L40S", 46068),
    ],
)
def test_usual_spellings_are_found(name, mib):
    assert find_gpu(name).vram == mib * MIB


def test_no_two_cards_answer_to_one_spelling():
    for gpu in gpus():
        for name in (gpu.name, *gpu.aliases):
            assert find_gpu(name) is gpu, name


def test_an_unknown_card_names_near_ones():
    with pytest.raises(CatalogError) as caught:
        find_gpu("RTX 3099")
    assert "RTX 3090" in caught.value.hint
    with pytest.raises(CatalogError, match="no GPU called"):
        find_gpu("")
