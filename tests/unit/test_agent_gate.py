"""The gate: who holds a connection, and what happens when nobody answers for the balancers."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ogen.agent import gate
from ogen.agent.disk import Disk
from ogen.agent.errors import AgentError, Unproven
from ogen.agent.gate import Gate, Grant, Lost

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:2CAA 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0B02A8C0:2CAA 0A02A8C0:C001 01 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0B02A8C0:2CAA 0A02A8C0:C002 06 00000000:00000000 00:00000000 00000000     0        0 3
   3: 0B02A8C0:C003 0A02A8C0:2CAA 01 00000000:00000000 00:00000000 00000000     0        0 4
"""
PROOFS = [{"instance": "gpu0", "port": 11434}, {"instance": "gpu1", "port": 11435}]


class Machine:
    """A clock that moves only while somebody waits."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def wait(self, seconds: float) -> None:
        self.time += seconds


def test_established_connections_to_a_port() -> None:
    assert gate.established(TABLE, 11434) == ["192.168.2.10"]
    assert gate.established(TABLE, 11435) == []


def test_connections_of_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert gate.connections(port) == []
        with socket.create_connection(("127.0.0.1", port)):
            assert gate.connections(port) == ["127.0.0.1"]


def opened(monkeypatch: pytest.MonkeyPatch, machine: Machine, until: float) -> None:
    """Ports are busy until a time."""
    monkeypatch.setattr(gate, "connections", lambda _: ["192.0.2.1"] if machine.time < until else [])


def test_an_open_gate_asks_nobody() -> None:
    assert Gate(Machine(), None, 1.0).admit(PROOFS, "restart") == ["gpu0", "gpu1"]  # type: ignore[arg-type]


def test_only_what_is_granted_and_idle_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    opened(monkeypatch, machine, 7.0)
    door = Gate(machine, lambda proofs, why: Grant(["gpu1"], machine.now() + 30), 60.0)  # type: ignore[arg-type]
    assert door.admit(PROOFS, "restart") == ["gpu1"]
    assert machine.time >= 8.0, "idle for a second"


def test_workers_of_a_queue_rest_before_it_is_looked_who_is_served(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gate, "WORKERS", str(tmp_path / "ogen-queue-worker-*-%s.service"))
    for name in ("gpu0", "gpu1"):
        (tmp_path / f"ogen-queue-worker-jobs-{name}.service").touch()
    machine, ordered = Machine(), []
    machine.run = ordered.append  # type: ignore[attr-defined]
    worker = "ogen-queue-worker-jobs-gpu1.service"
    monkeypatch.setattr(gate, "connections", lambda _: [] if ordered else ["127.0.0.1"])
    door = Gate(machine, lambda proofs, why: Grant(["gpu1"], machine.now() + 30), 60.0)  # type: ignore[arg-type]
    assert door.admit(PROOFS, "restart") == ["gpu1"]
    assert ordered == [["systemctl", "stop", "--no-block", "--", worker]]
    monkeypatch.setattr(gate, "connections", lambda _: ["127.0.0.1"])
    with pytest.raises(Unproven):
        door.admit(PROOFS, "restart")
    assert ordered[-1] == ["systemctl", "start", "--no-block", "--", worker], "it works again"


def test_a_grant_that_runs_out_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, asked = Machine(), []

    def ask(proofs: object, why: str) -> Grant:
        asked.append(machine.time)
        return Grant(["gpu0"], machine.time + 30)

    opened(monkeypatch, machine, 70.0)
    assert Gate(machine, ask, 600.0).admit(PROOFS, "restart") == ["gpu0"]  # type: ignore[arg-type]
    assert len(asked) == 3


def test_one_that_never_becomes_idle_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    opened(monkeypatch, machine, 1e9)
    door = Gate(machine, lambda proofs, why: Grant(["gpu0"], machine.now() + 30), 100.0)  # type: ignore[arg-type]
    with pytest.raises(Unproven, match=r"after 100 s there still are connections to gpu0 \(192.0.2.1\)"):
        door.admit(PROOFS, "restart")


def test_without_the_controller_nothing_goes_down_unless_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    opened(monkeypatch, machine, 1e9)
    door = Gate(machine, gate.closed, 600.0)  # type: ignore[arg-type]
    with pytest.raises(Lost):
        door.admit(PROOFS, "restart")
    assert door.admit(PROOFS, "stop", must=True) == ["gpu0", "gpu1"]
    assert machine.time == pytest.approx(gate.LAST, abs=1.0)


@pytest.mark.parametrize(
    "error", [AgentError("no lease"), Unproven("refused"), OSError("full"), Lost("gone")]
)
def test_on_the_way_back_they_go_down_one_by_one_whatever_the_answer(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    machine = Machine()
    opened(monkeypatch, machine, 0.0)

    def ask(proofs: object, why: str) -> Grant:
        raise error

    door = Gate(machine, ask, 600.0)  # type: ignore[arg-type]
    assert door.admit(PROOFS, "restart", must=True) == ["gpu0"]
    assert door.admit(PROOFS, "stop", must=True) == ["gpu0", "gpu1"]
    with pytest.raises(type(error)):
        door.admit(PROOFS, "restart")


def test_a_session_that_is_gone_is_noticed(tmp_path: Path) -> None:
    disk, machine, said = Disk(str(tmp_path)), Machine(), list[object]()
    disk.folder("/run/ogen")
    disk.folder("/etc/ogen")
    ask = gate.through_session(disk, machine, said.append)  # type: ignore[arg-type]
    with pytest.raises(Lost, match="the controller is gone"):
        ask(PROOFS, "restart")
    assert len(said) == 1
