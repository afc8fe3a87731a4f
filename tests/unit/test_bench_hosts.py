"""What hosts tell while load runs, from made-up agents: shares, cards, and hosts that are lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ogen.errors import ConnectError, RemoteError
from ogen.inventory import load
from ogen.inventory.model import Host
from ogen.observe import bench_hosts
from ogen.observe.bench_hosts import Hosts
from ogen.plan import plan

INVENTORY = """\
version: 1
models:
  chat: {from: "llama3.1:8b-instruct-q4_K_M", context: 8192, replicas: fill}
hosts:
  solo: {address: 192.0.2.1, gpus: [{model: RTX 3090, count: 2}]}
  edge: {address: 192.0.2.9}
balancers:
  api: {hosts: [edge], listen: 8080}
"""
PATH = "/api/generate"
ROW = {"index": "0", "uuid": "GPU-0", "name": "RTX", "memory.total": "24576", "memory.used": "6144"}


class Agent:
    """Answers as hosts do; `logged` is what the balancer has logged since the mark."""

    def __init__(self, host: Host, options: object) -> None:
        self.host = host

    busy = ("50", "100")
    logged: ClassVar[list[list[Any]]] = []
    lost: ClassVar[set[str]] = set()
    dies: ClassVar[set[str]] = set()  # hosts that are lost at the second question
    asked: ClassVar[list[tuple[str, Mapping[str, Any]]]] = []

    def ask(self, message: Mapping[str, Any]) -> Any:
        name, load = self.host.name, message["load"]
        self.asked.append((name, load))
        if name in self.dies and load:
            raise RemoteError("the agent is gone", host=name)
        seen: dict[str, Any] = {"live": True}
        if load.get("cards"):
            number = sum(who == name and "cards" in one for who, one in self.asked) - 1
            seen["cards"] = {"rows": [ROW | {"utilization.gpu": self.busy[number % len(self.busy)]}]}
        for balancer, mark in (load.get("served") or {}).items():
            rows = self.logged if mark else []
            seen["served"] = {balancer: {"mark": [1, 2], "rows": rows, "whole": True}}
        return [{"seen": seen}]


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    @contextmanager
    def contact(host: Host, options: object) -> Iterator[Agent]:
        if host.name in Agent.lost:
            raise ConnectError("no route to host", host=host.name)
        yield Agent(host, options)

    monkeypatch.setattr(bench_hosts, "contact", contact)
    monkeypatch.setattr(bench_hosts, "EVERY", 0.01)
    monkeypatch.setattr(bench_hosts, "PATIENCE", 0.4)
    for name, value in (("asked", []), ("logged", []), ("lost", set()), ("dies", set())):
        monkeypatch.setattr(Agent, name, value)
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)
    planned = plan(load(path))
    solo, edge = (planned.host(name).host for name in ("solo", "edge"))
    from ogen.push import Keyring, Options

    options = Options(keyring=Keyring(folder=str(tmp_path), reveal=lambda secret: ""), who="test")
    return Hosts(planned, "api", [edge], [solo], options)


def until_looked(times: int) -> None:
    import time

    end = time.monotonic() + 30
    while sum("cards" in load for _, load in Agent.asked) < times:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_shares_and_cards_of_a_run(hosts: Hosts) -> None:
    Agent.logged = [
        ["10.0.0.9", PATH, "200", "192.0.2.1:11434", 6],
        ["10.0.0.9", PATH, "200", "192.0.2.1:11435", 3],
        ["10.0.0.9", PATH, "200", "192.0.2.77:1", 1],
        ["torn"],
    ]
    with hosts:
        hosts.begin()
        until_looked(4)
        shares, cards = hosts.end(PATH, {"10.0.0.9"}, 10)
    assert shares.by_instance == {"192.0.2.77:1": 1, "solo/gpu0": 6, "solo/gpu1": 3}
    assert (shares.remarks, hosts.errors) == ((), [])
    (card,) = cards
    assert (card.host, card.busy_most, card.used_most, card.total) == ("solo", 100, 6 << 30, 24 << 30)
    assert card.busy == pytest.approx(75, abs=10)
    assert card.looks >= 4


def test_each_run_begins_anew(hosts: Hosts) -> None:
    with hosts:
        for _ in range(2):
            hosts.begin()
            until_looked(2)
            _, (card,) = hosts.end(PATH, set(), 0)
            assert card.looks < len(Agent.asked)
            Agent.asked.clear()


def test_lines_that_do_not_come_are_waited_for_a_while_and_told(hosts: Hosts) -> None:
    Agent.logged = [["10.0.0.9", PATH, "200", "192.0.2.1:11434", 6]]
    with hosts:
        hosts.begin()
        shares, _ = hosts.end(PATH, {"10.0.0.9"}, 8)
    assert shares.remarks == ("the balancer's log has 6 of 8 requests",)
    assert sum("served" in load for _, load in Agent.asked) >= 3


def test_hosts_that_are_away_or_lost_are_told_once_and_left_out(hosts: Hosts) -> None:
    Agent.lost = {"edge"}
    Agent.dies = {"solo"}
    with hosts:
        hosts.begin()
        until_looked(1)
        shares, cards = hosts.end(PATH, set(), 5)
        hosts.begin()
        again = hosts.end(PATH, set(), 5)
    assert (shares.by_instance, cards) == ({}, ())
    assert again[1] == ()
    assert sorted(error.host or "" for error in hosts.errors) == ["edge", "solo"]
