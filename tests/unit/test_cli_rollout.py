"""`ogen apply` over several hosts in folders: batches, failures, balancers, resume, events, Ctrl-C."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import paramiko
import pytest
import sshd
from click.testing import CliRunner, Result
from hosts import ADDRESS, Farm

from ogen.cli import console, last
from ogen.cli.app import ogen
from ogen.cli.events import Stream
from ogen.inventory import load

NAMES = ("gpu1", "gpu2", "gpu3", "edge")
KEY = "sk-secret-5d1f0c7a9e"

INVENTORY = """\
version: 1
ssh: {{user: tester, key: {key}}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: {context}, on: boxes}}
  solo: {{from: "llama3.2:1b", replicas: 1, on: {solo}}}
groups:
  boxes: {{hosts: [gpu1, gpu2, gpu3]}}
hosts:
{hosts}
balancers:
  api: {{hosts: [edge], listen: 8080, keys: !file keys.yaml}}
rollout: {{batches: {batches}, max_fail: {max_fail}}}
"""
ONE = "gpus: [{model: RTX 3090}], instances: [{gpus: [0], models: [chat]}]"
TWO = (
    "gpus: [{model: RTX 3090, count: 2}], "
    "instances: [{gpus: [0], models: [chat]}, {gpus: [1], models: [solo]}]"
)


class Project:
    """Three hosts with a card each, a second one where `solo` runs, and a balancer."""

    def __init__(self, folder: Path, farm: Farm) -> None:
        self.folder, self.farm = folder, farm
        self.path = folder / "inventory.yaml"
        (folder / "keys.yaml").write_text(f"alice: {KEY}\n")
        self.write()

    def write(
        self,
        context: int = 8192,
        solo: str = "gpu1",
        batches: str = "[1]",
        max_fail: str = "0",
        names: tuple[str, ...] = NAMES,
    ) -> None:
        lines = []
        for number, name in enumerate(names, 1):
            cards = "" if name == "edge" else ", " + (TWO if name == solo else ONE)
            place = f"address: {ADDRESS}, data_address: 192.0.2.{number}, root: {self.farm.root(name)}"
            lines.append(f"  {name}: {{{place}, ssh: {{port: {self.farm.port(name)}}}{cards}}}")
        text = INVENTORY.format(
            key=self.farm.key,
            context=context,
            solo=solo,
            batches=batches,
            max_fail=max_fail,
            hosts="\n".join(lines),
        )
        gone = [name for name in NAMES if name not in names]
        for name in gone:
            text = text.replace(f", {name}]", "]")
        self.path.write_text(text)

    def ogen(self, *args: str, code: int = 0) -> Result:
        result = CliRunner().invoke(ogen, [args[0], str(self.path), *args[1:]])
        assert result.exit_code == code, result.output
        return result

    def apply(self, *args: str, code: int = 0) -> dict[str, dict[str, Any]]:
        """Host → row."""
        found = json.loads(self.ogen("apply", "--format", "json", *args, code=code).stdout)
        return {row["host"]: row for row in found["hosts"]}

    def breaks(self, name: str) -> None:
        """The host has no room for a release."""
        releases = self.farm.root(name) / "etc" / "ogen" / "releases"
        releases.parent.mkdir(parents=True, exist_ok=True)
        if releases.exists():
            releases.rename(releases.with_name("away"))
        releases.write_text("in the way")

    def mends(self, name: str) -> None:
        releases = self.farm.root(name) / "etc" / "ogen" / "releases"
        releases.unlink()
        if releases.with_name("away").exists():
            releases.with_name("away").rename(releases)

    def listed(self) -> dict[str, list[str]]:
        """Pool → hosts that the balancer in force lists."""
        text = (self.farm.root("edge") / "etc/ogen/current/balancers/api/nginx.conf").read_text()
        found: dict[str, list[str]] = {}
        for pool, body in re.findall(r"upstream pool_(\w+) \{(.*?)\n    \}", text, re.DOTALL):
            numbers = re.findall(r"server 192\.0\.2\.(\d+):", body)
            found[pool] = [NAMES[int(number) - 1] for number in numbers]
        return found


def statuses(rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: row["status"] for name, row in rows.items()}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    with Farm(tmp_path / "farm", *NAMES) as farm:
        monkeypatch.setenv("OGEN_KNOWN_HOSTS", str(farm.known_hosts))
        monkeypatch.setenv("HOME", str(tmp_path))
        yield Project(tmp_path, farm)
    console.hide(None)


# ------------------------------------------------------------------------------ failures, balancers
def test_a_failed_canary_stops_the_rest_whatever_may_fail(project: Project) -> None:
    project.breaks("gpu1")
    rows = project.apply("--max-fail", "100%", code=3)
    assert statuses(rows) == {
        "gpu1": "failed",
        "gpu2": "not_started",
        "gpu3": "not_started",
        "edge": "withheld",
    }
    assert rows["gpu2"]["message"] == "the canary failed (gpu1)"
    assert "api would have nothing to list" in rows["edge"]["message"]
    project.mends("gpu1")
    assert set(statuses(project.apply("--failed")).values()) == {"applied"}
    assert project.listed() == {"chat": ["gpu1", "gpu2", "gpu3"], "solo": ["gpu1"]}


def test_a_balancer_gets_what_is_in_force_and_the_next_apply_adds_the_rest(project: Project) -> None:
    project.breaks("gpu2")
    rows = project.apply(code=3)
    assert statuses(rows) == {
        "gpu1": "applied",
        "gpu2": "failed",
        "gpu3": "not_started",
        "edge": "applied",
    }
    assert rows["gpu3"]["message"] == "1 failed (gpu2), and max_fail is 0"
    assert rows["edge"]["without"] == ["gpu2/gpu0", "gpu3/gpu0"]
    assert project.listed() == {"chat": ["gpu1"], "solo": ["gpu1"]}
    keys = project.farm.root("edge") / "etc/ogen/current/balancers/api/keys.conf"
    assert hashlib.sha256(KEY.encode()).hexdigest() in keys.read_text(), "rendered anew with the true secret"

    again = project.apply(code=3)  # nothing was mended: the balancer is as it should be for now
    assert statuses(again) == {
        "gpu1": "unchanged",
        "gpu2": "failed",
        "gpu3": "not_started",
        "edge": "unchanged",
    }
    assert again["edge"]["without"] == ["gpu2/gpu0", "gpu3/gpu0"]
    tolerant = project.apply("--max-fail", "1", "--batch", "100%", code=3)
    assert (tolerant["gpu3"]["status"], tolerant["edge"]["status"]) == ("applied", "applied")
    assert tolerant["edge"]["without"] == ["gpu2/gpu0"]

    project.mends("gpu2")
    text = project.ogen("apply", "--failed").stdout
    assert "gpu1" not in text
    assert "2 applied" in text
    assert project.listed()["chat"] == ["gpu1", "gpu2", "gpu3"]
    assert "nothing to do: 4 hosts unchanged" in project.ogen("apply").stdout


def test_a_pool_does_not_lose_its_last_instance_to_one_that_never_came(project: Project) -> None:
    project.apply()
    project.write(solo="gpu3")  # solo moves from gpu1's second card to gpu3's
    project.breaks("gpu3")
    rows = project.apply(code=3)
    assert statuses(rows) == {
        "gpu1": "not_started",
        "gpu2": "unchanged",
        "gpu3": "failed",
        "edge": "not_started",
    }
    rows = project.apply("--max-fail", "1", code=3)
    assert statuses(rows) == {
        "gpu1": "withheld",
        "gpu2": "unchanged",
        "gpu3": "failed",
        "edge": "withheld",
    }
    assert "solo would have no instance, and gpu1/gpu1 may still serve it" in rows["edge"]["message"]
    assert project.listed()["solo"] == ["gpu1"]
    project.mends("gpu3")
    assert statuses(project.apply("--failed")) == {"gpu1": "applied", "gpu3": "applied", "edge": "applied"}
    assert project.listed()["solo"] == ["gpu3"]


def test_an_instance_that_serves_another_model_than_the_pools_is_not_in_it(project: Project) -> None:
    project.write(solo="gpu1")
    project.apply()
    text = project.path.read_text()
    swapped = text.replace(
        "models: [chat]}, {gpus: [1], models: [solo]}", "models: [solo]}, {gpus: [1], models: [chat]}"
    )
    project.path.write_text(swapped)
    project.breaks("gpu1")
    rows = project.apply("--max-fail", "1", code=3)
    assert rows["edge"]["status"] == "withheld", "solo is still on the other card"
    assert project.listed() == {"chat": ["gpu1", "gpu2", "gpu3"], "solo": ["gpu1"]}


def test_boxes_that_serve_and_balance_list_what_came_into_force(project: Project) -> None:
    """Each lists the others before they are up, so the first one has to be told what did not come."""
    project.path.write_text(project.path.read_text().replace("api: {hosts: [edge]", "api: {hosts: boxes"))
    project.breaks("gpu2")
    rows = project.apply("--limit", "boxes", code=3)
    assert statuses(rows) == {"gpu1": "applied", "gpu2": "failed", "gpu3": "not_started"}
    assert rows["gpu1"]["without"] == ["gpu2/gpu0", "gpu3/gpu0"]
    assert rows["gpu1"]["before"] is None
    own = project.farm.root("gpu1") / "etc/ogen/current/balancers/api/nginx.conf"
    assert re.findall(r"server ([\d.]+):", own.read_text()) == ["127.0.0.1", "127.0.0.1"]
    project.mends("gpu2")
    rows = project.apply("--failed")
    assert set(statuses(rows).values()) == {"applied"}
    assert set(rows) == {"gpu1", "gpu2", "gpu3"}, "those that list a host come along"
    assert set(re.findall(r"server ([\d.]+):", own.read_text())) == {
        "127.0.0.1",
        "192.0.2.2",
        "192.0.2.3",
    }


# ----------------------------------------------------------------------------------------- offline
def test_a_host_out_of_reach_counts_as_failed_unless_it_is_skipped(project: Project) -> None:
    project.apply()
    project.write(context=4096)
    project.farm.servers["gpu2"].close()
    rows = project.apply(code=4)
    assert statuses(rows) == {
        "gpu1": "not_started",
        "gpu2": "unreachable",
        "gpu3": "not_started",
        "edge": "not_started",
    }
    rows = project.apply("--max-fail", "1", code=4)
    assert (rows["gpu1"]["status"], rows["gpu3"]["status"]) == ("applied", "applied")
    assert project.listed()["chat"] == ["gpu1", "gpu2", "gpu3"], "nobody knows whether it still serves"
    result = project.ogen("apply", "--skip-offline", "--yes")
    assert re.search(r"^gpu2 +skipped", result.stdout, re.MULTILINE)
    assert "does without gpu2/gpu0, not in force" in result.stdout
    assert project.listed()["chat"] == ["gpu1", "gpu3"]
    assert last.ends(load(project.path))["gpu2"] == "skipped"
    project.ogen("apply", "--dry-run", code=4)
    shown = project.ogen("apply", "--dry-run", "--skip-offline", code=2)
    assert "gpu2 is left out" in shown.stderr


def test_another_host_key_is_not_offline(project: Project) -> None:
    lines = project.farm.known_hosts.read_text().splitlines()
    port = project.farm.port("gpu2")
    other = next(line for line in lines if f"]:{port} " not in line)
    changed = [
        f"[{ADDRESS}]:{port} {other.split(' ', 1)[1]}" if f"]:{port} " in line else line for line in lines
    ]
    project.farm.known_hosts.write_text("\n".join(changed) + "\n")
    assert project.apply("--skip-offline", code=4)["gpu2"]["status"] == "unreachable"


# ----------------------------------------------------------------------------------------- --failed
def test_there_may_be_nothing_to_resume(project: Project) -> None:
    assert "nothing to resume" in project.ogen("apply", "--failed").stderr
    assert project.apply("--failed") == {}
    project.apply()
    assert "nothing to resume" in project.ogen("apply", "--failed").stderr


def test_what_failed_stays_known_until_it_is_well(project: Project) -> None:
    project.breaks("gpu2")
    project.apply("--max-fail", "1", code=3)
    project.apply("--limit", "gpu1")
    assert statuses(project.apply("--failed", "--max-fail", "1", code=3))["gpu2"] == "failed"
    assert project.apply("--failed", "--limit", "gpu1") == {}
    project.write(names=("gpu1", "gpu2", "edge"))
    project.mends("gpu2")
    project.write(names=("gpu1", "gpu2", "edge"), context=4096)  # changed since: no matter
    assert statuses(project.apply("--failed"))["gpu2"] == "applied"


def test_hosts_that_are_gone_are_named(project: Project) -> None:
    project.breaks("gpu3")
    project.apply("--max-fail", "1", code=3)
    project.write(names=("gpu1", "gpu2", "edge"))
    told = project.ogen("apply", "--failed").stderr
    assert "note: gpu3 ended failed, and is not in service any more" in told
    assert "nothing to resume" in told


def test_where_nothing_can_be_remembered_that_is_only_a_note(project: Project) -> None:
    (project.folder / ".ogen").write_text("a file")
    result = project.ogen("apply", "--format", "json")
    assert len(json.loads(result.stdout)["hosts"]) == 4
    assert result.stderr.count("can't be written") == 1


def test_a_damaged_memory_is_told(project: Project) -> None:
    folder = project.folder / ".ogen"
    folder.mkdir()
    for text in ("{", "[]", '{"version": 2}', '{"version": 1, "inventories": {"inventory.yaml": []}}'):
        (folder / "last.json").write_text(text)
        told = project.ogen("apply", "--failed", code=1).stderr
        assert "it is damaged" in told
        assert "hint: remove it" in told
    project.apply()
    assert set(last.ends(load(project.path)).values()) == {"applied"}
    assert [p.name for p in folder.iterdir()] == ["last.json"]


# ------------------------------------------------------------------------------------------ options
@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--batch", "1,few"), "'few' is no size of a batch"),
        (("--batch", "0"), "'0' is no size"),
        (("--batch", "0%"), "'0%' is no size"),
        (("--batch", ""), "'' is no size"),
        (("--batch", "1,-2"), "'-2' is no size"),
        (("--max-fail", "101%"), "'101%' is no number"),
        (("--max-fail", "-1"), "'-1' is no number"),
        (("--events", "-", "--format", "json"), "both want stdout"),
        (("--events", "no/such/folder"), "no such file or directory"),
    ],
)
def test_what_is_no_number_of_hosts(project: Project, args: tuple[str, ...], told: str) -> None:
    result = project.ogen("apply", *args, code=1)
    assert told in result.stdout + result.stderr
    assert all(server.connections == 0 for server in project.farm.servers.values())


# ------------------------------------------------------------------------------------------- events
def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_events_tell_the_rollout_as_it_goes(project: Project) -> None:
    project.breaks("gpu2")
    file = project.folder / "events.jsonl"
    project.apply("--events", str(file), "--batch", "1,2", "--max-fail", "1", code=3)
    found = events(file.read_text())
    first, end = found[0], found[-1]
    assert (first["event"], first["version"], first["hosts"]) == ("start", 1, list(NAMES))
    assert (end["event"], end["version"], end["exit"]) == ("end", 1, 3)
    assert {h["host"]: h["status"] for h in end["hosts"]}["gpu2"] == "failed"
    assert [e["host"] for e in end["errors"]] == ["gpu2"]
    assert [e["message"] for e in found if e["event"] == "batch"] == [
        "expand: canary 1/3",
        "expand: batch 2 of 2",
    ]
    seconds = [e["seconds"] for e in found]
    assert seconds == sorted(seconds)
    done = [e["host"] for e in found if e.get("phase") == "done"]
    assert (done[0], done[-1]) == ("gpu1", "edge")
    project.mends("gpu2")
    project.apply("--failed", "--events", str(file))
    assert [e["event"] for e in events(file.read_text())].count("start") == 2, "it is appended"


def test_events_on_stdout_are_alone_there(project: Project) -> None:
    result = project.ogen("apply", "--events", "-")
    found = events(result.stdout)
    assert (found[0]["event"], found[-1]["event"], found[-1]["exit"]) == ("start", "end", 0)


def test_events_hide_secrets_and_steer_no_terminal(tmp_path: Path) -> None:
    from ogen.push import Event

    console.hide(lambda text: text.replace(KEY, "<secret>"))
    try:
        stream = Stream(str(tmp_path / "events"))
        stream(Event("gpu1", "models", f"\x1b[2Jhas {KEY}\n\u202eand\x07", 12.5))
        stream.end(3, {"errors": [{"message": KEY, "log": [f"\x1b]0;{KEY}\x07"]}]})
    finally:
        console.hide(None)
    text = (tmp_path / "events").read_text()
    assert KEY not in text
    one, end = events(text)
    assert (one["message"], one["percent"]) == ("has <secret> \\u202eand\\x07", 12.5)
    assert end["errors"] == [{"message": "<secret>", "log": [""]}]


def test_a_reader_of_events_that_goes_away_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ogen.push import Event

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    stream = Stream(str(pipe))
    os.close(reader)
    for _ in range(3):
        stream(Event("gpu1", "stage"))
    stream.end(0, {})
    assert capsys.readouterr().err.count("--events ends here") == 1


# ------------------------------------------------------------------------------------------- Ctrl-C
class Gate:
    """Holds the commit back on its way to a host."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()

    def feed(self, channel: paramiko.Channel, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin
        with suppress(OSError, EOFError):
            while data := channel.recv(1 << 17):
                if b'"op":"commit"' in data and not self.go.is_set():
                    self.reached.set()
                    self.go.wait(60)
                process.stdin.write(data)
        with suppress(OSError):
            process.stdin.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate()
    monkeypatch.setattr(sshd, "_feed", made.feed)
    yield made
    made.go.set()


def started(project: Project, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ogen", "apply", str(project.path), *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_finishes_the_hosts_under_way_and_starts_no_other(project: Project, gate: Gate) -> None:
    with started(project, "--format", "json") as running:
        assert gate.reached.wait(60)
        running.send_signal(signal.SIGINT)
        assert running.stderr
        assert any("finishing the hosts under way" in line for line in running.stderr)
        gate.go.set()
        out, _ = running.communicate(timeout=60)
    rows = {row["host"]: row for row in json.loads(out)["hosts"]}
    assert running.returncode == 130
    assert statuses(rows) == {
        "gpu1": "applied",
        "gpu2": "not_started",
        "gpu3": "not_started",
        "edge": "not_started",
    }
    assert rows["gpu2"]["message"] == "interrupted"
    assert not (project.farm.root("gpu2") / "etc/ogen/current").exists()
    assert set(project.apply("--failed")) == {"gpu1", "gpu2", "gpu3", "edge"} - {"gpu1"}


def test_ctrl_c_twice_stops_watching_and_the_host_ends_by_itself(project: Project, gate: Gate) -> None:
    with started(project, "--format", "json") as running:
        assert gate.reached.wait(60)
        assert running.stderr
        running.send_signal(signal.SIGINT)
        assert any("finishing the hosts under way" in line for line in running.stderr)
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=30)
    document = json.loads(out)
    rows = {row["host"]: row for row in document["hosts"]}
    assert running.returncode == 130
    assert statuses(rows) == {
        "gpu1": "interrupted",
        "gpu2": "not_started",
        "gpu3": "not_started",
        "edge": "not_started",
    }
    assert [error["host"] for error in document["errors"]] == ["gpu1"]
    assert last.ends(load(project.path)) == statuses(rows)
    assert not (project.farm.root("gpu1") / "etc/ogen/current").exists()
    gate.go.set()
    current = project.farm.root("gpu1") / "etc/ogen/current"
    end = time.monotonic() + 30
    while not current.exists():
        assert time.monotonic() < end, "the host does not end its own transaction"
        time.sleep(0.05)
    rows = project.apply("--failed")
    assert (rows["gpu1"]["status"], rows["edge"]["status"]) == ("unchanged", "applied")


def test_a_controller_that_is_killed_leaves_all_to_be_resumed(project: Project, gate: Gate) -> None:
    with started(project) as running:
        assert gate.reached.wait(60)
        running.kill()
    assert set(last.ends(load(project.path)).values()) == {"interrupted"}
    gate.go.set()
