"""What doctor finds in queues: each thing provoked by changing one number of a healthy one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ogen.inventory import load
from ogen.observe.doctor import diagnose
from ogen.observe.hearing import host_seen
from ogen.plan import plan
from ogen.push import Comparison

INVENTORY = """\
version: 1
models:
  chat: {from: "llama3.1:8b-instruct-q4_K_M", context: 8192, on: gpu1}
hosts:
  gpu1: {address: 192.0.2.1, gpus: [{model: RTX 3090, count: 2}]}
  edge: {address: 192.0.2.9}
  more: {address: 192.0.2.10}
balancers:
  api: {hosts: [edge, more], listen: 8080}
queues:
  jobs: {redis: {url: !env URL}, balancers: [api], length: 100}
"""


SAME = Comparison("edge", "abc", "abc", True, ())


def healthy() -> dict[str, Any]:
    pool = {
        "waiting": 3,
        "delayed": 0,
        "running": 1,
        "dead": 0,
        "length": 100,
        "oldest_s": 1.0,
        "closed": False,
    }
    pool["workers"] = {"gpu1/gpu0": 1.0, "gpu1/gpu1": 900.0}
    return {"pools": {"chat": pool}, "memory": {"used_bytes": 1 << 20, "most_bytes": 256 << 20}}


def kinds(folder: Path, said: dict[str, Any]) -> list[str]:
    path = folder / "inventory.yaml"
    path.write_text(INVENTORY)
    planned = plan(load(path))
    seen = {
        name: host_seen(name, {"live": True, "queues": queues}, SAME)
        for name, queues in (("edge", {"jobs": said}), ("more", {"jobs": healthy()}))
    }
    return [one.kind for one in diagnose(planned, seen) if one.about == "queue jobs"]


@pytest.mark.parametrize(
    ("place", "value", "kind"),
    [
        (("pools", "chat", "dead"), 2, "queue-dead"),
        (("pools", "chat", "waiting"), 80, "queue-near-full"),
        (("pools", "chat", "oldest_s"), 601.0, "queue-slow"),
        (("pools", "chat", "workers"), {"gpu1/gpu0": 31.0}, "queue-no-worker"),
        (("pools", "chat", "workers"), "nonsense", "queue-no-worker"),
        (("memory", "used_bytes"), 250 << 20, "queue-memory"),
        (("error",), "Redis does not answer", "queue-down"),
    ],
)
def test_what_is_found(tmp_path: Path, place: tuple[str, ...], value: object, kind: str) -> None:
    said = healthy()
    assert kinds(tmp_path, said) == []
    inner = said
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    assert kinds(tmp_path, said) == [kind]


def test_a_front_that_is_not_there_is_found(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)
    seen = {"edge": host_seen("edge", {"live": True}, SAME)}
    assert "queue-down" in [one.kind for one in diagnose(plan(load(path)), seen)]
