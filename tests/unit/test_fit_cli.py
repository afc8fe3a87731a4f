"""`ogen fit` and `ogen catalog`: what they print, and what the local Ollama is asked."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from click.testing import CliRunner

from ogen.cli import catalog, fit, fit_create
from ogen.errors import OgenError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from _truth import MIB, headers, runs


def run(command, *words):
    result = CliRunner().invoke(command, list(words), catch_exceptions=True)
    if isinstance(result.exception, OgenError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def asked(*words):
    return json.loads(run(fit.command, *words, "--format", "json"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for (model, quant), data in headers().items():
        if quant in ("Q4_K_M", "MXFP4"):
            (tmp_path / f"{model}.gguf").write_bytes(data)
    return tmp_path


def test_the_account_can_be_asked_from_outside(here):
    """Every measured run that these options can express, of a few models: the same figures."""
    models = ("gemma3-1b", "gpt-oss-20b", "phi3-mini-4k")
    chosen = [
        r
        for r in runs()
        if r.model in models and r.quant in ("Q4_K_M", "MXFP4") and not r.settings.swa_full
        and not r.settings.kv_unified and not r.settings.kv_on_host
    ][::7]  # fmt: skip
    assert len(chosen) > 30
    for r in chosen:
        s = r.settings
        found = asked(
            "--gguf", f"{r.model}.gguf", "--vram", "24GiB", "--backend", "vulkan",
            "--context", str(s.context), "--batch", str(s.batch), "--parallel", str(s.parallel),
            "--kv-cache", s.kv_cache, "--flash-attention", "on" if s.flash_attention else "off",
            "--gpu-layers", "auto" if s.gpu_layers is None else str(s.gpu_layers),
            "--ollama-version", s.version, "--no-concessions",
        )["account"]  # fmt: skip
        assert found["weights_bytes"] / MIB == pytest.approx(r.weights, abs=0.01)
        assert found["kv_bytes"] / MIB == pytest.approx(r.kv, abs=0.01)
        assert found["host_weights_bytes"] / MIB == pytest.approx(r.host_weights, abs=0.01)
        assert found["host_kv_bytes"] / MIB == pytest.approx(r.host_kv, abs=0.01)
        off = found["compute_bytes"] / MIB - r.compute
        assert abs(off) <= (0.17 * r.compute if r.is_full else 140)
        parts = ("weights_bytes", "kv_bytes", "compute_bytes", "reserve_bytes")
        assert found["total_gpu_bytes"] == sum(found[part] for part in parts)


def test_concessions_and_settings_are_told():
    found = asked("qwen3:30b-a3b", "--vram", "12GiB", "--context", "16384")
    assert found["version"] == 1
    assert found["verdict"] == "partial"
    assert [c["what"] for c in found["concessions"]] == ["kv_cache", "context", "batch", "experts"]
    assert all(set(c) == {"what", "from", "to", "saved_bytes", "cost"} for c in found["concessions"])
    assert found["settings"]["unit"]["OLLAMA_KV_CACHE_TYPE"] == "q8_0"
    assert int(found["settings"]["unit"]["LLAMA_ARG_N_CPU_MOE"]) > 0
    assert found["settings"]["modelfile"]["num_ctx"] == 2048
    assert "num_gpu" not in found["settings"]["modelfile"]


def test_quantisations_that_would_do():
    found = asked("qwen2.5:14b", "--quant", "Q8_0,Q6_K,Q4_K_M", "--gpu", "RTX 4060 Ti 16GB")
    assert found["concessions"][0] | {"saved_bytes": 0, "cost": ""} == {
        "what": "quantisation", "from": "Q8_0", "to": "Q6_K", "saved_bytes": 0, "cost": "",
    }  # fmt: skip
    assert found["cards"][0]["total_bytes"] == 16380 * MIB


def test_two_cards_and_shares():
    words = ("llama3.1:70b", "--gpu", "RTX 3090", "--cards", "2")
    assert len(asked(*words)["account"]["per_card_bytes"]) == 2
    found = asked(*words, "--shares", "3,2", "--split", "row", "--no-concessions")
    assert found["settings"]["unit"]["LLAMA_ARG_TENSOR_SPLIT"] == "3,2"
    assert found["fits"] is False


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GiB", 24 * 2**30),
        ("24g", 24 * 2**30),
        ("24GB", 24 * 10**9),
        ("8192MiB", 2**33),
        ("1.5GiB", 3 * 2**29),
        ("123", 123),
    ],
)
def test_sizes(text, size):
    assert fit.Size().convert(text, None, None) == size


def test_text_and_markdown_show_the_parts():
    text = run(fit.command, "llama2:7b", "--vram", "8GiB", "--context", "8192")
    for word in ("weights", "KV cache", "compute", "reserve", "free", "PARAMETER num_ctx 4096", "trained"):
        assert word in text
    assert "█" in text
    assert "\x1b" not in text
    table = run(fit.command, "llama3.1:8b", "--vram", "6GiB", "--format", "markdown")
    assert "| concession | from | to | saves | costs |" in table
    too_much = run(fit.command, "llama3.1:70b", "--vram", "24GiB", "--no-concessions")
    assert "does not fit" in too_much
    assert "too much" in too_much


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "name a MODEL"),
        (("llama3.1:8b", "--gguf", "x.gguf", "--vram", "8GiB"), "name a MODEL"),
        (("llama3.1:8b",), "on which card"),
        (("nonesuch", "--vram", "8GiB"), "nothing is known"),
        (("llama3.1:8b", "--gpu", "RTX 9999"), "no GPU called"),
        (("--gguf", "none.gguf", "--vram", "8GiB"), "no such file"),
        (("llama3.1:8b", "--vram", "8GiB", "--gpu-layers", "most"), "number of layers"),
        (("llama3.1:8b", "--vram", "8GiB", "--shares", "1,2"), "one share for each"),
        (("llama3.1:8b", "--vram", "8GiB", "--shares", "a"), "numbers such as"),
        (("llama3.1:8b", "--vram", "8GiB", "--ollama-version", "new"), "not a version"),
        (("llama3.1:8b", "--vram", "1GiB"), "does not fit"),
        (("llama3.1:8b", "--vram", "8GiB", "--kv-unified"), "go with --no-concessions"),
    ],
)
def test_mistakes(words, says):
    with pytest.raises(OgenError, match=says):
        run(fit.command, *words)


# -------------------------------------------------------------------------------------------- local
class NVMLError(Exception):
    pass


def driver(*cards):
    """A stand-in for pynvml with cards of (total, free) GiB; none at all fails as without a driver."""

    def start():
        if not cards:
            raise NVMLError("Driver Not Loaded")

    sizes = [SimpleNamespace(total=total * 2**30, free=free * 2**30) for total, free in cards]
    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=start,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(sizes),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda index: sizes[index],
        nvmlDeviceGetName=lambda index: f"NVIDIA Card {index}".encode(),
    )


def test_local_takes_the_card_with_the_most_room(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", driver((24, 3), (12, 11), (8, 8)))
    found = asked("llama3.1:8b", "--local", "--reserve", "1GiB")
    assert found["cards"] == [
        {"name": "GPU 1: NVIDIA Card 1", "total_bytes": 12 * 2**30, "free_bytes": 10 * 2**30}
    ]
    assert found["verdict"] == "full"


def test_local_without_a_driver(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", driver())
    with pytest.raises(OgenError, match="Driver Not Loaded"):
        run(fit.command, "llama3.1:8b", "--local")


# ------------------------------------------------------------------------------------------- create
class Ollama(BaseHTTPRequestHandler):
    """Records what it is asked; refuses a model called `bad`."""

    seen: ClassVar[list] = []

    def _answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self._answer(404, {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        value = json.loads(body) if self.path == "/api/create" else len(body)
        type(self).seen.append((self.path, value))
        bad = isinstance(value, dict) and value["model"] == "bad"
        self._answer(400 if bad else 200, {"error": "no such base"} if bad else {"status": "success"})

    def log_message(self, *args):
        pass


@pytest.fixture
def ollama(monkeypatch):
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Ollama)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    Ollama.seen = []
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{httpd.server_address[1]}")
    yield Ollama.seen
    httpd.shutdown()
    httpd.server_close()


def test_create_writes_a_modelfile_and_asks_the_api(here, ollama):
    found = asked("llama3.1:8b", "--vram", "6GiB", "--create", "team/tight:6g")
    assert found["created"] == "team-tight-6g.Modelfile"
    context = found["settings"]["modelfile"]["num_ctx"]
    assert Path("team-tight-6g.Modelfile").read_text() == f"FROM llama3.1:8b\nPARAMETER num_ctx {context}\n"
    request = {
        "model": "team/tight:6g",
        "parameters": {"num_ctx": context},
        "stream": False,
        "from": "llama3.1:8b",
    }
    assert ollama == [("/api/create", request)]


def test_create_from_a_file_sends_its_bytes(here, ollama):
    run(fit.command, "--gguf", "qwen3-8b.gguf", "--vram", "24GiB", "--gpu-layers", "12", "--create", "mine")
    (blob, sent), (path, request) = ollama
    size = Path("qwen3-8b.gguf").stat().st_size
    assert blob.startswith("/api/blobs/sha256:")
    assert (sent, path) == (size, "/api/create")
    assert request["files"] == {"qwen3-8b.gguf": blob.removeprefix("/api/blobs/")}
    assert request["parameters"]["num_gpu"] == 12


def test_create_that_is_refused(here, ollama, monkeypatch):
    with pytest.raises(fit_create.CreateError, match="no such base"):
        run(fit.command, "llama3.1:8b", "--vram", "24GiB", "--create", "bad")
    with pytest.raises(OgenError, match="can't name a model"):
        run(fit.command, "llama3.1:8b", "--vram", "24GiB", "--create", "a b\nFROM x")
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    with pytest.raises(fit_create.CreateError, match="no Ollama answers"):
        run(fit.command, "llama3.1:8b", "--vram", "24GiB", "--create", "good")


# ------------------------------------------------------------------------------------------ catalog
def test_catalog_lists():
    models = json.loads(run(catalog.command, "list", "--format", "json"))["models"]
    assert len(models) >= 60
    assert "RTX 3090" in run(catalog.command, "list", "--gpus", "3090")
    assert run(catalog.command, "list", "llama3.1", "--format", "markdown").count("\n") == 4


def test_catalog_shows():
    assert json.loads(run(catalog.command, "show", "phi4", "--format", "json"))["card"]["blocks"] == 40
    assert "source" in run(catalog.command, "show", "RTX 3090")


def test_catalog_adds_a_card(here):
    out = run(catalog.command, "add", "gemma3-1b.gguf", "--name", "mine", "--tag", "mine:1b")
    assert "cards/mine-Q4_K_M.yaml" in out
    found = asked("mine:1b", "--vram", "8GiB")
    assert (found["model"], found["architecture"]) == ("mine", "gemma3")
    with pytest.raises(OgenError, match="exists already"):
        run(catalog.command, "add", "gemma3-1b.gguf", "--name", "mine")
    with pytest.raises(OgenError, match="can't name a card"):
        run(catalog.command, "add", "gemma3-1b.gguf", "--name", "../mine")
