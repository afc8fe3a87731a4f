"""From GGUF metadata and tensors to a shape: windows, MLA, hybrids, encoders, unknown families."""

import pytest

from ogen.catalog import find_model, layout, shape_of
from ogen.catalog.tensors import Tensor
from ogen.errors import CatalogError
from ogen.fit import Settings, account


def made(arch="newcomer", extra=(), tensors=(), **changes):
    sizes = layout.Sizes(arch, 4, 512, 8, 2, 32000, 8192, 1024, **changes)
    table = [Tensor(t.name, t.dims, "F16") for t in layout.tensors(sizes)]
    values = layout.metadata(sizes) | {f"{arch}.{key}": value for key, value in dict(extra).items()}
    return shape_of(values, [*table, *tensors], name="m")


def test_an_unknown_family_is_counted_like_llama():
    known, unknown = made("llama"), made("newcomer", {"attention.sliding_window": 128})
    assert account(unknown, Settings(4096)) == account(known, Settings(4096))


@pytest.mark.parametrize(
    ("arch", "extra", "windowed"),
    [
        ("gemma2", {"attention.sliding_window": 64}, [1, 0, 1, 0]),
        ("gemma3", {"attention.sliding_window": 64}, [1, 1, 1, 1]),
        ("gpt-oss", {"attention.sliding_window": 64}, [1, 0, 1, 0]),
        ("cohere2", {"attention.sliding_window": 64}, [1, 1, 1, 0]),
        ("gemma3", {"attention.sliding_window": 64, "attention.sliding_window_pattern": 2}, [1, 0, 1, 0]),
        ("odd", {"attention.sliding_window": 64, "attention.sliding_window_pattern": (1, 1, 0, 1)},
         [1, 1, 0, 1]),
        ("phi3", {"attention.sliding_window": 2047}, [0, 0, 0, 0]),
        ("gemma3", {}, [0, 0, 0, 0]),
    ],
)  # fmt: skip
def test_windows(arch, extra, windowed):
    assert list(made(arch, extra).windowed) == [bool(w) for w in windowed]


def test_heads_may_differ_by_block_and_be_none():
    shape = made("openelm", {"attention.head_count_kv": (2, 0, 4, 1), "attention.head_count": (8, 8, 16, 8)})
    assert shape.kv_heads == (2, 0, 4, 1)
    assert shape.heads == 16


def test_shared_caches_count_once():
    assert made("gemma3n", {"attention.shared_kv_layers": 3}).kv_heads == (2, 0, 0, 0)


def test_mla_keeps_one_joint_key_and_no_value():
    extra = {"attention.key_length": 576, "attention.value_length": 512, "attention.key_length_mla": 192,
             "attention.value_length_mla": 128, "attention.kv_lora_rank": 512}  # fmt: skip
    shape = made("deepseek2", {**extra, "attention.head_count_kv": 1})
    assert (shape.key_length, shape.value_length, shape.kv_heads) == (576, 0, (1, 1, 1, 1))
    assert account(shape, Settings(4096)).kv_bytes == 4 * 4096 * 576 * 2


def test_deepseek_v3_has_the_cache_that_its_log_shows():
    """61 blocks at 4096 tokens: 0.268 GiB."""
    extra = {"attention.key_length": 576, "attention.value_length": 512, "attention.key_length_mla": 192}
    shape = made("deepseek2", {**extra, "attention.head_count_kv": 1})
    assert account(shape, Settings(4096)).kv_bytes / 4 * 61 / 2**30 == pytest.approx(0.268, abs=0.001)


def test_recurrent_blocks_keep_a_state_for_each_slot():
    ssm = {"ssm.inner_size": 1024, "ssm.conv_kernel": 4, "ssm.state_size": 128, "ssm.group_count": 2,
           "attention.head_count_kv": (0, 0, 2, 0)}  # fmt: skip
    marks = [Tensor(f"blk.{n}.ssm_conv1d.weight", (4, 1536), "F32") for n in (0, 1, 3)]
    shape = made("nemotron_h", ssm, marks)
    state = (3 * (1024 + 2 * 2 * 128) + 128 * 1024) * 4
    assert shape.recurrent == (state, state, 0, state)
    once, twice = (account(shape, Settings(4096, n)).kv_bytes for n in (1, 1))
    assert once == twice == 3 * state + 4096 * 2 * 128 * 2
    assert shape.single_slot


def test_encoders_keep_no_cache_and_have_no_output():
    shape = find_model("mxbai-embed-large")
    assert shape.is_embedding
    assert account(shape, Settings(512, version="0.32.15")).kv_bytes == 0
    assert shape.output_bytes == 0
    assert account(shape, Settings(512)).host_weights_bytes == shape.embd_bytes


@pytest.mark.parametrize(
    "extra",
    [
        {"attention.head_count": 0, "block_count": 0},
        {"attention.head_count_kv": (1, 2)},
        {"embedding_length": "wide"},
        {"attention.head_count": -3},
        {"attention.key_length": 2.5},
        {"block_count": True},
    ],
)
def test_metadata_that_makes_no_sense(extra):
    with pytest.raises(CatalogError):
        made("llama", extra)
