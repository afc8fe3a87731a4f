"""A healthy fleet's words, and a table of what is changed in them for each kind of finding."""

# ruff: noqa: E501 (lines of logs and of tables are kept whole)

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ogen.inventory import load
from ogen.observe.doctor import diagnose
from ogen.observe.evidence import HostSeen
from ogen.observe.finding import Finding
from ogen.observe.hearing import host_seen
from ogen.plan import plan
from ogen.plan.model import Plan
from ogen.push import Comparison, Seen

NOW = 1_800_000_000.0
BLOB = "sha256-" + "a" * 64
INVENTORY = """\
version: 1
ollama:
  version: 0.32.15
  models_dir: /var/lib/ollama/models
  first_port: 11434
  max_queue: 100
  load_timeout: 5m
models:
  chat:
    from: "llama3.1:8b-instruct-q4_K_M"
    context: 8192
    replicas: fill
    on: solo
    keep_alive: 24h
hosts:
  solo:
    address: 192.0.2.1
    gpus:
      - model: RTX 3090
        vram: 24GiB
        reserve: 0GiB
        state: in
      - model: RTX 3090
  edge: {address: 192.0.2.9}
balancers:
  api:
    hosts: [edge]
    listen: 8080
    strategy: least_conn
    read_timeout: 1h
    max_body: 64MiB
    client_options:
      max_context: plan
    gate:
      queue: 512
"""
CARD = 'time=x level=INFO source=types.go:32 msg="inference compute" id=0 library=CUDA name=CUDA0 pci_id=0000:0%d:00.0'
LOAD = [
    CARD,
    f'time=x level=INFO msg="starting llama-server" cmd="/x/llama-server --model /m/blobs/{BLOB} -c 8192"',
    "load_tensors: offloaded 33/33 layers to GPU",
    'time=x level=INFO msg="llama-server started in 3.21 seconds"',
]
STORE = 'time=x level=INFO source=routes.go:1 msg="server config" env="map[OLLAMA_MAX_QUEUE:100 OLLAMA_MODELS:%s OLLAMA_NOPRUNE:true]"'
SERVED = {"192.0.2.1:11434": 205, "192.0.2.1:11435": 195}
SHARE = {
    "pool": "pool_chat",
    "start": NOW - 3600,
    "end": NOW - 5,
    "served": SERVED,
    "clients": 3,
    "busy": 900.0,
}
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
                "start": log(STORE % f"/run/ogen-gpu{n}/models", LOAD[0] % (n + 1)),
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
            "elsewhere": {},
            "unmounted": "",
        },
        "servers": [],
        "peaks": {f"GPU-{n}": [NOW - 600, 6600 << 20] for n in (0, 1)},
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
        "edges": {
            "api": {
                "statuses": {"200": 900, "401": 3},
                "own": {"401": 3},
                "failed": [],
                "gone": [],
                "shares": [SHARE],
            }
        },
    }
    return copy.deepcopy(solo), copy.deepcopy(edge)


def planned_from(folder: Path, text: str = INVENTORY) -> Plan:
    (folder / "inventory.yaml").write_text(text)
    return plan(load(folder / "inventory.yaml"))


def found(planned: Plan, change: Change | None = None) -> tuple[Finding, ...]:
    return diagnose(planned, seen(change))


def seen(change: Change | None = None) -> dict[str, HostSeen]:
    """What the two hosts say; `comparison` and `offset` are what the controller has found out itself."""
    solo, edge = healthy()
    if change:
        change(solo, edge)
    hosts = {}
    for name, said in (("solo", solo), ("edge", edge)):
        compared, offset = said.pop("comparison", {}), said.pop("offset", 0.0)
        other = tuple(Seen(path, state) for path, state in compared.get("files", ()))
        comparison = Comparison(
            name, "abc", "abc", not compared, other, admission=compared.get("admission", {})
        )
        hosts[name] = host_seen(name, json.loads(json.dumps(said)), comparison, offset)
    return hosts


def put(*path: Any, value: Any, host: str = "solo") -> Change:
    """Sets one thing in what a host says."""

    def change(solo: Said, edge: Said) -> None:
        at: Any = solo if host == "solo" else edge
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return change


def files(path: str, state: str = "foreign") -> Change:
    def change(solo: Said, edge: Said) -> None:
        solo["comparison"] = {"files": [[path, state]]}

    return change


def admits(why: str) -> Change:
    def change(solo: Said, edge: Said) -> None:
        solo["comparison"] = {"admission": {GPU0: why}}

    return change


def off(seconds: float) -> Change:
    def change(solo: Said, edge: Said) -> None:
        solo["offset"] = seconds

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

ELSEWHERE = {
    "folder": "/var/lib/ollama/models",
    "lacking": [["gpu0", "chat:latest", BLOB]],
    "elsewhere": {"/home/me/.ollama/models": [BLOB]},
}
NOHUP = {"pid": 9, "port": 11500, "unit": "session-3.scope", "env": {"OLLAMA_HOST": "127.0.0.1:11500"}}
HELD = 'LISTEN 0 128 127.0.0.1:11434 0.0.0.0:* users:(("ollama",pid=7,fd=3))'
FREE = "llama_model_load_from_file_impl: using device CUDA0 (X) (0000:01:00.0) - 6700 MiB free"
EVICTING = 'msg="llama-server model predicted to exceed available memory, evicting" predicted="9 GiB"'

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
    ("drop-in", "", files("/etc/systemd/system/ogen-ollama-gpu0.service.d/mine.conf"), "changes ogen-ollama-gpu0.service", "systemctl cat"),
    ("edited", "", files("/etc/ogen/current/x", "edited"), "/etc/ogen/current/x", "ogen diff"),
    ("admission", "gpu0", admits("still admits 192.0.2.7"), "192.0.2.7", "ogen apply"),
    ("clock", "", off(-90.0), "90 s behind", "timedatectl"),
    ("wrong-store", "", put("store", value=ELSEWHERE), "chat:latest are in /home/me/.ollama/models", "models_dir"),
    ("wrong-store", "", put("store", "unmounted", value="/var/lib/ollama"), "/var/lib/ollama is not mounted", "mount"),
    ("wrong-store", "gpu0", put(*START, value=log(STORE % "/home/me/.ollama", LOAD[0] % 1)), "looks for models in /home/me/.ollama", "systemctl cat"),
    ("other-ollama", "", put("servers", value=[NOHUP]), "port 11500 (pid 9, session-3.scope): it sees every card", "kill 9"),
    ("port-taken", "gpu0", both(put("units", GPU0, value=unit(active="failed")), put("listeners", value=[HELD])), "held by ollama (pid 7)", "instances:"),
    ("memory-moves", "card 0", put("peaks", "GPU-0", value=[NOW - 600, 20000 << 20]), "20000 MiB used", "reserve:"),
    ("spilled", "gpu0", says(LOAD[1], LOAD[2], "load_tensors:   CPU_Mapped model buffer size =  9000.00 MiB"), "8.8 GiB of its weights", "next concession"),
    ("out-of-memory", "gpu0", says(LOAD[1], FREE, "cudaMalloc failed: out of memory"), "6.5 GiB were free on the cards nvidia-smi now: card 0: 6600 of 24576 MiB", "fits in the 6.5 GiB that were free"),
    ("load-timeout", "gpu0", says('level=ERROR msg="error loading llama server" error="timed out waiting for llama-server to start"'), "given up", "load_timeout"),
    ("reloads", "gpu0", says(*[LOAD[1].replace("8192", str(n)) for n in (8192, 4096) * 2]), "5 times", "contexts (4096, 8192)"),
    ("reloads", "gpu0", says(LOAD[1], EVICTING, LOAD[1], EVICTING, LOAD[1]), "evicting", "card of its own"),
    ("reloads", "gpu0", says(*[LOAD[1]] * 4), "5 times", "keep_alive"),
    ("client-timeout", "balancer api", put("edges", "api", "gone", value=[*[[NOW - n, 60.0 + n / 50] for n in range(6)], *[[NOW, 9.0 * n] for n in range(9)]], host="edge"), "6 clients left after 60 s", "60 s"),
    ("queue-full", "balancer api", put("edges", "api", "own", "503", value=7, host="edge"), "7 requests", "replicas"),
    ("card-idle", "balancer api", put("edges", "api", "shares", 0, "served", value={"192.0.2.1:11434": 398, "192.0.2.1:11435": 2}, host="edge"), "solo/gpu1 served 2 of the last 400", "ogen restart"),
    ("runner-hangs", "balancer api", put("edges", "api", "silent", value=[["", "192.0.2.1:11434", 3, NOW - 200, NOW - 20]], host="edge"), "solo/gpu0 answers the probes, but none of the last 3 requests", "ogen restart"),
    ("runner-hangs", "balancer api", both(put(*ROW, "utilization.gpu", value="100"), put("edges", "api", "silent", value=[["", "192.0.2.1:11434", 9, NOW - 900, NOW - 20]], host="edge")), "none of the last 9", "dmesg"),
    ("upstream-timeout", "balancer api", put("edges", "api", "failed", value=[[NOW - 9, "192.0.2.1:11434", "504"]], host="edge"), "no answer in time", "read_timeout"),
    ("no-live-upstreams", "balancer api", put("logs", API, "lines", value=[[NOW - 9, "[error] 7#7: no live upstreams while connecting"]], host="edge"), "no instance alive", "replica"),
    ("body-too-large", "balancer api", put("edges", "api", "statuses", "413", value=2, host="edge"), "2 requests", "max_body"),
]  # fmt: skip
