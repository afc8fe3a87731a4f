"""bench, status and logs on one real box: the balancer's own log and the cards say what load was."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import pytest
from cluster import Commands, Project
from lab import lab

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(300)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: {key}}}
ollama: {{version: 0.32.15}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: 8192, replicas: fill}}
hosts:
  solo: {{address: {solo}, gpus: [{{model: RTX 3090, count: 2}}]}}
balancers:
  api: {{hosts: [solo], listen: 8080, routing: single, pool: chat}}
"""
BARE = """
apt-get -qq update
apt-get -qq -y install nginx >/dev/null
systemctl -q disable --now nginx
useradd --system --create-home --home-dir /usr/share/ollama --shell /bin/false ollama
install -d -o ollama -g ollama /var/lib/ollama /var/lib/ollama/models /var/lib/ollama/models/blobs
printf '24576:5000:77:41:180\\n24576:6000:33' >/etc/testbed/gpus
"""
LAB = os.environ.get("TESTBED_LAB", "bench")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Two cards, one balancer without a router: nothing but nginx is installed."""
    with lab(LAB) as made:
        made.up("solo", gpus="24576,24576", ollama=True)
        made.sh("solo", BARE, timeout=300)
        found = Commands(made, tmp_path_factory.mktemp("bench"), ("solo",))
        found.write(INVENTORY)
        found.ogen("apply", "--yes")
        yield found


def test_load_through_the_balancer_is_shared_and_seen(box: Project) -> None:
    ask = ("--concurrency", "4", "--requests", "60", "--tokens", "8", "--warmup", "4")
    said: dict[str, Any] = json.loads(box.ogen("bench", *ask, "-o", "a.json", "--format", "json").stdout)
    (step,) = said["steps"]
    assert (step["requests"], step["failed"], said["errors"]) == (60, 0, [])
    shares = step["shares"]
    assert set(shares["by_instance"]) == {"solo/gpu0", "solo/gpu1"}
    assert (sum(shares["by_instance"].values()), shares["others"], shares["remarks"]) == (60, 0, [])
    logged = box.lab.sh("solo", "cat /var/log/ogen/balancer-api.log").splitlines()
    rows = [row for row in map(json.loads, logged) if row["uri"] == "/api/generate"]
    assert len(rows) == 64, "the warm-up is logged, and not counted"
    assert step["latency"]["p50"]["value"] < 1
    page = box.ogen("bench", *ask[:2], *ask[4:], "--duration", "2s", "--against", "a.json", code=None)
    assert page.returncode in (0, 2), page.stderr
    assert "solo card 0  busy  77 % (most 77)   VRAM 4.9 of 24.0 GiB" in page.stdout
    assert "solo/gpu1" in page.stdout
    assert "B by A" in page.stdout


def test_status_tells_the_requests_under_way_and_logs_go_on(box: Project) -> None:
    following = box.start("logs", "-f", "-n", "3")
    load = box.start("bench", "--no-hosts", "--concurrency", "5", "--duration", "1m")
    assert following.stdout
    assert load.stderr
    while "5 at once" not in load.stderr.readline():
        pass
    end, seen = time.monotonic() + 60, 0
    while seen != 5 and time.monotonic() < end:
        said = json.loads(box.ogen("status", "--format", "json").stdout)
        seen = said["hosts"][0]["balancers"][0]["running"]
    assert seen == 5
    load.send_signal(signal.SIGINT)
    told, _ = load.communicate(timeout=30)
    assert load.returncode == 130
    assert "5 at once: " in told, "what was measured so far"
    box.lab.sh("solo", "curl -s http://127.0.0.1:11435/api/steer%1b%5b31m/me", check=False)
    late = threading.Timer(60, following.kill)
    late.start()
    shown = list(takewhile(lambda line: "/api/steer" not in line, following.stdout))
    late.cancel()
    assert shown
    assert "\x1b" not in "".join(shown)
    following.send_signal(signal.SIGINT)
    assert following.wait(timeout=10) == 130
    page = box.ogen("status").stdout
    assert "2 of 2 instances up, 0 requests under way" in page
    assert " in force  0 under way" in page


def test_a_host_that_is_away_does_not_keep_load_from_being_measured(box: Project) -> None:
    away = "  gone: {{address: 127.0.0.1, ssh: {{port: 1}}, gpus: [{{model: RTX 3090}}]}}\nbalancers:"
    box.write(INVENTORY.replace("balancers:", away))
    done = box.ogen("bench", "--requests", "20", "--tokens", "4", code=4)
    assert "20 answered, 0 failed" in done.stdout
    assert "gone: " in done.stderr
    box.write(INVENTORY)
