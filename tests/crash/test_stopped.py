"""An agent of its own process that is stopped, left alone or cut off before its commit changes nothing."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import apply, host, release

from ogen.agent import frames

SOURCES = str(Path(frames.__file__).parents[2])
SILENCE = 1.0
PROGRAM = (
    f"import sys; sys.path.insert(0, {SOURCES!r})\n"
    f"from ogen.agent import changes, main; changes.SILENCE = {SILENCE}\n"
    "main.session(b'', '', sys.argv[1])"
)
OLD, NEW = release("old", "ogen-a.service"), release("new", "ogen-b.service")


class Agent:
    """The other end of its pipes."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-I", "-c", PROGRAM, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin
        assert self.process.stdout
        self.source, self.sink = self.process.stdout.fileno(), self.process.stdin.fileno()

    def send(self, message: dict[str, Any], data: bytes = b"") -> None:
        os.write(self.sink, frames.pack(message, data))

    def reply(self) -> dict[str, Any]:
        while True:
            frame = frames.read(self._take)
            assert frame is not None
            if "reply" in frame[0]:
                return frame[0]

    def _take(self, count: int) -> bytes:
        data = b""
        while len(data) < count and select.select([self.source], [], [], 30.0)[0]:
            part = os.read(self.source, count - len(data))
            if not part:
                break
            data += part
        return data

    def prepared(self) -> dict[str, Any]:
        contents = {f.sha256: f.content for f in NEW.files}
        sizes = [[digest, len(data)] for digest, data in contents.items()]
        self.send(
            {"op": "apply", "who": "first", "manifest": NEW.manifest(), "contents": sizes},
            b"".join(contents.values()),
        )
        reply = self.reply()
        assert reply["reply"] == "prepared", reply
        return {"op": "commit", "tx": reply["tx"], "epoch": reply["epoch"]}

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def agent(room: Path) -> Iterator[Agent]:
    apply(host(room), OLD)
    made = Agent(room)
    yield made
    made.end()


def unchanged(room: Path) -> bool:
    one = host(room)
    return one.store.current == OLD.id and one.store.names() == [OLD.id] and one.journal.state() == "idle"


def test_stopped_past_every_timeout(agent: Agent, room: Path) -> None:
    commit = agent.prepared()
    agent.process.send_signal(signal.SIGSTOP)
    said = apply(host(room), NEW)
    assert said["kind"] == "locked"
    assert str(agent.process.pid) in said["message"]
    assert f"kill -CONT {agent.process.pid}" in said["hint"]
    agent.send(commit)  # it lies there, and its sender gives up
    time.sleep(SILENCE + 1.2)
    agent.process.send_signal(signal.SIGCONT)
    assert "aborted before the commit" in agent.reply()["message"]
    assert unchanged(room)
    assert apply(host(room), NEW)["status"] == "applied"


def test_a_short_stop_is_none(agent: Agent, room: Path) -> None:
    """The control: the commit counts when it comes in time."""
    commit = agent.prepared()
    agent.process.send_signal(signal.SIGSTOP)
    agent.send(commit)
    agent.process.send_signal(signal.SIGCONT)
    assert agent.reply()["status"] == "applied"
    assert host(room).store.current == NEW.id


def test_silence_frees_the_host(agent: Agent, room: Path) -> None:
    agent.prepared()
    assert "no frame for 1 s" in agent.reply()["message"]
    assert unchanged(room)
    assert apply(host(room), NEW)["status"] == "applied"


@pytest.mark.parametrize("part", [0, 1, 30, 60])
def test_the_controllers_death_frees_the_host(agent: Agent, room: Path, part: int) -> None:
    """Also in the middle of the commit frame: it counts whole or not at all."""
    data = frames.pack(agent.prepared())
    os.write(agent.sink, data[:part])
    assert agent.process.stdin
    agent.process.stdin.close()
    agent.process.stdin = None
    assert agent.process.wait(10) == 0
    assert unchanged(room)
    assert apply(host(room), NEW)["status"] == "applied"


def test_a_stopped_agent_that_is_killed_frees_the_host(agent: Agent, room: Path) -> None:
    agent.prepared()
    agent.process.send_signal(signal.SIGSTOP)
    agent.process.kill()
    agent.process.wait(10)
    assert apply(host(room), NEW)["status"] == "applied"
    assert set(host(room).store.names()) == {NEW.id, OLD.id}
