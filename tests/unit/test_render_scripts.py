"""The scripts that ogen puts on hosts, run for real: preload and monitor."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rendering import Backend, backends, free_port

from ogen import shipped

TEMPLATES = shipped.folder("templates")
TESTBED = Path(__file__).resolve().parents[1] / "testbed"
SMI = """\
#!/bin/sh
echo '0, GPU-aa, 550.54.15, NVIDIA "A", B, 1024, 23552, 24576, 35, 61, 210.50'
echo '1, GPU-bb, 550.54.15, =cmd, 0, 24576, 24576, [N/A], [N/A], [N/A]'
echo '2, GPU-cc, 550.54.15, lost one, [Unknown Error], [Unknown Error], [Unknown Error], x, x, x'
"""


class Instance(Backend):
    """A stand-in that loads models, as /api/ps then shows; what is in `refused` fails."""

    loaded: dict[str, int]
    refused: tuple[str, ...] = ()

    def answer(self, request: Any) -> None:
        length = int(request.headers.get("Content-Length") or 0)
        body = json.loads(request.rfile.read(length) or b"{}")
        self.seen.append({"path": request.path, **body})
        self.status = 200
        if request.path == "/api/version":
            return self.send(request, {"version": "0.32.15"})
        if request.path == "/api/ps":
            models = [
                {
                    "name": name,
                    "size": 5 << 30,
                    "size_vram": 4 << 30,
                    "context_length": context,
                    "expires_at": "2318",
                }
                for name, context in self.loaded.items()
            ]
            return self.send(request, {"models": models})
        if body["model"] in self.refused:
            self.status = 500
            return self.send(request, {"error": "cudaMalloc failed: out of memory"})
        self.loaded[body["model"] + ":latest"] = 8192
        return self.send(request, {"done": True, "done_reason": "load"})


def script(name: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", str(TEMPLATES / name), *args],
        env={"PATH": "/nonexistent", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def written(folder: Path, value: object) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(value))
    return str(path)


# ---------------------------------------------------------------------------------- preload
def model(name: str, **values: object) -> dict[str, object]:
    return {"name": name, "keep_alive": "-1", "embedding": False, "context": 8192, **values}


def test_preload_loads_what_is_missing(tmp_path: Path) -> None:
    one = Instance("one")
    one.loaded = {"chat:latest": 8192, "old:latest": 4096}
    with backends(one):
        models = [model("chat"), model("old"), model("embed", embedding=True, keep_alive="10m")]
        config = written(tmp_path, {"url": f"http://127.0.0.1:{one.port}", "wait_s": 5, "models": models})
        done = script("preload.py", config, http_proxy="http://127.0.0.1:9")
        assert (done.returncode, done.stderr) == (0, "")
        asked = [seen for seen in one.seen if seen["path"] not in ("/api/version", "/api/ps")]
        assert asked == [
            {"path": "/api/generate", "model": "old", "keep_alive": -1, "stream": False},
            {"path": "/api/embed", "model": "embed", "keep_alive": "10m", "input": "ogen"},
        ]
        asked_before = len(one.seen)
        assert script("preload.py", config).returncode == 0
        assert len(one.seen) == asked_before + 2, "all are loaded: nothing is loaded again"


def test_preload_says_why_it_failed(tmp_path: Path) -> None:
    one = Instance("one")
    one.loaded, one.refused = {}, ("chat",)
    with backends(one):
        models = [model("chat"), model("coder")]
        config = written(tmp_path, {"url": f"http://127.0.0.1:{one.port}", "wait_s": 5, "models": models})
        done = script("preload.py", config)
        assert done.returncode == 1
        assert "chat: not loaded: HTTP 500" in done.stderr
        assert "out of memory" in done.stderr
        assert "coder: loaded" in done.stdout, "one failure does not keep the others out"
    config = written(
        tmp_path, {"url": f"http://127.0.0.1:{free_port()}", "wait_s": 0.2, "models": [model("chat")]}
    )
    done = script("preload.py", config)
    assert (done.returncode, "does not answer" in done.stderr) == (1, True)


def clock(text: str) -> time.struct_time:
    return time.strptime(text, "%Y-%m-%d %H:%M")  # 2026-11-23 is a Monday


OFFICE = [[[0, 1, 2, 3, 4], 8 * 60, 18 * 60]]
NIGHT = [[[4], 22 * 60, 6 * 60]]
FOR_EVER, SOON = (
    {"expires_at": "2318-01-01T00:00:00Z", "context_length": 8192},
    {
        "expires_at": "2026-11-23T12:05:00Z",
        "context_length": 8192,
    },
)
LEAVES = ("5m", "leaves 5m after its last use")


@pytest.mark.parametrize(
    ("hours", "now", "entry", "what"),
    [
        ([], "2026-11-23 03:00", FOR_EVER, None),
        ([], "2026-11-23 03:00", None, ("-1", "loaded")),
        (OFFICE, "2026-11-23 07:59", None, None),
        (OFFICE, "2026-11-23 08:00", None, ("-1", "loaded")),
        (OFFICE, "2026-11-23 08:00", SOON, ("-1", "stays")),
        (OFFICE, "2026-11-23 08:00", FOR_EVER, None),
        (OFFICE, "2026-11-23 17:59", FOR_EVER, None),
        (OFFICE, "2026-11-23 18:00", FOR_EVER, LEAVES),
        (OFFICE, "2026-11-23 18:00", SOON, None),
        (OFFICE, "2026-11-28 12:00", FOR_EVER, LEAVES),
        (NIGHT, "2026-11-27 22:00", None, ("-1", "loaded")),
        (NIGHT, "2026-11-28 05:59", None, ("-1", "loaded")),
        (NIGHT, "2026-11-28 06:00", FOR_EVER, LEAVES),
        (NIGHT, "2026-11-28 22:00", None, None),
        (NIGHT, "2026-11-27 05:00", None, None),
        (OFFICE, "2026-11-23 08:00", {**FOR_EVER, "context_length": 2048}, ("-1", "loaded")),
    ],
)
def test_a_model_is_kept_in_its_hours(hours: Any, now: str, entry: Any, what: Any) -> None:
    spec = importlib.util.spec_from_file_location("preload_script", TEMPLATES / "preload.py")
    assert spec
    assert spec.loader
    preload = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(preload)
    assert preload.todo({**model("chat"), "hours": hours}, entry, 8192, clock(now)) == what


def test_after_its_hours_a_model_is_told_to_leave_once(tmp_path: Path) -> None:
    one = Instance("one")
    one.loaded = {"chat:latest": 8192, "talk:latest": 8192}
    today = time.localtime().tm_wday
    other = [day for day in range(7) if day not in (today, (today - 1) % 7, (today + 1) % 7)]
    with backends(one):
        models = [
            model("chat", hours=[[other, 0, 1439]]),
            model("talk"),
            model("day", hours=[[other, 0, 1439]]),
        ]
        config = written(tmp_path, {"url": f"http://127.0.0.1:{one.port}", "wait_s": 5, "models": models})
        done = script("preload.py", config)
        assert done.stdout.startswith("chat: leaves 5m after its last use in ")
        asked = [seen for seen in one.seen if seen["path"] == "/api/generate"]
        assert asked == [{"path": "/api/generate", "model": "chat", "keep_alive": "5m", "stream": False}]


def test_autofit_says_which_context_is_right(tmp_path: Path) -> None:
    one = Instance("one")
    one.loaded = {"chat:latest": 4096}
    chosen = tmp_path / "chosen.json"
    with backends(one):
        config = {"url": f"http://127.0.0.1:{one.port}", "wait_s": 5, "models": [model("chat")]}
        path = written(tmp_path, {**config, "chosen": str(chosen)})
        chosen.write_text('{"contexts": {"chat": 4096}}')
        assert script("preload.py", path).stdout == ""
        chosen.write_text("{broken")
        assert "chat: loaded" in script("preload.py", path).stdout


# ---------------------------------------------------------------------------------- monitor
def settings(folder: Path, **values: object) -> str:
    (folder / "prom").mkdir(exist_ok=True)
    base = {
        "interval_s": 1,
        "cards": True,
        "instances": [],
        "csv": str(folder),
        "prom": str(folder / "prom/ogen.prom"),
    }
    return written(folder, {**base, **values})


def smi(folder: Path, text: str = SMI) -> str:
    program = folder / "nvidia-smi"
    program.write_text(text)
    program.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def samples(text: str) -> dict[str, float]:
    """The samples of a Prometheus text; fails for what node_exporter would not take."""
    found: dict[str, float] = {}
    known: set[str] = set()
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            assert line.split()[2] not in known, "a metric's samples stand together"
        elif line.startswith("# TYPE "):
            known.add(line.split()[2])
        else:
            match = re.fullmatch(r'(\w+)(\{(?:\w+="(?:[^"\\]|\\.)*",?)*\})? (-?[0-9.e+]+)', line)
            assert match, line
            assert match[1] in known
            found[match[1] + (match[2] or "")] = float(match[3])
    return found


def test_monitor_writes_both_files(tmp_path: Path) -> None:
    one = Instance("one")
    one.loaded = {"chat:latest": 8192}
    with backends(one):
        down = free_port()
        watched = [
            {"name": "gpu0", "url": f"http://127.0.0.1:{one.port}", "ollama": "127.0.0.1:11434"},
            {"name": "gpu1", "url": f"http://127.0.0.1:{down}", "ollama": "127.0.0.1:11435"},
        ]
        config = settings(tmp_path, instances=watched)
        for _ in range(2):
            done = script("monitor.py", config, "--once", PATH=smi(tmp_path))
            assert (done.returncode, done.stderr) == (0, "")
    assert "card 2 GPU-cc: lost" in done.stdout
    assert "instance gpu1: down" in done.stdout
    cards = rows(tmp_path / "cards.csv")
    assert len(cards) == 6, "appended, under one header"
    assert cards[0]["name"] == 'NVIDIA "A", B'
    assert cards[0]["memory_used_bytes"] == str(1 << 30)
    assert cards[1]["name"] == "'=cmd", "no formula for a spreadsheet"
    models = rows(tmp_path / "models.csv")
    assert (models[0]["model"], models[0]["vram_bytes"], models[1]["up"]) == (
        "chat:latest",
        str(4 << 30),
        "0",
    )
    found = samples((tmp_path / "prom/ogen.prom").read_text())
    assert found['ogen_gpu_memory_used_bytes{gpu="0",uuid="GPU-aa"}'] == 1 << 30
    assert found['ogen_gpu_utilization_ratio{gpu="0",uuid="GPU-aa"}'] == 0.35
    assert found['ogen_gpu_up{gpu="2",uuid="GPU-cc"}'] == 0
    assert found['ogen_gpu_info{driver="550.54.15",gpu="0",name="NVIDIA \\"A\\", B",uuid="GPU-aa"}'] == 1
    assert 'ogen_gpu_power_watts{gpu="1",uuid="GPU-bb"}' not in found
    assert found['ogen_ollama_up{ollama="127.0.0.1:11434"}'] == 1
    assert found['ogen_ollama_up{ollama="127.0.0.1:11435"}'] == 0
    assert found['ogen_ollama_model_vram_bytes{model="chat:latest",ollama="127.0.0.1:11434"}'] == 4 << 30
    assert not (tmp_path / "prom/ogen.prom.tmp").exists()
    assert (tmp_path / "prom/ogen.prom").stat().st_mode & 0o777 == 0o644


def test_monitor_survives_what_is_missing(tmp_path: Path) -> None:
    broken = smi(tmp_path, "#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    done = script("monitor.py", settings(tmp_path), "--once", PATH=broken)
    assert (done.returncode, done.stderr) == (0, "")
    assert "driver: no figures: NVIDIA-SMI has failed" in done.stdout
    assert samples((tmp_path / "prom/ogen.prom").read_text())["ogen_gpu_driver_up"] == 0
    assert script("monitor.py", settings(tmp_path), "--once").returncode == 0, "no nvidia-smi at all"
    away = settings(tmp_path, prom=str(tmp_path / "none/ogen.prom"))
    assert script("monitor.py", away, "--once", PATH=smi(tmp_path)).returncode == 0
    assert not (tmp_path / "none").exists()


def test_monitor_survives_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "cards.csv").symlink_to("/dev/full")
    (tmp_path / "prom").mkdir()
    (tmp_path / "prom/ogen.prom.tmp").symlink_to("/dev/full")
    done = script("monitor.py", settings(tmp_path), "--once", PATH=smi(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "cards.csv: not written: No space left on device" in done.stdout
    assert "textfile: not written: No space left on device" in done.stdout


def test_monitor_reads_nvml(tmp_path: Path, need: Callable[[str], str]) -> None:
    library = tmp_path / "libnvidia-ml.so.1"
    command = [need("cc"), "-shared", "-fPIC", "-o", str(library), str(TESTBED / "fake_nvml.c")]
    subprocess.run(command, check=True, capture_output=True)
    env = {"LD_LIBRARY_PATH": str(tmp_path), "FAKE_NVML_GPUS": "24576:1024:35:61:210:Tesla T4,16384:lost"}
    done = script("monitor.py", settings(tmp_path), "--once", **env)
    assert (done.returncode, done.stderr) == (0, "")
    card = rows(tmp_path / "cards.csv")[0]
    assert (card["name"], card["memory_used_bytes"], card["utilization_percent"]) == (
        "Tesla T4",
        str(1 << 30),
        "35",
    )
    assert (card["temperature_celsius"], card["power_watts"]) == ("61", "210.0")
    assert card["uuid"].startswith("GPU-")
    found = samples((tmp_path / "prom/ogen.prom").read_text())
    assert sorted(value for name, value in found.items() if name.startswith("ogen_gpu_up")) == [0, 1]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_monitor_is_small_and_keeps_its_beat(tmp_path: Path) -> None:
    config = settings(tmp_path, interval_s=0.05, cards=False)
    process = subprocess.Popen([sys.executable, "-I", str(TEMPLATES / "monitor.py"), config])
    try:
        end = time.monotonic() + 20
        prom = tmp_path / "prom/ogen.prom"
        stamps = set()
        while len(stamps) < 5 and time.monotonic() < end:
            if prom.exists():
                stamps.add(prom.stat().st_mtime_ns)
            time.sleep(0.02)
        assert len(stamps) == 5
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]
        assert peak < 25 * 1024, "25 MB at most"
    finally:
        process.terminate()
        process.wait(10)
