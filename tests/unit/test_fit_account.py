"""The account against llama.cpp's own figures, and what must hold for any model and settings."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ogen.catalog import cards, find_model
from ogen.fit import Settings, account
from ogen.fit.account import CONTEXT, FIT_TARGET

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import fit as benchmark
from _truth import MIB, runs

FULL = [run for run in runs() if run.is_full]
REST = [run for run in runs() if not run.is_full]


def test_there_is_something_to_compare_with():
    assert len(FULL) == 1618
    assert len(REST) == 252


def test_weights_and_cache_are_exact():
    """On the card and on the host, in every run: within 0.01 MiB."""
    for run in runs():
        need = account(run.shape, run.settings)
        truth = (run.weights, run.kv, run.host_weights, run.host_kv)
        found = (need.weights_bytes, need.kv_bytes, need.host_weights_bytes, need.host_kv_bytes)
        for value, true in zip(found, truth, strict=True):
            assert abs(value / MIB - true) <= 0.01, run


def test_compute_with_everything_on_the_card():
    """Mean absolute error at most 2 %, worst 17 %; of the total 0.1 % and 1 %."""
    errors = benchmark.errors(benchmark.ogen, FULL)
    assert benchmark.mape(errors["compute"]) <= 2
    assert max(map(abs, errors["compute"])) <= 17
    assert benchmark.mape(errors["total"]) <= 0.1
    assert max(map(abs, errors["total"])) <= 1


def test_compute_with_something_on_the_host():
    for run in REST:
        off = account(run.shape, run.settings).compute_bytes / MIB - run.compute
        assert abs(off) <= 140, run


def test_public_logs_of_cuda_cards():
    found = benchmark.logged()
    assert len(found) == 7
    for name, predicted, true in found:
        assert predicted / true == pytest.approx(1, abs=0.015), name


def test_every_other_estimator_is_further_off():
    ours = benchmark.mape(benchmark.errors(benchmark.ogen, FULL)["total"])
    for name, estimate in benchmark.RIVALS.items():
        assert benchmark.mape(benchmark.errors(estimate, FULL)["total"]) > 10 * ours, name


# -------------------------------------------------------------------------------------- known figures
@pytest.mark.parametrize(
    ("model", "context", "mib"),
    [
        ("llama2:7b", 4096, 2048),
        ("llama2:13b", 2048, 1600),
        ("llama3:8b", 4096, 512),
        ("llama3.1:70b", 4096, 1280),
        ("qwen2.5:7b", 4096, 224),
        ("qwen3:8b", 4096, 576),
        ("gemma3:27b", 8192, 1264),
        ("gpt-oss:20b", 8192, 210),
    ],
)
def test_caches_that_are_known(model, context, mib):
    """The same figures as in Ollama's and llama.cpp's logs, at a batch of 512."""
    need = account(find_model(model), Settings(context, batch=512))
    assert need.kv_bytes / MIB == pytest.approx(mib, rel=0.01)


def test_a_tied_model_has_its_embeddings_twice():
    need = account(find_model("llama3.2:3b"), Settings(4096))
    assert need.host_weights_bytes == find_model("llama3.2:3b").embd_bytes
    assert need.weights_bytes == find_model("llama3.2:3b").tensor_bytes


def test_reserve_is_context_and_the_margin_of_the_era():
    shape = find_model("llama3.1:8b")
    assert account(shape, Settings(4096, version="0.24.0")).reserve_bytes == CONTEXT
    assert account(shape, Settings(4096, version="0.32.15")).reserve_bytes == CONTEXT + FIT_TARGET
    assert account(shape, Settings(4096, margin=0)).reserve_bytes == CONTEXT
    assert account(shape, Settings(4096), cards=2).reserve_bytes == 2 * (CONTEXT + FIT_TARGET)


def test_batches_that_ollama_chooses():
    shape = find_model("llama3.1:8b")
    for context, batch in ((2048, 512), (4096, 512), (4097, 1024), (32768, 1024), (32769, 2048)):
        assert account(shape, Settings(context)) == account(shape, Settings(context, batch=batch))
        old = Settings(context, version="0.24.0")
        assert account(shape, old) == account(shape, replace(old, batch=512))
    off = Settings(32768, flash_attention=False)
    assert account(shape, off) == account(shape, replace(off, batch=512))


def test_cuda_holds_one_row_of_embeddings_more():
    shape = find_model("qwen2.5:7b")
    on = Settings(4096, batch=512)
    vulkan = account(shape, replace(on, backend="vulkan")).compute_bytes
    for backend in ("cuda", "rocm"):
        assert account(shape, replace(on, backend=backend)).compute_bytes == vulkan + 4 * 512 * 3584


def test_experts_on_the_host():
    shape = find_model("qwen3:30b")
    whole, some = account(shape, Settings(4096)), account(shape, Settings(4096, experts_on_host=10))
    moved = sum(shape.expert_bytes[:10])
    assert whole.weights_bytes - some.weights_bytes == moved
    assert some.host_weights_bytes - whole.host_weights_bytes == moved
    assert some.kv_bytes == whole.kv_bytes
    assert account(find_model("qwen3:8b"), Settings(4096, experts_on_host=9)).host_weights_bytes == (
        find_model("qwen3:8b").embd_bytes
    )


def test_no_card_puts_everything_on_the_host():
    shape = find_model("qwen3:8b")
    need = account(shape, Settings(4096), cards=0)
    assert need.total_gpu_bytes == 0
    assert need.per_card == ()
    assert need.host_weights_bytes == shape.tensor_bytes
    assert need.host_kv_bytes == 576 * MIB


# ----------------------------------------------------------------------------------- several cards
@pytest.mark.parametrize("split", ["layer", "row", "tensor"])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_cards_together_hold_the_whole(split, count):
    shape = find_model("llama3.1:70b")
    need = account(shape, Settings(8192, split=split), cards=count)
    assert len(need.per_card) == count
    assert need.total_gpu_bytes <= sum(need.per_card) <= need.total_gpu_bytes + count
    assert need.weights_bytes == account(shape, Settings(8192)).weights_bytes


def test_shares_divide_the_layers():
    shape = find_model("llama3.1:70b")
    need = account(shape, Settings(8192), cards=2, shares=(3.0, 1.0))
    held = [size - need.reserve_bytes // 2 - need.compute_bytes // 2 for size in need.per_card]
    assert held[0] / sum(held) == pytest.approx(0.75, abs=0.03)
    alone = account(shape, Settings(8192), cards=2, shares=(1.0, 0.0))
    assert alone.per_card[1] - alone.reserve_bytes // 2 == alone.compute_bytes // 2


def test_row_split_keeps_the_cache_on_the_first_card():
    shape = find_model("llama2:13b")
    row = account(shape, Settings(4096, split="row"), cards=2)
    tensor = account(shape, Settings(4096, split="tensor"), cards=2)
    assert row.per_card[0] - row.per_card[1] == pytest.approx(3200 * MIB, abs=4)
    assert tensor.per_card[0] == tensor.per_card[1]


# ---------------------------------------------------------------------------------- for all of them
SHAPES = [card.shape() for card in cards()]
wanted = st.builds(
    Settings,
    context=st.integers(16, 140_000),
    parallel=st.integers(1, 8),
    batch=st.one_of(st.none(), st.integers(1, 4096)),
    kv_cache=st.sampled_from(["f16", "q8_0", "q4_0"]),
    flash_attention=st.booleans(),
    gpu_layers=st.one_of(st.none(), st.integers(0, 90)),
    kv_on_host=st.booleans(),
    experts_on_host=st.integers(0, 60),
    version=st.sampled_from(["0.9.0", "0.24.0", "0.32.15"]),
    backend=st.sampled_from(["cuda", "vulkan", "rocm"]),
)


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(SHAPES), wanted, st.sampled_from(["context", "parallel", "batch"]), st.integers(1, 5000)
)
def test_more_never_needs_less(shape, asked, what, more):
    """More context, slots or batch: no part of the account shrinks."""
    before = getattr(asked, what)
    if before is None:
        asked = replace(asked, batch=64)
        before = 64
    greater = replace(asked, **{what: before + (more if what != "parallel" else more % 8 + 1)})
    low, high = account(shape, asked), account(shape, greater)
    assert high.kv_bytes >= low.kv_bytes
    assert high.host_kv_bytes >= low.host_kv_bytes
    assert high.compute_bytes >= low.compute_bytes
    assert high.weights_bytes == low.weights_bytes
    assert high.total_gpu_bytes >= low.total_gpu_bytes


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SHAPES), wanted)
def test_nothing_is_lost(shape, asked):
    """What is not on the card is on the host; smaller caches are smaller."""
    need = account(shape, asked)
    copied = shape.output_bytes if shape.tied and need.layers else 0
    assert need.weights_bytes + need.host_weights_bytes == shape.tensor_bytes + copied
    assert min(need.weights_bytes, need.kv_bytes, need.host_weights_bytes, need.host_kv_bytes) >= 0
    whole = [account(shape, replace(asked, kv_cache=kind)) for kind in ("f16", "q8_0", "q4_0")]
    sizes = [n.kv_bytes + n.host_kv_bytes for n in whole]
    assert sizes == sorted(sizes, reverse=True)
