"""The monitor's figures of queues: what a front says, under the names that Prometheus reads."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from typing import Any

import pytest
from test_render_scripts import TEMPLATES

from ogen import shipped
from ogen.inventory import load
from ogen.plan import plan
from ogen.render import render

TOLD: dict[str, Any] = {
    "pools": {
        'c"at': {
            "waiting": 3,
            "delayed": 1,
            "running": 2,
            "dead": 4,
            "length": 100,
            "oldest_s": 7.5,
            "closed": False,
            "workers": {"gpu1/gpu0": 1.0, "gpu1/gpu1": 30.0},
            "counts": {"submitted": 12, "done": 5, "busy_ms": 61500},
        }
    },
    "memory": {"used_bytes": 1 << 20, "most_bytes": 256 << 20},
}


@pytest.fixture
def monitor() -> Any:
    spec = importlib.util.spec_from_file_location("monitor_script", TEMPLATES / "monitor.py")
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@contextmanager
def front(path: Path, told: object, status: int = 200) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = json.dumps(told).encode()
            self.send_response(status if self.path == "/admin/status" else 404)
            self.end_headers()
            self.wfile.write(data)

        def address_string(self) -> str:
            return "monitor"

        def log_message(self, *args: object) -> None:
            pass

    with UnixStreamServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield
        server.shutdown()
        thread.join()


def written(monitor: Any, folder: Path, told: object = TOLD, status: int = 200) -> str:
    """The textfile of one round."""
    socket = folder / "s"
    queues = [{"name": "jobs", "socket": str(socket)}]
    config = {"cards": False, "instances": [], "csv": str(folder), "prom": f"{folder}/ogen.prom"}
    with front(socket, told, status):
        monitor.Monitor({**config, "queues": queues}).round(1_800_000_000.0)
    return (folder / "ogen.prom").read_text()


def test_each_figure_is_there_and_promtool_takes_them(
    tmp_path: Path, monitor: Any, need: Callable[[str], str]
) -> None:
    text = written(monitor, tmp_path)
    pool = 'model="c\\"at",queue="jobs"'
    for line in (
        'ogen_queue_up{queue="jobs"} 1',
        f'ogen_queue_jobs{{{pool},state="waiting"}} 3',
        f'ogen_queue_jobs{{{pool},state="dead"}} 4',
        f"ogen_queue_places{{{pool}}} 100",
        f"ogen_queue_oldest_seconds{{{pool}}} 7.5",
        f"ogen_queue_workers{{{pool}}} 1",
        f'ogen_queue_jobs_total{{{pool},what="done"}} 5',
        f'ogen_queue_jobs_total{{{pool},what="failed"}} 0',
        f"ogen_queue_busy_seconds_total{{{pool}}} 61.5",
        'ogen_queue_redis_memory_used_bytes{queue="jobs"} 1048576',
        'ogen_queue_redis_memory_max_bytes{queue="jobs"} 268435456',
        "ogen_monitor_last_run_timestamp_seconds 1800000000",
    ):
        assert line in text.splitlines(), text
    assert "ogen_gpu_driver_up" not in text, "a host without cards has no driver that could be down"
    with (tmp_path / "ogen.prom").open() as file:
        done = subprocess.run(
            [need("promtool"), "check", "metrics"], stdin=file, capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("told", "status", "why"),
    [
        ({"error": "the queue's Redis does not answer"}, 503, "HTTP 503"),
        ({}, 200, "memory"),
        ({**TOLD, "pools": {"chat": {"waiting": "many"}}}, 200, "invalid literal"),
        ({**TOLD, "pools": []}, 200, "items"),
    ],
)
def test_a_front_of_no_use_is_down_and_told_once(
    tmp_path: Path, monitor: Any, capsys: pytest.CaptureFixture[str], told: object, status: int, why: str
) -> None:
    text = written(monitor, tmp_path, told, status)
    assert 'ogen_queue_up{queue="jobs"} 0' in text.splitlines()
    assert "ogen_queue_jobs" not in text
    assert why in capsys.readouterr().out


def test_a_front_that_is_not_there_is_down(tmp_path: Path, monitor: Any) -> None:
    (state,) = monitor.read_queues([{"name": "jobs", "socket": str(tmp_path / "none")}])
    assert (state["up"], state["why"]) == (False, "No such file or directory")


def test_a_host_of_a_front_has_a_monitor_and_others_know_nothing_of_it() -> None:
    made = {one.host: one for one in render(plan(load(shipped.folder("inventories") / "queue.yaml")))}
    configs = {
        host: json.loads(file.content)
        for host, one in made.items()
        for file in one.files
        if file.path.endswith("/monitor.json")
    }
    socket = "/run/ogen-queue-front-jobs/front.sock"
    assert configs["edge"]["queues"] == [{"name": "jobs", "socket": socket}]
    assert configs["edge"]["cards"] is False
    assert "queues" not in configs["gpu1"]
    assert "ogen-monitor.service" in [unit.name for unit in made["edge"].units]
