"""What doctor finds in queues: each thing provoked by changing one number of a healthy one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ogen.inventory import load
from ogen.observe.doctor import diagnose
from ogen.observe.fleet import HostRow, QueueRow, rows
from ogen.observe.hearing import host_seen
from ogen.observe.view_status import text
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
        (("pools", "chat", "delayed"), 77, "queue-near-full"),  # those that pause take places too
        (("pools", "chat", "oldest_s"), 601.0, "queue-slow"),
        (("pools", "chat", "workers"), {"gpu1/gpu0": 31.0}, "queue-no-worker"),
        (("pools", "chat", "workers"), "nonsense", "queue-no-worker"),
        (("memory", "used_bytes"), 180 << 20, "queue-memory"),
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


# ------------------------------------------------------------------------------------------- status
def screen(folder: Path, **said: dict[str, Any]) -> str:
    path = folder / "inventory.yaml"
    path.write_text(INVENTORY)
    planned = plan(load(path))
    seen = {name: host_seen(name, {"live": True, **one}, SAME) for name, one in said.items()}
    return text(rows(planned, seen), title="x")


def test_status_has_a_queue_in_a_line(tmp_path: Path) -> None:
    said = healthy()
    said["pools"]["chat"]["delayed"] = 2
    page = screen(tmp_path, edge={"queues": {"jobs": said}}, more={"queues": {"jobs": healthy()}})
    line = "  queue jobs           5 waiting, 1 running  0 dead  1 of 2 workers  Redis 1 of 256 MiB"
    assert [one for one in page.splitlines() if "queue" in one] == [line]
    said["pools"]["chat"].update(dead=3, closed=True)
    said["pools"]["chat"]["waiting"] = float("inf")
    said["memory"]["most_bytes"] = 0
    page = screen(tmp_path, edge={"queues": {"jobs": said}})
    assert "3 dead  1 of 2 workers  Redis 1 MiB  drained: takes no jobs" in page


def test_status_asks_the_front_that_answers(tmp_path: Path) -> None:
    away = {"queues": {"jobs": {"error": "no Redis \x1b[31m"}}}
    page = screen(tmp_path, edge=away, more={"queues": {"jobs": healthy()}})
    assert page.index("more") < page.index("queue jobs           3 waiting")
    page = screen(tmp_path, edge=away, more={})
    assert "queue jobs           does not answer: no Redis" in page
    assert "\x1b" not in page


def test_a_queue_that_asks_for_a_look_is_not_folded(tmp_path: Path) -> None:
    assert QueueRow("jobs", workers=2, planned=2).well
    for row in (
        QueueRow("jobs", error="x"),
        QueueRow("jobs", dead=1),
        QueueRow("jobs", workers=1, planned=2),
        QueueRow("jobs", drained=True),
    ):
        assert not HostRow("edge", queues=(row,)).well
    assert "queue jobs 0 waiting, 0 running" in text(
        [HostRow("e", queues=(QueueRow("jobs"),))], title="x", fold=True
    )
