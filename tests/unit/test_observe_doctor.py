"""Every finding, provoked by changing one thing in what a healthy fleet says; the healthy one has none."""

# ruff: noqa: E501 (lines of logs and of tables are kept whole)

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ogen.inventory import load
from ogen.observe.doctor import FINDERS, diagnose
from ogen.observe.evidence import host_seen
from ogen.observe.finding import Finding
from ogen.plan import plan
from ogen.plan.model import Plan
from ogen.push import Comparison, Seen

NOW = 1_800_000_000.0
BLOB = "sha256-" + "a" * 64
INVENTORY = """\
version: 1
ollama: {version: 0.32.15}
models:
  chat: {from: "llama3.1:8b-instruct-q4_K_M", context: 8192, replicas: fill, on: solo}
hosts:
  solo: {address: 192.0.2.1, gpus: [{model: RTX 3090, count: 2}]}
  edge: {address: 192.0.2.9}
balancers:
  api: {hosts: [edge], listen: 8080}
"""
CARD = 'time=x level=INFO source=types.go:32 msg="inference compute" id=0 library=CUDA name=CUDA0 pci_id=0000:0%d:00.0'
LOAD = [
    CARD,
    f'time=x level=INFO msg="starting llama-server" cmd="/x/llama-server --model /m/blobs/{BLOB} -c 8192"',
    "load_tensors: offloaded 33/33 layers to GPU",
    'time=x level=INFO msg="llama-server started in 3.21 seconds"',
]
Said = dict[str, Any]
Change = Callable[[Said, Said], None]


def unit(**more: Any) -> Said:
    shown = {
        "active": "active",
        "sub": "running",
        "loaded": "loaded",
        "enabled": "enabled",
        "result": "success",
    }
    return {**shown, "restarts": 0, "age": 7200.0, **more}


def log(*texts: str, at: float = NOW - 7000) -> list[list[Any]]:
    return [[at + number, text] for number, text in enumerate(texts)]


def healthy() -> tuple[Said, Said]:
    """What the host with cards and the edge say."""
    names = [f"ogen-ollama-gpu{n}.service" for n in (0, 1)]
    chat = {"name": "chat:latest", "size": 6 << 30, "size_vram": 6 << 30, "context_length": 8192}
    rows = [
        {
            "index": str(n),
            "uuid": f"GPU-{n}",
            "pci.bus_id": f"00000000:0{n + 1}:00.0",
            "name": "NVIDIA GeForce RTX 3090",
            "driver_version": "550.54.15",
            "memory.total": "24576",
            "memory.used": "6600",
            "utilization.gpu": "0",
            "temperature.gpu": "41",
            "power.draw": "[N/A]",
        }
        for n in (0, 1)
    ]
    base = {"time": NOW, "live": True, "current": "abc", "locked": None, "idle": True}
    solo: Said = {
        **base,
        "proofs": [
            {
                "instance": f"gpu{n}",
                "unit": name,
                "port": 11434 + n,
                "gpus": [str(n)],
                "models": [{"model": "chat", "verdict": "full", "resident": True}],
            }
            for n, name in enumerate(names)
        ],
        "units": {
            **dict.fromkeys([*names, "ogen-monitor.service"], unit()),
            "ollama.service": unit(active="inactive", sub="dead", age=None),
        },
        "cards": {"code": 0, "said": [], "rows": rows, "apps": []},
        "instances": {f"gpu{n}": {"version": "0.32.15", "models": [chat], "error": ""} for n in (0, 1)},
        "logs": {
            name: {
                "start": log(LOAD[0] % (n + 1)),
                "lines": log(LOAD[0] % (n + 1), *LOAD[1:]),
                "last": log("ready"),
            }
            for n, name in enumerate(names)
        },
        "store": {
            "folder": "/var/lib/ollama/models",
            "disk": {"there": True, "total": 1 << 40, "free": 1 << 39, "inodes": 10**7, "inodes_free": 10**6},
            "blobs": {BLOB: ["chat:latest"]},
            "lacking": [],
        },
        "listeners": ['LISTEN 0 128 127.0.0.1:8080 0.0.0.0:* users:(("nginx",pid=7,fd=3))'],
    }
    edge: Said = {
        **base,
        "balancers": [{"balancer": "api", "unit": "ogen-balancer-api.service", "hash": "f00"}],
        "hashes": {"api": "f00"},
        "units": {"ogen-balancer-api.service": unit()},
        "cards": {"code": 127, "said": ["nvidia-smi: not found"], "rows": []},
        "logs": {"ogen-balancer-api.service": {"start": [], "lines": [], "last": log("started")}},
        "reached": [["192.0.2.1", 11434, ""], ["192.0.2.1", 11435, ""]],
        "edges": {"api": {"statuses": {"200": 900, "401": 3}, "failed": []}},
    }
    return copy.deepcopy(solo), copy.deepcopy(edge)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    path = tmp_path_factory.mktemp("doctor") / "inventory.yaml"
    path.write_text(INVENTORY)
    return plan(load(path))


def found(
    planned: Plan, change: Change | None = None, *, edited: tuple[str, ...] = (), offset: float = 0.0
) -> tuple[Finding, ...]:
    solo, edge = healthy()
    if change:
        change(solo, edge)
    files = tuple(Seen(path, "edited") for path in edited)
    seen = {
        name: host_seen(
            name, json.loads(json.dumps(said)), Comparison(name, "abc", "abc", not files, files), offset
        )
        for name, said in (("solo", solo), ("edge", edge))
    }
    return diagnose(planned, seen)


def put(*path: Any, value: Any, host: str = "solo") -> Change:
    """Sets one thing in what a host says."""

    def change(solo: Said, edge: Said) -> None:
        at: Any = solo if host == "solo" else edge
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return change


def says(*texts: str, instance: int = 0, part: str = "lines") -> Change:
    """More lines in an instance's journal."""

    def change(solo: Said, edge: Said) -> None:
        solo["logs"][f"ogen-ollama-gpu{instance}.service"][part] += log(*texts, at=NOW - 60)

    return change


def both(*changes: Change) -> Change:
    def change(solo: Said, edge: Said) -> None:
        for one in changes:
            one(solo, edge)

    return change


GPU0 = "ogen-ollama-gpu0.service"
API = "ogen-balancer-api.service"
PS = ("instances", "gpu0", "models", 0)
ROW = ("cards", "rows", 0)
OVERFLOW = "common_params_fit_impl:   - CUDA0 (X): 28 layers (12 overflowing),   6000 MiB used"
GIN = '[GIN] 2026/11/23 - 22:57:35 | %d |      0.3ms |       127.0.0.1 | POST     "/api/chat"'
APP = {
    "pid": "77",
    "gpu_uuid": "GPU-1",
    "used_memory": "9000",
    "process_name": "/usr/bin/python3",
    "unit": "",
}
FOREIGN = [
    {**APP, "unit": "jupyter.service"},
    {**APP, "used_memory": "100", "unit": "ogen-ollama-gpu1.service"},
]
START = ("logs", GPU0, "start")
NONE = {
    "code": 9,
    "said": ["NVIDIA-SMI has failed because it couldn't communicate with the driver"],
    "rows": [],
}
MISMATCH = {"code": 18, "said": ["Failed to initialize NVML: Driver/library version mismatch"], "rows": []}
DISK = ("store", "disk")

TABLE: list[tuple[str, str, Change, str, str]] = [
    # kind, about, what is changed, a word of what or evidence, a word of the fix
    ("no-release", "", put("current", value=None), "nothing was applied", "ogen apply"),
    ("stuck", "", put("stuck", value="B does not start"), "B does not start", "/etc/ogen/stuck"),
    ("unfinished", "", put("idle", value=False), "did not come to its end", "recovers"),
    ("store-missing", "", put(*DISK, "there", value=False), "/var/lib/ollama/models", "models_dir"),
    ("disk-low", "", put(*DISK, "free", value=1 << 30), "1.0 GiB of 1024.0 GiB", "models_dir"),
    ("disk-low", "", put(*DISK, "inodes_free", value=5), "5 of 10000000 inodes", "models_dir"),
    ("blobs-missing", "gpu0", put("store", "lacking", value=[["gpu0", "chat:latest", BLOB]]), BLOB, "ogen apply"),
    ("service-down", "", put("units", "ogen-monitor.service", value=unit(active="inactive")), "inactive", "restart"),
    ("service-down", "", put("units", "x.service", value=unit(active="failed")), "x.service is failed", "x.service"),
    ("stock-service", "", put("units", "ollama.service", value=unit()), "every card", "disable --now"),
    ("driver", "", put("cards", value=NONE), "couldn't communicate", "modprobe"),
    ("driver", "", put("cards", value={"code": 127}), "nvidia-smi is not there", "modprobe"),
    ("driver-mismatch", "", put("cards", value=MISMATCH), "another version", "reboot"),
    ("card-lost", "card 0", put(*ROW, "index", value="5"), "RTX 3090 (index 0)", "state: out"),
    ("card-smaller", "card 0", put(*ROW, "memory.total", value="8192"), "8.0 GiB", "vram: 8192MiB"),
    ("memory-others", "card 0", put(*ROW, "memory.used", value="20000"), "20000 of 24576 MiB", "reserve:"),
    ("memory-others", "card 0", put("instances", "gpu0", "models", value=[]), "hold 6.4 GiB", "reserve:"),
    ("memory-others", "card 1", put("cards", "apps", value=FOREIGN), "python3 hold 8.8 GiB", "reserve: 9000MiB"),
    ("card-hot", "card 0", put(*ROW, "temperature.gpu", value="95"), "95 °C", "fans"),
    ("instance-down", "gpu0", put("units", GPU0, value=unit(active="failed", sub="failed")), "failed", "systemctl start"),
    ("instance-crashes", "gpu0", put("units", GPU0, value=unit(restarts=4, age=30)), "4 times", "journalctl"),
    ("instance-crashes", "gpu0", put("units", GPU0, value=unit(active="activating")), "activating", "rollback"),
    ("no-answer", "gpu0", put("instances", "gpu0", value={"error": "timed out"}), "timed out", "restart"),
    ("version", "gpu0", put("instances", "gpu0", "version", value="0.31.0"), "0.31.0, planned is 0.32.15", "0.31.0"),
    ("wrong-card", "gpu0", put(*START, value=log(CARD % 2)), "it took 0000:02:00.0 instead of 0", "ogen lock"),
    ("vulkan", "gpu0", put(*START, value=log((CARD % 1).replace("=CUDA ", "=Vulkan "))), "Vulkan", "OLLAMA_VULKAN"),
    ("on-cpu", "gpu0", put(*START, value=log('msg="inference compute" id=cpu library=cpu')), "CPU", "restart"),
    ("not-resident", "gpu0", both(put("instances", "gpu0", "models", value=[]), put(*ROW, "memory.used", value="300")), "not in memory", "ogen-preload@gpu0"),
    ("context", "gpu0", put(*PS, "context_length", value=4096), "context 4096, planned is 8192", "max_context"),
    ("spilled", "gpu0", says(LOAD[1], "load_tensors: offloaded 20/33 layers to GPU"), "20 of 33 layers", "kv_cache: q8_0"),
    ("spilled", "gpu0", says(LOAD[1], OVERFLOW, LOAD[2]), "12 overflow", "kv_cache"),
    ("spilled", "gpu0", put(*PS, "size_vram", value=3 << 30), "50 % of it", "saves 0.5 GiB"),
    ("out-of-memory", "gpu0", says("ggml_cuda: cudaMalloc failed: out of memory"), "chat ran out", "kv_cache: q8_0"),
    ("runner-died", "gpu0", says('msg="llama runner process has terminated: signal: killed"'), "ended", "dmesg"),
    ("host-refused", "gpu0", says(GIN % 403), "answered 403", "Host"),
    ("busy", "gpu0", says(GIN % 503), "503", "max_queue"),
    ("requests-fail", "gpu0", says(GIN % 500), "1 requests ended", "ogen logs"),
    ("setting-ignored", "gpu0", says('msg="invalid option provided" option=low_vram'), "low_vram", "parameters"),
    ("setting-ignored", "gpu0", says('msg="quantized kv cache requested but flash attention disabled" type=q8_0'), "quantized", "flash"),
    ("balancer-down", "balancer api", put("units", API, value=unit(active="inactive"), host="edge"), "inactive", "start"),
    ("balancer-crashes", "balancer api", put("units", API, value=unit(restarts=9), host="edge"), "9 times", "journalctl"),
    ("balancer-stale", "balancer api", put("hashes", "api", value="0ld", host="edge"), "0ld, in force f00", "apply"),
    ("unreachable-member", "", put("reached", 1, 2, value="refused", host="edge"), "solo/gpu1 does not answer", "solo/gpu1"),
    ("not-back", "", put("returning", value=["192.0.2.1:11434"], host="edge"), "send nothing to solo/gpu0", "ogen logs"),
    ("probe-fails", "", put("failing", value=[{"server": "192.0.2.1:11434", "why": "HTTP 500", "away": True}], host="edge"), "send nothing to it", "ogen restart"),
    ("probe-fails", "", put("failing", value=[{"server": "192.0.2.1:11434", "why": "HTTP 500", "away": False}], host="edge"), "no other", "ogen logs"),
    ("upstream-fails", "balancer api", put("edges", "api", "failed", value=[[NOW - 9, "192.0.2.1:11434", "502"]], host="edge"), "solo/gpu0 failed", "solo"),
    ("upstream-timeout", "balancer api", put("edges", "api", "failed", value=[[NOW - 9, "192.0.2.1:11434", "504"]], host="edge"), "no answer in time", "read_timeout"),
    ("no-live-upstreams", "balancer api", put("logs", API, "lines", value=[[NOW - 9, "[error] 7#7: no live upstreams while connecting"]], host="edge"), "no instance alive", "replica"),
    ("body-too-large", "balancer api", put("edges", "api", "statuses", "413", value=2, host="edge"), "2 requests", "max_body"),
]  # fmt: skip


def test_a_healthy_fleet_has_none(planned: Plan) -> None:
    assert found(planned) == ()


@pytest.mark.parametrize(("kind", "about", "change", "word", "fix"), TABLE)
def test_one_thing_is_wrong(
    planned: Plan, kind: str, about: str, change: Change, word: str, fix: str
) -> None:
    findings = [one for one in found(planned, change) if one.kind == kind]
    assert findings, [one.kind for one in found(planned, change)]
    one = findings[0]
    assert one.about == about
    assert word in " ".join((one.what, *one.evidence))
    assert fix in one.fix
    assert one.evidence
    assert one.where is not None, "a line of the inventory"


@pytest.mark.parametrize(("kind", "about", "change", "word", "fix"), TABLE)
def test_one_thing_is_not_told_as_many(
    planned: Plan, kind: str, about: str, change: Change, word: str, fix: str
) -> None:
    besides = {"not-resident"} if word == "hold 6.4 GiB" else set()
    assert {one.kind for one in found(planned, change)} == {kind} | besides


def test_lines_of_the_inventory(planned: Plan) -> None:
    lines = {
        kind: next(o.where.line for o in found(planned, change) if o.kind == kind and o.where)
        for kind, _, change, _, _ in TABLE
    }
    assert lines["out-of-memory"] == lines["spilled"] == lines["not-resident"] == 4
    assert lines["card-hot"] == lines["version"] == lines["unreachable-member"] == 6
    assert lines["balancer-stale"] == lines["body-too-large"] == 9


def test_edits_and_clocks(planned: Plan) -> None:
    (one, two) = found(planned, edited=("/etc/ogen/current/x",))
    assert (one.kind, two.host) == ("edited", "edge")
    assert "/etc/ogen/current/x" in one.what
    assert {o.kind for o in found(planned, offset=-90.0)} == {"clock"}
    assert "90 s behind" in found(planned, offset=-90.0)[0].what
    assert found(planned, offset=5.0) == ()


def test_a_port_that_somebody_else_holds(planned: Plan) -> None:
    held = 'LISTEN 0 128 127.0.0.1:11434 0.0.0.0:* users:(("ollama",pid=7,fd=3))'
    down = both(put("units", GPU0, value=unit(active="failed")), put("listeners", value=[held]))
    kinds = {one.kind: one for one in found(planned, down)}
    assert set(kinds) == {"instance-down", "port-taken"}
    assert "held by ollama (pid 7)" in kinds["port-taken"].what


def test_room_for_others_is_what_they_have_and_what_they_take(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY.replace("count: 2", "count: 2, reserve: 1GiB"))
    planned = plan(load(path))
    assert found(planned, put(*ROW, "memory.used", value="7900")) == (), "within the reserve"
    (one,) = found(planned, put(*ROW, "memory.used", value="20000"))
    over, room = (float(n) for n in (one.what.split()[-5], one.fix.split()[-1].removesuffix("MiB")))
    assert room == pytest.approx(1024 + over * 1024, abs=60)


def test_old_variables(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY.replace("15}", "15, env: {OLLAMA_NEW_ENGINE: '1'}}"))
    kinds = {one.kind: one for one in found(plan(load(path)))}
    assert set(kinds) == {"variable-ignored"}
    assert "since Ollama 0.30" in kinds["variable-ignored"].what


@pytest.mark.parametrize(
    "change",
    [
        put("units", GPU0, value=unit(restarts=1, age=60)),
        put("cards", "apps", value=[{**APP, "used_memory": "300", "unit": "gdm.service"}]),
        put("edges", "api", "failed", value=[[NOW - 7190, "192.0.2.1:11434", "502"]], host="edge"),
        put("edges", "api", "failed", value=[[NOW - 9, "192.0.2.77:11434", "502"]], host="edge"),
        put("logs", API, "lines", value=[[NOW - 7190, "[error] no live upstreams"]], host="edge"),
        says("cudaMalloc failed: out of memory, retrying without pipeline parallelism"),
        says(GIN % 404, GIN % 499),
        both(
            put("units", GPU0, value=unit(age=3.0)),
            put("instances", "gpu0", value={"error": "connection refused"}),
        ),
        both(put("instances", "gpu0", "models", value=[]), says(LOAD[1])),
        put(*ROW, "memory.used", value="7300"),
        put("logs", GPU0, value={"start": [], "lines": [], "last": []}),
        both(put("idle", value=False), put("locked", value="ops@desk")),
    ],
)
def test_no_false_alarm(planned: Plan, change: Change) -> None:
    """Restarted once, a desktop's memory, failures of a start, a retry of the engine, a load under way."""
    assert found(planned, change) == ()


@pytest.mark.parametrize("value", [None, [], "x", 7, {"a": 1}, [["x"]], [None], {"gpu0": None}])
def test_words_of_a_wrong_shape_break_nothing(planned: Plan, value: Any) -> None:
    """A host may say anything; what it says wrongly counts as not said."""
    solo, _ = healthy()
    for key in solo:
        found(planned, put(key, value=value))
    for key in ("disk", "blobs", "lacking"):
        found(planned, put("store", key, value=value))
    for key in ("rows", "apps", "said"):
        found(planned, put("cards", key, value=value))


def test_an_instance_that_lets_in_others(planned: Plan) -> None:
    said = healthy()
    admission = {GPU0: "still admits 192.0.2.1, no balancer of the release in force"}
    looked = Comparison("solo", "abc", "abc", unchanged=False, files=(), admission=admission)
    seen = {
        "solo": host_seen("solo", json.loads(json.dumps(said[0])), looked),
        "edge": host_seen(
            "edge", json.loads(json.dumps(said[1])), Comparison("edge", "abc", "abc", True, ())
        ),
    }
    (one,) = diagnose(planned, seen)
    assert (one.kind, one.subject) == ("admission", "solo/gpu0")
    assert "still admits 192.0.2.1" in one.what
    assert "ogen apply" in one.fix


def test_the_page_of_findings_has_them_all() -> None:
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    told = [kind for cell in cells for kind in re.findall(r"`([a-z-]+)`", cell)]
    tested = {kind for kind, *_ in TABLE} | {"edited", "clock", "port-taken", "variable-ignored", "admission"}
    assert sorted(told) == sorted(tested)
    assert len(FINDERS) == len(set(FINDERS)) >= 20
