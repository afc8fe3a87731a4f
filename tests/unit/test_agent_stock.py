"""The stock service: its state is noted once, and given back only as it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ogen.agent import stock
from ogen.agent.disk import Disk
from ogen.agent.machine import Done, Machine
from ogen.agent.transaction import Host

UNIT = "ollama.service"


class Box(Machine):
    """A machine with the stock service."""

    def __init__(self, status: str = "enabled", loaded: str = "loaded", fails: bool = False) -> None:
        self.status, self.loaded, self.fails = status, loaded, fails
        self.did: list[str] = []

    def run(self, command: Sequence[str], timeout: float = 60.0, stdin: str = "") -> Done:
        if command[1] == "show":
            shown = f"Id={UNIT}\nLoadState={self.loaded}\nActiveState=inactive\n"
            return Done(0, self.status + "\n" if "--value" in command else shown)
        self.did.append(command[1])
        return Done(1, "no such thing") if self.fails else Done(0, "")


def host(folder: Path, box: Box) -> Host:
    (folder / "etc/ogen").mkdir(parents=True, exist_ok=True)
    return Host(Disk(str(folder)), box)


def test_the_first_note_stays(tmp_path: Path) -> None:
    stock.note(host(tmp_path, Box("enabled")), [UNIT])
    stock.note(host(tmp_path, Box("disabled")), [UNIT])
    assert (tmp_path / "etc/ogen/stock-ollama.service").read_text() == "running enabled\n"


@pytest.mark.parametrize(
    ("was", "verbs", "said"),
    [
        ("running enabled", ["enable", "start"], ["ollama.service is enabled and running again"]),
        ("stopped enabled", ["enable"], ["ollama.service is enabled again"]),
        ("running disabled", ["start"], ["ollama.service is running again"]),
        ("stopped disabled", [], []),
        ("stopped enabled-runtime", [], []),
    ],
)
def test_it_becomes_what_it_was(tmp_path: Path, was: str, verbs: list[str], said: list[str]) -> None:
    box = Box()
    one = host(tmp_path, box)
    (tmp_path / "etc/ogen/journal").write_text("running enabled")  # no note
    (tmp_path / "etc/ogen/stock-ollama.service").write_text(was + "\n")
    assert stock.give_back(one) == said
    assert box.did == verbs


def test_what_can_t_be_given_back_is_said(tmp_path: Path) -> None:
    one = host(tmp_path, Box(fails=True))
    assert stock.give_back(one) == []
    (tmp_path / "etc/ogen/stock-ollama.service").write_text("running enabled\n")
    assert stock.give_back(one) == ["ollama.service can't be brought back: no such thing"]
    gone = host(tmp_path, Box(loaded="not-found"))
    assert stock.give_back(gone) == ["ollama.service is not there any more"]
