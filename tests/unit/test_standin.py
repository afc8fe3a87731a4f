"""The stand-in for ollama (tests/testbed/ollama) does what the tests on boxes rely on."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from registry import Blob, serving

STANDIN = Path(__file__).parents[1] / "testbed" / "ollama"
UUIDS = ("GPU-aaaa0000-1111", "GPU-bbbb0000-2222")
CARDS = ",".join(f"24576:0:0:35:25:NVIDIA GeForce RTX 3090:{uuid}" for uuid in UUIDS)
FAST = {"FAKE_OLLAMA_TOKEN_MS": "1", "FAKE_OLLAMA_LOAD_MS": "5", "FAKE_OLLAMA_PULL_MS": "1"}


class Box:
    """One stand-in under test: its server, its store, its log."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.log_file = folder, folder / "log"
        self.etc, self.models = folder / "etc", folder / "models"
        (self.etc / "ollama.d").mkdir(parents=True, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.env = {
            "PATH": f"{Path(sys.executable).resolve().parent}:/usr/bin:/bin",  # past any slow shim
            "HOME": str(folder),
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_MODELS": str(self.models),
            "FAKE_OLLAMA_ETC": str(self.etc),
            "FAKE_NVML_GPUS": CARDS,
            "OLLAMA_VULKAN": "0",
            "OLLAMA_CONTEXT_LENGTH": "8192",
            **FAST,
            **env,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Box:
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen([STANDIN, "serve"], env=self.env, stderr=log)
        deadline = time.monotonic() + 5
        while "inference compute" not in self.log:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(5)

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str, Any]:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(link):
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            link.request(method, path, data, headers)
            answer = link.getresponse()
            return answer.status, answer.read().decode(), answer.headers

    def get(self, path: str) -> Any:
        return json.loads(self.ask("GET", path)[1])

    def post(self, path: str, **body: Any) -> Any:
        status, text, _ = self.ask("POST", path, {"stream": False, **body})
        assert status == 200, text
        return json.loads(text)

    def cli(self, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [STANDIN, *args],
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
        )

    def loaded(self) -> dict[str, Any]:
        (entry,) = self.get("/api/ps")["models"]
        return entry  # type: ignore[no-any-return]

    def manifest(self, model: str, tag: str) -> dict[str, Any]:
        path = self.models / "manifests/registry.ollama.ai/library" / model / tag
        return json.loads(path.read_text())  # type: ignore[no-any-return]

    def fault(self, text: str) -> None:
        (self.etc / "ollama.d" / f"{self.port}.fault").write_text(text)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Box]]:
    boxes: list[Box] = []

    def build(**env: str) -> Box:
        box = Box(tmp_path / f"box{len(boxes)}", env)
        boxes.append(box)
        return box

    yield build
    for box in boxes:
        box.stop()


@pytest.fixture
def box(make: Callable[..., Box]) -> Box:
    """A running server with llama3:8b pulled."""
    box = make().start()
    box.post("/api/pull", model="llama3:8b")
    return box


# ---- start, version, log
def test_it_stays_small_and_ends_on_sigterm(make: Callable[..., Box]) -> None:
    box = make()
    box.start().stop()  # the first start warms the page cache
    box.log_file.unlink()
    box.start()
    assert box.process
    status = Path(f"/proc/{box.process.pid}/status").read_text()
    assert int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) < 25 * 1024
    assert Path(f"/proc/{box.process.pid}/comm").read_text() == "ollama\n"
    box.stop()
    assert box.process.returncode == 0


def test_version_comes_from_environment_then_etc_then_beside_the_binary(make: Callable[..., Box]) -> None:
    box = make()
    folder = box.folder / "ollama-0.24.0"
    folder.mkdir()
    (folder / "ollama").write_bytes(STANDIN.read_bytes())
    (folder / "VERSION").write_text("0.24.0\n")
    (box.folder / "link").symlink_to(folder / "ollama")

    def shown(**env: str) -> str:
        run = ["sh", str(box.folder / "link"), "--version"]
        done = subprocess.run(run, env={**box.env, **env}, capture_output=True, text=True, check=True)
        return done.stdout

    assert "0.24.0" in shown()
    (box.etc / "ollama-version").write_text("0.12.3\n")
    assert "0.12.3" in shown()
    assert "0.9.9" in shown(FAKE_OLLAMA_VERSION="0.9.9")
    (box.etc / "ollama-version").unlink()
    (folder / "VERSION").unlink()
    assert "0.32.15" in shown()


@pytest.mark.parametrize(
    ("version", "compute", "load"),
    [
        (
            "0.12.3",
            'id=GPU-bbbb0000-2222 library=cuda variant=v12 compute=8.6 driver=12.4 name="NVIDIA',
            [
                "msg=offload library=cuda layers.requested=-1 layers.model=33 layers.offload=33",
                "llama runner started in",
            ],
        ),
        (
            "0.24.0",
            'id=GPU-bbbb0000-2222 filter_id="" library=CUDA compute=8.6 name=CUDA0 description="NVIDIA',
            [
                'msg="offloaded 33/33 layers to GPU"',
                'msg="model weights" device=CUDA0 size="4.4 GiB"',
                'msg="kv cache" device=CUDA0 size="512.0 MiB"',
                'msg="compute graph" device=CUDA0',
                'msg="total memory" size=',
            ],
        ),
        (
            "0.32.15",
            "id=0 filter_id=GPU-bbbb0000-2222 library=CUDA compute=8.6 name=CUDA0",
            [
                'selecting single GPU for llama-server model" main_gpu=0 id=0 filter_id=GPU-bbbb0000-2222',
                'msg="starting llama-server" cmd="',
                "using device CUDA0 (NVIDIA GeForce RTX 3090) (0000:02:00.0) - 24576 MiB free",
                "load_tensors: offloaded 33/33 layers to GPU",
                "load_tensors:        CUDA0 model buffer size =  4555.24 MiB",
                "llama_kv_cache:      CUDA0 KV buffer size =   512.00 MiB",
                "sched_reserve:      CUDA0 compute buffer size =",
                'msg="llama-server started in',
            ],
        ),
    ],
)
def test_each_era_has_its_log_lines(
    make: Callable[..., Box], version: str, compute: str, load: list[str]
) -> None:
    box = make(FAKE_OLLAMA_VERSION=version, CUDA_VISIBLE_DEVICES="GPU-bbbb0000-2222").start()
    assert box.get("/api/version") == {"version": version}
    box.post("/api/pull", model="llama3:8b")
    box.post("/api/generate", model="llama3:8b")
    found = re.findall(r'msg="inference compute" (.*)', box.log)
    assert len(found) == 1
    assert found[0].startswith(compute)
    assert 'total="24.0 GiB"' in found[0]
    for line in [
        *load,
        f'msg="Listening on 127.0.0.1:{box.port} (version {version})"',
        'msg="server config" env="map[',
    ]:
        assert line in box.log
    assert re.search(r"^time=\d{4}-\S+ level=INFO source=\S+\.go:\d+ msg=", box.log, re.M)


def test_context_defaults_by_vram_since_0_15_5(make: Callable[..., Box]) -> None:
    for version, devices, expected in (
        ("0.32.15", "0", 32768),
        ("0.32.15", "0,1", 131072),
        ("0.12.3", "0", 4096),
    ):
        box = make(
            FAKE_OLLAMA_VERSION=version, CUDA_VISIBLE_DEVICES=devices, OLLAMA_CONTEXT_LENGTH=""
        ).start()
        box.post("/api/pull", model="llama3.2:1b")
        box.post("/api/generate", model="llama3.2:1b")
        assert box.loaded()["context_length"] == expected  # 262144 is cut to what the model was trained for


@pytest.mark.parametrize(("devices", "line"), [("-1", "id=cpu library=cpu"), ("7", "id=cpu library=cpu")])
def test_no_visible_card_means_cpu(make: Callable[..., Box], devices: str, line: str) -> None:
    box = make(CUDA_VISIBLE_DEVICES=devices).start()
    assert line in box.log
    box.post("/api/pull", model="llama3:8b")
    assert (
        f"[127.0.0.1:{box.port} gpu none]"
        in box.post("/api/generate", model="llama3:8b", prompt="hi")["response"]
    )
    assert box.loaded()["size_vram"] == 0
    assert "offloaded 0/33 layers to GPU" in box.log


def test_a_hidden_card_comes_back_through_vulkan(make: Callable[..., Box]) -> None:
    # The real isolation bug: the hidden card is taken where it has more free memory.
    cards = "24576:9000:0:35:25:A:GPU-aaaa0000-1111,24576:0:0:35:25:B:GPU-bbbb0000-2222"
    box = make(CUDA_VISIBLE_DEVICES="GPU-aaaa0000-1111", FAKE_NVML_GPUS=cards, OLLAMA_VULKAN="").start()
    assert "id=1 filter_id=1 library=Vulkan compute=0.0 name=Vulkan1" in box.log
    box.post("/api/pull", model="llama3:8b")
    assert "gpu GPU-bbbb0000-2222]" in box.post("/api/generate", model="llama3:8b", prompt="hi")["response"]
    assert "load_tensors:      Vulkan1 model buffer size" in box.log


def test_needs_a_home(make: Callable[..., Box]) -> None:
    box = make(HOME="")
    assert box.cli("serve").stderr == "Error: $HOME is not defined\n"
    box.env["HOME"] = "/proc/nowhere"
    assert box.cli("serve").returncode == 1


# ---- store
def test_store_has_the_real_format(box: Box) -> None:
    for name in ("a", "b"):
        box.post(
            "/api/create", model=name, **{"from": "llama3:8b"}, parameters={"num_ctx": 2048, "stop": [name]}
        )
    base, made = box.manifest("llama3", "8b"), box.manifest("a", "latest")
    assert made["schemaVersion"] == 2
    assert made["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    kinds = [layer["mediaType"].rpartition(".")[2] for layer in made["layers"]]
    assert kinds == ["model", "template", "params"]
    assert made["layers"][0] == base["layers"][0]
    for layer in [made["config"], *made["layers"]]:
        blob = (box.models / "blobs" / layer["digest"].replace(":", "-")).read_bytes()
        assert "sha256:" + hashlib.sha256(blob).hexdigest() == layer["digest"]
        assert layer["size"] == len(blob)
    assert blob == b'{"num_ctx":2048,"stop":["a"]}\n'
    text = (box.models / "manifests/registry.ollama.ai/library/a/latest").read_bytes()
    shown = {m["name"]: m for m in box.get("/api/tags")["models"]}
    assert shown["a:latest"]["digest"] == hashlib.sha256(text).hexdigest()
    assert 4_850_000_000 < shown["a:latest"]["size"] < 4_850_001_000  # pretended: 8 billion at 4.85 bits
    box.post("/api/create", model="c", **{"from": "a"}, parameters={"num_ctx": 1024})
    assert json.loads(box.post("/api/show", model="c")["parameters"].split("\n")[0].split()[-1]) == 1024
    assert 'stop                           "a"' in box.post("/api/show", model="c")["parameters"]


def test_manifests_are_read_anew_copied_and_deleted(box: Box) -> None:
    box.post("/api/create", model="a", **{"from": "llama3:8b"}, parameters={"num_ctx": 2048})
    folder = box.models / "manifests/registry.ollama.ai/ogen/a"
    folder.mkdir(parents=True)
    (folder / "x").write_text((box.models / "manifests/registry.ollama.ai/library/a/latest").read_text())
    assert "ogen/a:x" in [m["name"] for m in box.get("/api/tags")["models"]]
    assert box.ask("POST", "/api/copy", {"source": "ogen/a:x", "destination": "b"})[0] == 200
    assert box.ask("POST", "/api/copy", {"source": "nope", "destination": "b"})[0] == 404
    params = box.models / "blobs" / box.manifest("b", "latest")["layers"][-1]["digest"].replace(":", "-")
    for name in ("a", "ogen/a:x"):
        assert box.ask("DELETE", "/api/delete", {"model": name})[:2] == (200, "")
        assert params.exists()
    assert not folder.exists()
    assert box.ask("DELETE", "/api/delete", {"model": "b"})[0] == 200
    assert not params.exists()
    assert box.ask("DELETE", "/api/delete", {"model": "b"})[:2] == (404, '{"error":"model \'b\' not found"}')


def test_blobs_are_uploaded_once(box: Box) -> None:
    data = b"GGUF" + bytes(1000)
    path = "/api/blobs/sha256:" + hashlib.sha256(data).hexdigest()
    assert [box.ask("HEAD", path)[0], box.ask("POST", path, data)[0], box.ask("POST", path, data)[0]] == [
        404,
        201,
        200,
    ]
    assert box.ask("HEAD", path)[0] == 200
    wrong = "/api/blobs/sha256:" + "0" * 64
    assert "digest mismatch" in box.ask("POST", wrong, data)[1]
    (box.folder / "m.gguf").write_bytes(data + b"x")
    done = box.cli("create", "mine", "-f", "-", stdin="FROM ./m.gguf\nSYSTEM hello\n")
    assert done.returncode == 0, done.stderr
    assert box.manifest("mine", "latest")["layers"][0]["size"] == len(data) + 1


@pytest.mark.parametrize("noprune", ["0", "1"])
def test_start_prunes_old_blobs_unless_told_not_to(make: Callable[..., Box], noprune: str) -> None:
    box = make(OLLAMA_NOPRUNE=noprune)
    blobs = box.models / "blobs"
    blobs.mkdir(parents=True)
    for name, age in (("0" * 64, 7200), ("1" * 64, 60)):
        (blobs / f"sha256-{name}").write_text("orphan")
        os.utime(blobs / f"sha256-{name}", (time.time() - age,) * 2)
    box.start()
    assert (blobs / ("sha256-" + "0" * 64)).exists() == (noprune == "1")
    assert (blobs / ("sha256-" + "1" * 64)).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="bind mounts need root")
def test_a_read_only_store_serves_but_does_not_change(box: Box) -> None:
    box.stop()
    mount = f"mount --bind {box.models} {box.models} && mount -o remount,ro,bind {box.models}"
    check = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"{mount} && exec {STANDIN} serve"]
    box.env["OLLAMA_NOPRUNE"] = "1"
    box.log_file.unlink()
    with box.log_file.open("ab") as log:
        box.process = subprocess.Popen(check, env=box.env, stderr=log)
    deadline = time.monotonic() + 5
    while "inference compute" not in box.log:
        if box.process.poll() is not None and "Operation not permitted" in box.log:
            pytest.skip("no mount namespaces here")
        assert time.monotonic() < deadline, box.log
        time.sleep(0.02)
    assert box.post("/api/generate", model="llama3:8b", prompt="hi")["done"]
    assert box.get("/api/tags")["models"]
    assert box.post("/api/show", model="llama3:8b")
    assert box.loaded()
    for path, body in (
        ("/api/pull", {"model": "phi3"}),
        ("/api/create", {"model": "x", "from": "llama3:8b", "parameters": {"seed": 1}}),
    ):
        assert "read-only file system" in box.ask("POST", path, body)[1]


# ---- Modelfile
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("FROM llama3:8b\nPARAMETER num_gpu 30      # 13B\n", "invalid int value [30      # 13B]"),
        ("FROM llama3:8b\nPARAMETER Num_Ctx 30\n", "unknown parameter 'Num_Ctx'"),
        ("FROM llama3:8b\nPARAMETER use_mmap maybe\n", "invalid bool value [maybe]"),
        ("FROM llama3:8b\nPARAMETER temperature hot\n", "invalid float value [hot]"),
        ("PARAMETER num_gpu 30\n", "no FROM line"),
        ("FROM llama3:8b\nFOO bar\n", "(line 2): command must be one of"),
        ("FROM llama3:8b\nSYSTEM\n", "command must be one of"),
        ('FROM llama3:8b\nSYSTEM """never ends\n', "unexpected EOF"),
        ("FROM llama3:8b\nMESSAGE User hi\n", "message role must be one of"),
        ("FROM llama3:8b # the small one\n", "invalid model name"),
    ],
)
def test_modelfiles_are_refused_as_by_the_real_one(box: Box, text: str, error: str) -> None:
    done = box.cli("create", "x", "-f", "-", stdin=text)
    assert done.returncode == 1
    assert error in done.stderr
    assert not (box.models / "manifests/registry.ollama.ai/library/x").exists()


def test_modelfile_quotes_comments_and_deprecated_parameters(box: Box) -> None:
    text = """# a comment
  # another
from llama3:8b
PARAMETER num_ctx 2048
PARAMETER num_ctx 4096
PARAMETER stop "<|end|>"
PARAMETER stop x # y
PARAMETER temperature 0.5
PARAMETER low_vram true
SYSTEM \"""Two
"quoted" lines.\"""
MESSAGE user 'hello'
MESSAGE assistant "well # met"
"""
    done = box.cli("create", "x", "-f", "-", stdin=text)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "warning: parameter low_vram is deprecated\n"
    shown = box.post("/api/show", model="x")
    assert shown["system"] == 'Two\n"quoted" lines.'
    assert shown["messages"] == [
        {"role": "user", "content": "'hello'"},
        {"role": "assistant", "content": "well # met"},
    ]
    params = (
        box.models
        / "blobs"
        / next(
            layer["digest"].replace(":", "-")
            for layer in box.manifest("x", "latest")["layers"]
            if layer["mediaType"].endswith(".params")
        )
    )
    assert json.loads(params.read_text()) == {
        "num_ctx": 4096,
        "stop": ["<|end|>", "x # y"],
        "temperature": 0.5,
    }


# ---- loading
def test_options_reload_the_model(box: Box) -> None:
    (box.etc / "ollama.json").write_text('{"load_ms": 100}')
    box.env.pop("FAKE_OLLAMA_LOAD_MS")
    box.post("/api/create", model="a", **{"from": "llama3:8b"}, parameters={"num_ctx": 2048})

    def loads(model: str, **options: Any) -> int:
        before = box.log.count("llama-server started in")
        box.post("/api/generate", model=model, options=options)
        return box.log.count("llama-server started in") - before

    assert loads("llama3:8b") == 1
    assert box.loaded()["context_length"] == 8192  # OLLAMA_CONTEXT_LENGTH
    assert loads("llama3:8b", temperature=1.5) == 0
    assert loads("a") == 1  # the same blob with another num_ctx: one runner, loaded anew
    assert box.loaded()["context_length"] == 2048
    assert loads("a", num_ctx=2048) == 0
    for options in (
        {"num_ctx": 1024},
        {"num_batch": 256},
        {"num_gpu": 10},
        {"main_gpu": 0},
        {"use_mmap": False},
    ):
        assert loads("a", **options) == 1
        assert loads("a", **options) == 0
    before = box.log.count("invalid option provided")
    assert loads("a", low_vram=True) == 1  # back from use_mmap; low_vram itself is ignored
    assert box.log.count('msg="invalid option provided" option=low_vram') == before + 1
    assert box.ask("POST", "/api/generate", {"model": "a", "options": {"num_ctx": "9"}})[1] == json.dumps(
        {"error": 'option "num_ctx" must be of type integer'}, separators=(",", ":")
    )


def test_parameters_are_not_checked_before_the_load(box: Box) -> None:
    box.post("/api/create", model="a", **{"from": "llama3:8b"}, parameters={"num_ctx": "2048"})
    assert box.ask("POST", "/api/generate", {"model": "a", "prompt": "hi"})[0] == 500


@pytest.mark.parametrize(
    ("num_gpu", "offloaded", "share"),
    [(-1, 33, 1.0), (0, 0, 0.0), (10, 10, 0.3), (33, 33, 1.0), (999, 33, 1.0)],
)
def test_num_gpu(box: Box, num_gpu: int, offloaded: int, share: float) -> None:
    box.post("/api/generate", model="llama3:8b", options={"num_gpu": num_gpu})
    assert f"load_tensors: offloaded {offloaded}/33 layers to GPU" in box.log
    found = box.loaded()
    assert found["size_vram"] / found["size"] == pytest.approx(share, abs=0.08)


def test_vram_counts_context_times_slots(make: Callable[..., Box]) -> None:
    sizes = []
    for parallel, kv in (("1", ""), ("4", ""), ("4", "q8_0")):
        box = make(OLLAMA_NUM_PARALLEL=parallel, OLLAMA_KV_CACHE_TYPE=kv).start()
        box.post("/api/pull", model="llama3:8b")
        box.post("/api/generate", model="llama3:8b")
        assert box.loaded()["context_length"] == 8192
        sizes.append(box.loaded()["size_vram"])
    assert sizes[1] - sizes[0] == 3 * 8192 * 65536
    assert sizes[2] - sizes[0] == int(0.53125 * 4 * 8192 * 65536) - 8192 * 65536


def test_spills_to_the_cpu_and_says_so(make: Callable[..., Box]) -> None:
    box = make(FAKE_NVML_GPUS="8192").start()
    box.post("/api/pull", model="llama2:13b")
    box.post("/api/generate", model="llama2:13b", prompt="hi")
    found = box.loaded()
    assert 0 < found["size_vram"] < found["size"]
    assert "cannot meet free memory target of 1024 MiB, need to reduce device memory by" in box.log
    assert re.search(r"load_tensors: offloaded (\d+)/41 layers to GPU", box.log)
    assert box.ask("POST", "/api/generate", {"model": "llama2:13b", "options": {"num_gpu": 99}})[0] == 500
    assert "cudaMalloc failed: out of memory" in box.log


def test_large_models_are_split_and_idle_ones_evicted(box: Box) -> None:
    for name in ("llama3:70b", "qwen2.5:32b", "llama3.2:1b"):
        box.post("/api/pull", model=name)
    text = box.post("/api/generate", model="llama3:70b", prompt="hi", options={"num_predict": 5})["response"]
    assert "GPU-aaaa0000-1111,GPU-bbbb0000-2222]" in text
    assert len(re.findall(r"load_tensors: +CUDA[01] model buffer size", box.log)) == 2
    box.post("/api/generate", model="qwen2.5:32b")
    assert "predicted to exceed available memory, evicting" in box.log
    box.post("/api/generate", model="llama3.2:1b")
    assert {m["name"] for m in box.get("/api/ps")["models"]} == {"qwen2.5:32b", "llama3.2:1b"}


def test_keep_alive(box: Box) -> None:
    assert box.post("/api/generate", model="llama3:8b", keep_alive=-1)["done_reason"] == "load"
    assert box.loaded()["expires_at"] > "2200"
    assert box.post("/api/generate", model="llama3:8b", keep_alive=0)["done_reason"] == "unload"
    assert box.get("/api/ps")["models"] == []
    box.post("/api/generate", model="llama3:8b", keep_alive="50ms")
    time.sleep(0.1)
    assert box.get("/api/ps")["models"] == []


# ---- requests
def test_host_header_is_checked_on_loopback(box: Box, make: Callable[..., Box]) -> None:
    for host in ("ollama_cluster", "api.example.com", "8.8.8.8"):
        status, text, headers = box.ask("GET", "/api/version", Host=host)
        assert (status, text, headers["X-Fake-Ollama"]) == (403, "", f"127.0.0.1:{box.port}")
    for host in (
        f"localhost:{box.port}",
        "127.0.0.1",
        "[::1]:80",
        "10.1.2.3",
        "box.internal",
        socket.gethostname(),
    ):
        assert box.ask("GET", "/api/version", Host=host)[0] == 200
    other = make()
    other.env["OLLAMA_HOST"] = f"0.0.0.0:{other.port}"
    assert other.start().ask("GET", "/api/version", Host="api.example.com")[0] == 200


def test_errors_and_methods(box: Box) -> None:
    assert box.ask("GET", "/")[:2] == (200, "Ollama is running")
    assert box.ask("HEAD", "/api/tags")[:2] == (200, "")
    assert box.ask("GET", "/nope")[:2] == (404, "404 page not found")
    assert box.ask("GET", "/api/generate")[:2] == (405, "405 method not allowed")
    assert box.ask("POST", "/api/generate")[:2] == (400, '{"error":"missing request body"}')
    assert box.ask("POST", "/api/generate", {"model": "x"})[:2] == (404, '{"error":"model \'x\' not found"}')
    assert json.loads(box.ask("POST", "/v1/completions", {"model": "x", "prompt": "a"})[1])["error"][
        "type"
    ] == ("not_found_error")
    assert (
        "neither 'from' or 'files'"
        in box.ask("POST", "/api/create", {"model": "x", "modelfile": "FROM y"})[1]
    )
    status, text, _ = box.ask("POST", "/api/pull", {"model": "missing"})
    assert (status, json.loads(text.splitlines()[-1])) == (
        200,
        {"error": "pull model manifest: file does not exist"},
    )


def test_http_1_0_gets_no_chunks(box: Box) -> None:
    # What nginx speaks to its upstreams unless told otherwise.
    body = json.dumps({"model": "llama3:8b", "prompt": "hi"})
    with socket.create_connection(("127.0.0.1", box.port)) as link:
        link.sendall(f"POST /api/generate HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        text = link.makefile("rb").read().decode()
    head, _, rest = text.partition("\r\n\r\n")
    assert "chunked" not in head
    assert [json.loads(line)["done"] for line in rest.splitlines()][-1] is True


def test_openai_and_anthropic_shapes(box: Box) -> None:
    mark = f"[127.0.0.1:{box.port} gpu GPU-aaaa0000-1111]"
    chat = {"model": "llama3:8b", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}
    assert mark in box.post("/v1/chat/completions", **chat)["choices"][0]["message"]["content"]
    assert mark in box.post("/v1/completions", model="llama3:8b", prompt="hi")["choices"][0]["text"]
    assert mark in box.post("/v1/messages", **chat, max_tokens=50)["content"][0]["text"]
    assert mark in box.post("/api/chat", **chat)["message"]["content"]
    assert box.get("/v1/models")["data"][0]["id"] == "llama3:8b"
    assert box.get("/v1/models/llama3:8b")["owned_by"] == "library"
    assert box.ask("GET", "/v1/models/nope")[0] == 404
    text = box.ask("POST", "/v1/chat/completions", {**chat, "stream": True})[1]
    assert text.startswith("data: {")
    assert text.endswith("data: [DONE]\n\n")
    assert '"finish_reason":"stop"' in text
    text = box.ask("POST", "/v1/messages", {**chat, "stream": True, "max_tokens": 50})[1]
    events = [
        e for i, e in enumerate(re.findall(r"^event: (\w+)", text, re.M)) if i < 3 or not e.endswith("_delta")
    ]
    assert events[:3] == ["message_start", "content_block_start", "content_block_delta"]
    assert events[-1] == "message_stop"
    error = json.loads(box.ask("POST", "/v1/messages", {**chat, "model": "x", "max_tokens": 5})[1])
    assert (error["type"], error["error"]["type"]) == ("error", "not_found_error")


def test_images_and_tools_in_every_shape(box: Box) -> None:
    data = base64.b64encode(bytes(3)).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    source = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    ask = {"model": "llama3:8b", "max_tokens": 50}
    question: dict[str, Any] = {"role": "user", "content": "hi"}
    for path, message in (
        ("/api/chat", {**question, "images": [data]}),
        ("/v1/chat/completions", {**question, "content": [image]}),
        ("/v1/messages", {**question, "content": [source]}),
    ):
        assert "1 image, You said" in json.dumps(box.post(path, **ask, messages=[message]))
    status, text, _ = box.ask("POST", "/api/generate", {**ask, "prompt": "hi", "images": ["?"]})
    assert (status, text) == (400, '{"error":"invalid image input"}')

    wanted = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": wanted}}
    ask = {**ask, "messages": [question], "tools": [tool]}
    (call,) = box.post("/api/chat", **ask)["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": {"city": "city"}}
    choice = box.post("/v1/chat/completions", **ask)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city":"city"}'
    ask["tools"] = [{"name": "weather", "input_schema": wanted}]
    (block,) = box.post("/v1/messages", **ask)["content"]
    assert (block["type"], block["input"]) == ("tool_use", {"city": "city"})
    ask["messages"] = [question, {"role": "tool", "content": "sunny"}]
    assert "You said: sunny" in box.post("/api/chat", **ask)["message"]["content"]


def test_responses(box: Box) -> None:
    whole = box.post("/v1/responses", model="llama3:8b", input="hi")
    assert "You said: hi" in whole["output"][0]["content"][0]["text"]
    text = box.ask("POST", "/v1/responses", {"model": "llama3:8b", "input": "hi", "stream": True})[1]
    events = re.findall(r"^event: (\S+)", text, re.M)
    assert (events[0], events[-1]) == ("response.created", "response.completed")


def test_embedding_models(box: Box) -> None:
    box.post("/api/pull", model="nomic-embed-text")
    assert len(box.post("/api/embed", model="nomic-embed-text", input=["a", "b"])["embeddings"]) == 2
    assert box.post("/api/embeddings", model="nomic-embed-text", prompt="a")["embedding"]
    assert len(box.post("/v1/embeddings", model="nomic-embed-text", input="a")["data"]) == 1
    status, text, _ = box.ask("POST", "/api/generate", {"model": "nomic-embed-text", "prompt": "a"})
    assert (status, text) == (400, '{"error":"\\"nomic-embed-text\\" does not support generate"}')


def stream(box: Box, **body: Any) -> socket.socket:
    """A generation under way: the connection after its first bytes."""
    link = socket.create_connection(("127.0.0.1", box.port))
    data = json.dumps({"model": "llama3:8b", "prompt": "hi", **body})
    head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    link.sendall((head + data).encode())
    return link


def test_generations_are_written_down_where_a_test_asks_for_it(box: Box) -> None:
    box.post("/api/create", model="m", **{"from": "llama3:8b"})
    box.post("/api/generate", model="m", prompt="unseen")
    (box.etc / "record").touch()
    box.post("/api/generate", model="m", prompt="seen")
    lines = [json.loads(line) for line in (box.folder / "generations").read_text().splitlines()]
    assert [(line["what"], line["prompt"], line["port"]) for line in lines] == [
        ("began", "seen", box.port),
        ("ended", "seen", box.port),
    ]


@pytest.mark.parametrize("streaming", [True, False])
def test_a_client_that_hangs_up_frees_its_slot(box: Box, streaming: bool) -> None:
    box.post("/api/generate", model="llama3:8b")
    link = stream(box, options={"num_predict": 100_000}, stream=streaming)
    if streaming:
        link.recv(10)
    else:
        time.sleep(1.0)
    second = stream(box, options={"num_predict": 3})
    second.settimeout(0.2)
    with pytest.raises(TimeoutError):
        second.recv(10)  # one slot: it waits
    waiting = stream(box)
    waiting.close()  # leaves the queue, too
    link.close()
    second.settimeout(30)
    assert second.recv(10)
    end = time.monotonic() + 10
    while "| 499 |" not in box.log:  # it is written when the stand-in next looks at the link
        assert time.monotonic() < end, box.log
        time.sleep(0.05)
    second.close()


def test_slots_are_per_model_and_only_loads_are_refused(make: Callable[..., Box]) -> None:
    box = make(OLLAMA_NUM_PARALLEL="2", OLLAMA_MAX_QUEUE="1").start()
    for name in ("llama3:8b", "llama3.2:1b"):
        box.post("/api/pull", model=name)
        box.post("/api/generate", model=name)
    links = [stream(box, options={"num_predict": 100_000}) for _ in range(4)]
    waiting, end = list(links), time.monotonic() + 20
    while len(waiting) > 2 and time.monotonic() < end:
        waiting = [link for link in waiting if link not in select.select(waiting, [], [], 1)[0]]
    assert len(waiting) == 2
    assert not select.select(waiting, [], [], 0.5)[0], "two slots"
    assert box.post("/api/generate", model="llama3.2:1b", prompt="hi")["done"]
    reload = stream(box, options={"num_ctx": 512})  # waits for the busy runner: the queue of one is full
    time.sleep(1.0)
    status, text, _ = box.ask("POST", "/api/generate", {"model": "llama3:8b", "options": {"num_ctx": 256}})
    assert (status, json.loads(text)["error"][:24]) == (503, "server busy, please try ")
    for link in [*links, reload]:
        link.close()


# ---- faults and timings
def test_faults_of_requests_by_port(box: Box) -> None:
    def status(path: str = "/api/generate") -> int:
        return box.ask("POST", path, {"model": "llama3:8b", "prompt": "hi"})[0]

    (box.etc / "ollama-fault").write_text("503")
    assert (status(), box.ask("GET", "/")[0]) == (503, 200)
    box.fault("none\n")
    assert status() == 200
    for fault, code in (("500", 500), ("oom", 500), ("503", 503)):
        box.fault(fault)
        assert status() == code
    box.fault("nopull")
    assert "no such host" in box.ask("POST", "/api/pull", {"model": "phi3"})[1]
    box.fault("stall:0.3")
    began = time.monotonic()
    assert status() == 200
    assert time.monotonic() - began >= 0.3
    assert box.ask("GET", "/api/version")[0] == 200
    box.fault("")
    (box.models / ".fault").write_text("500")
    assert status() == 500


def test_faults_of_memory_by_port(box: Box) -> None:
    box.fault("novram")
    box.post("/api/generate", model="llama3:8b")
    assert box.loaded()["size_vram"] / box.loaded()["size"] == pytest.approx(0.6, abs=0.001)
    assert "offloaded 19/33 layers to GPU" in box.log
    box.fault("nogpu")
    box.post("/api/generate", model="llama3:8b", options={"num_ctx": 512})
    assert box.loaded()["size_vram"] == 0
    box.env["CUDA_VISIBLE_DEVICES"] = "0"
    box.fault("wrongcard")
    box.stop()
    box.log_file.unlink()
    box.start()
    assert "library=Vulkan" in box.log
    text = box.post("/api/generate", model="llama3:8b", prompt="hi")["response"]
    assert "gpu GPU-bbbb0000-2222]" in text
    assert box.loaded()["size_vram"] == box.loaded()["size"]
    assert (
        'selecting single GPU for llama-server model" main_gpu=0 id=1 filter_id=1 library=Vulkan' in box.log
    )


@pytest.mark.parametrize(("fault", "code"), [("crash", 2), ("kill", -9), ("midway", 2), ("late:0", 2)])
def test_faults_that_end_the_server(box: Box, fault: str, code: int) -> None:
    box.fault(fault)
    with contextlib.suppress(OSError, http.client.HTTPException):
        box.ask("POST", "/api/generate", {"model": "llama3:8b", "prompt": "hi"})
    assert box.process
    assert box.process.wait(5) == code


def test_fault_refuse(make: Callable[..., Box]) -> None:
    box = make()
    box.fault("refuse")
    assert box.cli("serve").returncode == 1


def test_timings_by_port(make: Callable[..., Box]) -> None:
    box = make()
    for key in FAST:
        box.env.pop(key)
    box.start()
    (box.etc / "ollama.json").write_text('{"token_ms": 1, "tokens": 20, "pull_ms": 0}')
    (box.etc / "ollama.d" / f"{box.port}.json").write_text('{"tokens": 9, "load_ms": 200}')
    box.post("/api/pull", model="llama3:8b")
    began = time.monotonic()
    assert box.post("/api/generate", model="llama3:8b", prompt="hi")["eval_count"] == 9
    assert 0.2 <= time.monotonic() - began < 0.6


# ---- the registry's protocol
def test_a_pull_from_a_registry_goes_on_where_it_broke_off(make: Callable[..., Box]) -> None:
    with serving() as registry:
        large = registry.add("llama3:8b", 5_000_000)
        box = make(FAKE_OLLAMA_REGISTRY=registry.url).start()
        registry.cut[large] = [2_000_000, 1_000_000]
        status, text, _ = box.ask("POST", "/api/pull", {"model": "llama3:8b", "stream": False})
        assert status == 500
        assert "max retries exceeded: unexpected EOF" in text
        assert registry.of_blobs() == 3_000_000
        box.post("/api/pull", model="llama3:8b")
        assert registry.sent[f"/v2/library/llama3/blobs/{large}"] == 5_000_000
        assert not list((box.models / "blobs").glob("*-partial*"))
        assert box.get("/api/tags")["models"][0]["name"] == "llama3:8b"
        assert box.post("/api/generate", model="llama3:8b", prompt="hello")["done"]
        asked = len(registry.asked)
        box.post("/api/pull", model="llama3:8b")
        assert registry.asked[asked:] == ["GET /v2/library/llama3/manifests/8b"]


def test_a_registrys_wrong_blob_is_not_taken(make: Callable[..., Box]) -> None:
    with serving() as registry:
        large = registry.add("llama3:8b", 5000)
        registry.blobs[large] = Blob(b"something else", 5000)
        box = make().start()
        name = f"{registry.url}/library/llama3:8b"
        status, text, _ = box.ask("POST", "/api/pull", {"model": name, "stream": False})
        assert (status, "digest mismatch" in text) == (500, True)
        assert not (box.models / "blobs" / large.replace(":", "-")).exists()
        gone = f"{registry.url}/library/llama3:70b"
        assert "does not exist" in box.ask("POST", "/api/pull", {"model": gone, "stream": False})[1]
