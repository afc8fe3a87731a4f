"""Ollama's logs of three eras: loads, layers, memory that ran out."""

# ruff: noqa: E501 (lines of logs and of tables are kept whole)

from __future__ import annotations

import pytest

from ogen.observe.evidence import Line
from ogen.observe.log_lines import (
    answers,
    context_of,
    deaths,
    ignored,
    late_loads,
    loads,
    shortages,
    starts,
    store_of,
)

A, B = "sha256-" + "a" * 64, "sha256-" + "b" * 64
START_C = 'level=INFO source=llama_server.go:433 msg="starting llama-server" cmd="/x/llama-server --model /m/blobs/%s -c 8192"'
LOADING_C = 'level=INFO source=llama_server.go:1048 msg="loading model via llama-server" model=/m/blobs/%s'
START_B = 'level=INFO source=server.go:433 msg="starting runner" cmd="/usr/local/bin/ollama runner --ollama-engine --model /m/blobs/%s --port 40000"'
OFFLOAD_A = (
    "level=INFO source=memory.go:36 msg=offload library=cuda layers.requested=-1 layers.model=41 "
    'layers.offload=28 layers.split="" memory.available="[7.6 GiB]"'
)


def lines(*texts: str, step: float = 1.0) -> list[Line]:
    return [Line(1000.0 + n * step, text) for n, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ((LOADING_C % A, START_C % A, "load_tensors: offloaded 33/33 layers to GPU"), (33, 33, 0)),
        ((START_B % A, 'source=ggml.go:502 msg="offloaded 20/33 layers to GPU"'), (20, 33, 0)),
        ((OFFLOAD_A, START_B % A), (28, 41, 0)),
        (
            (
                START_C % A,
                "common_params_fit_impl:   - CUDA0 (NVIDIA GeForce RTX 3070): 31 layers (12 overflowing),   6000 MiB used",
                "load_tensors: offloaded 31/31 layers to GPU",
            ),
            (31, 31, 12),
        ),
        # a fit probe prints the line first; the last one counts
        ((START_C % A, "load_tensors: offloaded 33/33 layers to GPU", "load_tensors: offloaded 20/33 layers to GPU"), (20, 33, 0)),
        # loaded again with more room: the first load is history
        ((START_C % A, "offloaded 20/33 layers to GPU", LOADING_C % A, START_C % A, "offloaded 33/33 layers to GPU"), (33, 33, 0)),
        ((START_C % A,), (None, 0, 0)),
    ],
)  # fmt: skip
def test_a_load(texts: tuple[str, ...], told: tuple[int | None, int, int]) -> None:
    (load,) = loads(lines(*texts))
    assert (load.blob, load.layers, load.layers_total, load.overflow) == (A, *told)


def test_loads_of_two_models() -> None:
    found = loads(
        lines(START_C % A, "offloaded 33/33 layers to GPU", START_C % B, "offloaded 10/29 layers to GPU")
    )
    assert [(one.blob, one.layers) for one in found] == [(A, 33), (B, 10)]
    assert loads(lines("offloaded 33/33 layers to GPU")) == ()


def test_memory_that_ran_out_is_told_once_for_each_time() -> None:
    text = "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 8192.00 MiB on device 0: cudaMalloc failed: out of memory"
    near = lines(START_C % A, text, "llama_model_load: unable to allocate CUDA0 buffer", step=0.1)
    later = [
        Line(2000.0, START_C % B),
        Line(2001.0, text),
        Line(2002.0, text + " retrying without pipeline parallelism"),
    ]
    found = shortages([*near, *later])
    assert [(one.blob, round(one.line.time)) for one in found] == [(A, 1000), (B, 2001)]


def test_requests_by_status() -> None:
    shape = '[GIN] 2026/11/23 - 22:57:35 | %s |    0.270737ms |       127.0.0.1 | GET      "%s"'
    found = lines(
        shape % (200, "/"), shape % (403, "/api/tags"), shape % (503, "/x"), shape % (200, "/api/| 500 |")
    )
    assert [one.text[-4:] for one in answers(found, "403")] == ['ags"']
    assert len(answers(found, "5")) == 1


def test_runners_and_settings() -> None:
    died = 'msg="llama runner process has terminated: signal: killed"'
    assert len(deaths(lines(died, 'error="cudaMalloc failed: out of memory" msg="Load failed"', "fine"))) == 1
    texts = (
        'level=WARN msg="invalid option provided" option=low_vram',
        'level=WARN msg="invalid option provided" option=low_vram',
        "warning: parameter mirostat is deprecated",
    )
    assert [name for name, _ in ignored(lines(*texts))] == ["low_vram", "mirostat"]


def test_how_often_and_with_which_context_a_model_was_loaded() -> None:
    texts = (LOADING_C % A, START_C % A, START_C % B, (START_C % A).replace("8192", "4096"))
    found = starts(lines(*texts))
    assert {blob: len(some) for blob, some in found.items()} == {A: 2, B: 1}
    assert [context_of(line) for line in found[A]] == [8192, 4096]
    assert context_of(lines('msg="starting runner" cmd="ollama runner --ctx-size 2048 --port 4"')[0]) == 2048


@pytest.mark.parametrize(
    ("texts", "held"),
    [
        ((START_C % A, "load_tensors:   CPU_Mapped model buffer size =   281.81 MiB"), 281),
        # fit probes print it first; the kinds of host memory add up; a buffer for transfers is none
        (
            (
                START_C % A,
                "load_tensors:   CPU_Mapped model buffer size =   900.00 MiB",
                "load_tensors:   CPU_Mapped model buffer size =   200.00 MiB",
                "load_tensors:   CPU_REPACK model buffer size =   100.00 MiB",
                "load_tensors:    CUDA_Host model buffer size =   700.00 MiB",
                "load_tensors:        CUDA0 model buffer size =  4000.00 MiB",
            ),
            300,
        ),
        ((START_B % A, 'msg="model weights" device=CUDA0 size="4.1 GiB"', 'msg="model weights" device=CPU size="1.5 GiB"'), 1536),
        ((START_C % A,), 0),
    ],
)  # fmt: skip
def test_weights_in_host_memory(texts: tuple[str, ...], held: int) -> None:
    (load,) = loads(lines(*texts))
    assert load.on_host >> 20 == held


def test_what_was_free_when_memory_ran_out() -> None:
    text = "cudaMalloc failed: out of memory"
    using = "llama_model_load_from_file_impl: using device CUDA%d (X) (0000:0%d:00.0) - %d MiB free"
    loading = (START_C % A, using % (0, 1, 3000), using % (1, 2, 2000))
    assert [one.free >> 20 for one in shortages(lines(*loading, text))] == [5000]
    started = 'msg="llama-server started in 3.21 seconds"'
    assert [one.free for one in shortages(lines(*loading, started, text))] == [0], (
        "a load before it told that"
    )
    era_a = 'msg="gpu memory" id=GPU-0 library=cuda available="7.0 GiB" free="7.5 GiB" minimum="457.0 MiB"'
    assert [one.free >> 20 for one in shortages(lines(era_a, START_B % A, text))] == [7680]


def test_loads_that_were_given_up() -> None:
    said = lines(
        'level=ERROR msg="error loading" error="timed out waiting for llama runner to start - progress 0.10 - "',
        'level=WARN msg="timed out waiting for llama-server to start"',
        'level=WARN msg="client timed out"',
    )
    assert len(late_loads(said)) == 2


def test_where_a_server_looks_for_models() -> None:
    config = 'msg="server config" env="map[OLLAMA_MAX_QUEUE:512 OLLAMA_MODELS:/run/ogen-gpu0/models OLLAMA_NOPRUNE:true]"'
    assert store_of(lines("x", config)) == "/run/ogen-gpu0/models"
    assert store_of(lines("x")) == ""
