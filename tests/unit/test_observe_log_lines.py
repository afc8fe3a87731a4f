"""Ollama's logs of three eras: loads, layers, memory that ran out."""

# ruff: noqa: E501 (lines of logs and of tables are kept whole)

from __future__ import annotations

import pytest

from ogen.observe.evidence import Line
from ogen.observe.log_lines import answers, deaths, ignored, loads, shortages

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
