"""A rollout over boxes in which one host fails: who is started, what the balancer lists, and how it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cluster import Project, load
from lab import lab

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(600)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: key}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: {context}, on: boxes}}
groups:
  boxes: {{hosts: [gpu1, gpu2, gpu3], gpus: [{{model: RTX 3090}}]}}
hosts:
  gpu1: {{address: {gpu1}}}
  gpu2: {{address: {gpu2}}}
  gpu3: {{address: {gpu3}}}
  edge: {{address: {edge}}}
balancers:
  api: {{hosts: [edge], listen: 8080}}
rollout: {{batches: [1], max_fail: 0}}
"""
FAULT = "/etc/testbed/ollama.d/11434.fault"  # of the instance alone, not of the librarian


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with lab("rollout") as made:
        made.up("gpu1", "gpu2", "gpu3", gpus="24576", ollama=True)
        made.up("edge", gpus="none")
        names = ("gpu1", "gpu2", "gpu3", "edge")
        project = Project(made, tmp_path_factory.mktemp("project"), boxes=names)
        project.write(INVENTORY, context=8192)
        project.ogen("provision")
        yield project


def applied(project: Project, *args: str, code: int) -> dict[str, dict[str, Any]]:
    found = json.loads(project.ogen("apply", "--format", "json", *args, code=code).stdout)
    return {row["host"]: row for row in found["hosts"]}


def served(project: Project) -> int:
    """How many instances answer through the balancer, without one failed request."""
    time.sleep(0.1)
    answers = load(f"http://{project.lab.address('edge')}:8080", 18)
    assert not answers.failed
    return len(answers.served)


def test_the_balancer_lists_what_is_in_force_and_the_rest_is_resumed(boxes: Project) -> None:
    boxes.lab.sh("gpu2", f"mkdir -p /etc/testbed/ollama.d; echo refuse >{FAULT}")
    rows = applied(boxes, code=6)
    assert {name: row["status"] for name, row in rows.items()} == {
        "gpu1": "applied",
        "gpu2": "rolled_back",
        "gpu3": "not_started",
        "edge": "applied",
    }
    assert rows["edge"]["without"] == ["gpu2/gpu0", "gpu3/gpu0"]
    assert boxes.lab.sh("gpu3", "ls /etc/ogen/current 2>/dev/null || echo none").strip() == "none"
    assert served(boxes) == 1

    boxes.lab.sh("gpu2", f"rm {FAULT}")
    assert set(applied(boxes, "--failed", code=0)) == {"gpu2", "gpu3", "edge"}
    assert served(boxes) == 3
    boxes.ogen("diff", code=0)
