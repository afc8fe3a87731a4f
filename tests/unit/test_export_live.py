"""The exported files in a real Prometheus, which scrapes a real node_exporter with the monitor's textfile."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rendering import Backend, backends, free_port, text_of

from ogen import shipped
from ogen.cli.app import ogen
from ogen.inventory import load
from ogen.plan import plan
from ogen.render import render

TESTBED = Path(__file__).parents[1] / "testbed"
MONITOR = shipped.folder("templates") / "monitor.py"
GIB = 2**30
PATIENCE = 25.0


class Ollama(Backend):
    """An instance with one model, a third of it in host memory."""

    def answer(self, request: Any) -> None:
        model = {"name": "chat:latest", "size": 6 * GIB, "size_vram": 4 * GIB}
        self.send(request, {"models": [model]} if request.path == "/api/ps" else {"version": "0.32.15"})


@contextmanager
def program(log: Path, *command: str | Path, **env: str) -> Iterator[None]:
    """Runs it until the block ends; what it said is told when the block fails."""
    with log.open("wb") as said:
        process = subprocess.Popen(
            [str(word) for word in command], env={**os.environ, **env}, stdout=said, stderr=said
        )
    try:
        yield
    except BaseException:
        print(log.name, log.read_text(errors="replace")[-3000:], sep=":\n")
        raise
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def inventory(folder: Path, port: int) -> Path:
    path = folder / "inventory.yaml"
    path.write_text(f"""\
version: 1
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: 8192}}
ollama: {{first_port: {port}}}
hosts:
  box:
    address: 127.0.0.1
    gpus: [{{model: RTX 3090}}]
    monitoring: {{interval: 1s, textfile_dir: {folder}/textfiles}}
balancers:
  api: {{hosts: [box], listen: 8080}}
""")
    (folder / "textfiles").mkdir()
    return path


def monitor_settings(path: Path, folder: Path) -> Path:
    """What ogen renders for the host, but for the folder of the CSV files."""
    (release,) = render(plan(load(path)))
    settings = json.loads(text_of(release, "/etc/ogen/current/monitor.json"))
    (folder / "monitor.json").write_text(json.dumps({**settings, "csv": str(folder)}))
    return folder / "monitor.json"


def hurried(folder: Path) -> Path:
    """The exported configuration, with a second where it has 15."""
    config = folder / "prometheus.yml"
    text, changes = re.subn(r"(?<=interval: )15s", "1s", config.read_text())
    assert changes == 2
    config.write_text(text)
    return config


def ask(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=5) as reply:
        return json.loads(reply.read())["data"]


def value(port: int, expr: str) -> float | None:
    """The one sample of `expr`; None while there is none, or nobody answers."""
    try:
        found = ask(port, "query?" + urllib.parse.urlencode({"query": expr}))["result"]
    except OSError:
        return None
    return float(found[0]["value"][1]) if found else None


def awaited(what: Callable[[], Any], wanted: Any) -> None:
    """Until `what()` is `wanted`, for as long as a test has."""
    end, seen = time.monotonic() + PATIENCE, None
    while time.monotonic() < end:
        seen = what()
        if seen == wanted:
            return
        time.sleep(0.1)
    pytest.fail(f"{seen!r} instead of {wanted!r} after {PATIENCE:.0f} s")


def test_a_real_prometheus_records_what_the_monitor_sees(tmp_path: Path, need) -> None:
    node, web, one = free_port(), free_port(), Ollama("one")
    exporter, server = need("prometheus-node-exporter"), need("prometheus")
    with ExitStack() as running:
        stand_in = running.enter_context(ExitStack())
        stand_in.enter_context(backends(one))
        path = inventory(tmp_path, one.port)
        args = ["export", "prometheus", str(path), "-o", str(tmp_path / "out"), "--node-port", str(node)]
        assert CliRunner().invoke(ogen, args).exit_code == 0
        monitor = [sys.executable, "-I", MONITOR, monitor_settings(path, tmp_path)]
        cards = {"PATH": f"{TESTBED}:/usr/bin:/bin", "FAKE_NVML_GPUS": "24576:12288:35:61:210"}
        running.enter_context(program(tmp_path / "monitor.log", *monitor, **cards))
        textfiles = f"--collector.textfile.directory={tmp_path}/textfiles"
        only = ("--collector.disable-defaults", "--collector.textfile")
        listen = f"--web.listen-address=127.0.0.1:{node}"
        running.enter_context(program(tmp_path / "node.log", exporter, *only, textfiles, listen))
        config = f"--config.file={hurried(tmp_path / 'out')}"
        store = f"--storage.tsdb.path={tmp_path}/tsdb"
        listen = f"--web.listen-address=127.0.0.1:{web}"
        running.enter_context(program(tmp_path / "prometheus.log", server, config, store, listen))

        awaited(lambda: value(web, 'ogen:gpu_memory_used:ratio{host="box",gpu="0"}'), 0.5)
        awaited(lambda: value(web, 'ogen:pool_instances_up:count{pool="chat"}'), 1.0)
        assert value(web, 'ogen:gpu_temperature:celsius{host="box"}') == 61
        assert value(web, 'ogen:gpu_power:watts{host="box"}') == 210
        assert value(web, 'round(ogen:model_spilled:ratio{model="chat:latest"}, 0.01)') == 0.33
        assert value(web, "ogen:gpus_up:count - ogen:gpus_planned:count") == 0
        rules = [rule for group in ask(web, "rules")["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}, "none fails at evaluation"

        stand_in.close()
        awaited(lambda: value(web, 'ogen:instance_up:bool{host="box"}'), 0.0)
        awaited(lambda: value(web, 'ALERTS{alertname="OgenPoolDown",pool="chat"}'), 1.0)
