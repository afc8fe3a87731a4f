"""status, logs and doctor against hosts behind the embedded SSH server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
from known_backend import Backend, Plan
from terminals import Terminal
from test_cli_fleet import CANARY, PASSWORD, Project, project

from ogen.cli import console, logs, status
from ogen.errors import ConnectError, HostError
from ogen.observe import looking
from ogen.push import Contact

__all__ = ["project"]  # the fixture


def test_before_and_after_an_apply(project: Project) -> None:
    found = json.loads(project.ogen("doctor", "--format", "json", code=2).stdout)
    assert {(one["kind"], one["host"]) for one in found["findings"]} == {
        ("no-release", "gpu1"),
        ("no-release", "gpu2"),
        ("no-release", "edge"),
    }
    assert all(one["file"].endswith("inventory.yaml") and one["line"] for one in found["findings"])
    project.ogen("apply")
    assert "nothing found on 3 hosts" in project.ogen("doctor").stdout
    page = project.ogen("status").stdout
    assert page.count("as planned") == 3
    assert "note:" not in project.ogen("doctor").stderr
    project.write(context=4096)
    page = project.ogen("status").stdout
    assert "pending: " in page
    said = project.ogen("doctor").stderr
    assert "note: changes of the inventory are pending on gpu1, gpu2, edge" in said, (
        "or it is another fleet's"
    )
    assert json.loads(project.ogen("doctor", "--format", "json").stdout)["pending"] == [
        "gpu1",
        "gpu2",
        "edge",
    ]
    project.on_host("gpu1", "models/chat.Modelfile").write_text("mine\n")
    assert "edited: /etc/ogen/current/models/chat.Modelfile" in project.ogen("status").stdout
    said = project.ogen("doctor", code=2).stdout
    assert "gpu1  edited  edited by hand: /etc/ogen/current/models/chat.Modelfile" in said
    assert "    --> " in said
    assert "1 finding on 1 of 3 hosts" in said
    assert CANARY not in project.output
    assert PASSWORD not in project.output


def test_unreachable_hosts(project: Project) -> None:
    project.ogen("apply")
    project.write(gpu2=1)
    said = json.loads(project.ogen("status", "--format", "json", code=4).stdout)
    assert [host["name"] for host in said["hosts"]] == ["gpu1", "edge"]
    assert [error["host"] for error in said["errors"]] == ["gpu2"]
    assert "gpu2" in project.ogen("status", code=4).stderr
    project.ogen("status", "--limit", "gpu1")
    assert json.loads(project.ogen("doctor", "--format", "json", code=4).stdout)["findings"] == []
    project.ogen("logs", code=4)
    project.ogen("status", "--limit", "nowhere", code=1)


def test_logs_are_redacted_and_cleaned(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [(1_700_000_000.5, "gpu1/gpu0", f"key {CANARY} \x1b[31mred\x07")]
    monkeypatch.setattr(looking.Journals, "read", lambda *_: (lines, []))
    text = project.ogen("logs").stdout
    assert text.startswith("2023-11-14T22:13:20.500Z  gpu1/gpu0  key <secret:")
    assert "\x1b" not in text
    assert "\\x07" in text
    (row,) = json.loads(project.ogen("logs", "--format", "json").stdout)["lines"]
    assert row["from"] == "gpu1/gpu0"
    assert CANARY not in project.output


def test_following_shows_what_comes_and_tells_a_lost_host_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write(gpu2=1)
    asked: list[dict[str, Any]] = []

    def ask(contact: Contact, message: dict[str, Any], data: bytes = b"") -> Any:
        asked.append(message | {"host": contact.host.name})
        if contact.host.name != "gpu1":
            return {"lines": [], "cursor": None}, b""
        number = sum(one["host"] == "gpu1" for one in asked)
        lines = [[1_700_000_000.0 + n, "gpu0", f"line {number}\x1b[2J"] for n in range(number)]
        return {"lines": lines, "cursor": f"c{number}"}, b""

    def wait(seconds: float) -> None:
        if len([one for one in asked if one["host"] == "gpu1"]) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Contact, "ask", ask)
    monkeypatch.setattr(logs.time, "sleep", wait)
    said = project.ogen("logs", "-f", "-n", "5", "--since", "1h", code=130)
    shown = [line.split("  ")[-1] for line in said.stdout.splitlines()]
    assert shown == ["line 1", *["line 2"] * 2, *["line 3"] * 3]
    assert said.stderr.count("gpu2") == 1
    assert [one["after"] for one in asked if one["host"] == "gpu1"] == [None, "c1", "c2"]
    quiet = [one for one in asked if one["host"] == "edge"]
    assert quiet[0]["since"] == 3600
    assert all(one["since"] < 60 for one in quiet[1:]), "who had no line is asked for all since the beginning"
    assert "--follow" in project.ogen("logs", "-f", "--format", "json", code=1).stdout


def test_logs_of_nothing(project: Project) -> None:
    assert "no line was logged in that time" in project.ogen("logs", "--since", "10m").stderr
    assert "no span of time" in project.ogen("logs", "--since", "yesterday", code=1).stderr
    project.ogen("logs", "nowhere", code=1)


def test_watching_is_for_people(project: Project) -> None:
    assert "--watch" in project.ogen("status", "--watch", "2", "--format", "json", code=1).stdout


def test_in_colour(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "colourful", lambda stream=None: True)
    assert "\x1b[" in project.ogen("doctor", code=2).stdout
    assert "\x1b[" in project.ogen("status").stdout


def test_watching_keeps_its_connections(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection to each host; the one that breaks is made anew, after a pause that grows."""
    opened: list[str] = []
    seen: list[bool] = []  # of each round: whether gpu1 was seen
    now, broken = [0.0], [False]
    make, ask = looking.contact, Contact.ask

    def count(host: Any, options: Any) -> Any:
        opened.append(host.name)
        return make(host, options)

    def break_off(self: Contact, *args: Any) -> Any:
        if broken[0] and self.host.name == "gpu1":
            raise ConnectError("the connection broke", host="gpu1")
        return ask(self, *args)

    def wait(seconds: float) -> None:
        now[0] += seconds
        seen.append("gpu1" not in [e.host for e in told[-1].values() if isinstance(e, HostError)])
        broken[0] = len(seen) in (2, 3, 4)
        if len(seen) == 9:
            raise KeyboardInterrupt

    told: list[dict[str, Any]] = []
    look = looking.Looks.look
    monkeypatch.setattr(looking.Looks, "look", lambda self: told.append(look(self)) or told[-1])
    monkeypatch.setattr(looking, "contact", count)
    monkeypatch.setattr(looking, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    monkeypatch.setattr(Contact, "ask", break_off)
    monkeypatch.setattr(status, "time", SimpleNamespace(sleep=wait, strftime=time.strftime))
    said = project.ogen("status", "--watch", "1", code=130)
    assert seen == [True, True, False, False, False, False, False, False, True]
    assert (opened.count("edge"), opened.count("gpu2"), opened.count("gpu1")) == (1, 1, 3)
    assert "the connection broke" in said.stdout + said.stderr


def test_watching_without_a_number(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(status, "time", SimpleNamespace(sleep=wait, strftime=time.strftime))
    project.ogen("status", "--watch", code=130)
    project.ogen("status", "--watch", "--full", code=130)
    assert waits == [5.0, 5.0]


def test_an_instance_without_its_host(project: Project) -> None:
    said = project.ogen("logs", "gpu0", code=1).stderr
    assert "there is no host or group 'gpu0'" in said
    assert "an instance or a balancer is HOST/NAME" in said
    assert "HOST/NAME" not in project.ogen("logs", "nowhere/gpu0", code=1).stderr


def test_watching_goes_on_until_it_is_interrupted(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", wait)
    said = project.ogen("status", "--watch", "5", code=130).stdout
    assert waits == [5.0, 5.0]
    assert said.count("inventory.yaml: 3 hosts") == 2


def test_at_a_terminal_it_is_drawn_over_and_ctrl_c_is_clean(project: Project) -> None:
    command = [sys.executable, "-m", "ogen", "status", str(project.path), "--watch", "0.5"]
    env = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm", "COLUMNS": "60"}
    terminal = Terminal(*command, env=env | {"LINES": "6"})
    terminal.until("more lines")
    first = terminal.shown
    terminal.shown = ""
    terminal.until("more lines")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    assert "Traceback" not in terminal.shown
    assert "\x1b[H" in first
    assert "\x1b[2J" not in first
    assert first.split("\x1b[H")[1].count("\n") <= 6


@pytest.mark.parametrize("words", [("status", "--watch", "5"), ("logs", "-f"), ("bench", "--key", "alice")])
def test_ctrl_c_does_not_wait_for_a_host_that_hangs(project: Project, words: tuple[str, ...]) -> None:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        project.write(gpu1=deaf.getsockname()[1])
        command = [sys.executable, "-m", "ogen", words[0], str(project.path), *words[1:]]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deaf.settimeout(60)
        link, _ = deaf.accept()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=10)
        link.close()
    assert process.returncode == 130
    assert b"Traceback" not in told


def test_load_while_hosts_are_asked_that_have_no_log(project: Project) -> None:
    """Folders that stand for hosts: load is measured, and what they can't tell is said."""
    with Backend(Plan([0.02], 2, key=CANARY)) as backend:
        args = ("--url", backend.url, "--key", "alice", "--requests", "12")
        said = json.loads(project.ogen("bench", *args, "--format", "json").stdout)
    (step,) = said["steps"]
    assert (step["requests"], step["failed"], said["errors"]) == (12, 0, [])
    assert step["shares"]["by_instance"] == {}
    assert "not all answers are counted" in step["shares"]["remarks"][-1]
    assert CANARY not in project.output
    project.write(gpu2=1)
    with Backend(Plan([0.02], 2, key=CANARY)) as backend:
        text = project.ogen("bench", "--url", backend.url, "--key", "alice", "--requests", "12", code=4)
    assert "12 answered, 0 failed" in text.stdout
    assert "gpu2" in text.stderr
