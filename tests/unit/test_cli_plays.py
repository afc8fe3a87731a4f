"""Plays of a project around the release: apply, rollback and retire of hosts that are folders."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hosts import ADDRESS, Farm

from ogen import push, shipped
from ogen.cli import apply as apply_module
from ogen.cli import console, fleet, plays
from ogen.cli.app import ogen
from ogen.playbook import course, load
from ogen.push import Contact
from ogen.push.around import ruled

NAMES = ("gpu1", "gpu2", "edge")
INVENTORY = """\
version: 1
ssh: {{user: tester, key: {key}}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: {context}}}
hosts:
{hosts}
balancers:
  api: {{hosts: [edge], listen: 8080}}
rollout: {{batches: {batches}}}
"""
HEAD = "- hosts: all\n  gather_facts: false\n"
RELEASE = """\
    - name: Release
      ogen.fleet.release: {src: "{{ ogen_release }}", state: present}
"""
AROUND = (
    HEAD
    + """\
  tasks:
    - name: Note what comes
      copy: {dest: /srv/before, content: "{{ ogen_release }}\\n"}
"""
    + RELEASE
    + """\
      notify: Tell
    - name: Note that it came
      copy: {dest: /srv/after, content: "{{ inventory_hostname }} {{ ogen_balancer }}\\n"}
      tags: notes
  handlers:
    - name: Tell
      file: {path: /srv/told, state: touch}
"""
)


class Project:
    def __init__(self, folder: Path, farm: Farm) -> None:
        self.folder, self.farm = folder, farm
        self.path = folder / "inventory.yaml"
        self.write()
        for name in NAMES:
            (farm.root(name) / "srv").mkdir()

    def write(self, context: int = 8192, batches: str = "[1]", out: str = "") -> None:
        lines = []
        for number, name in enumerate(NAMES, 1):
            cards = "" if name == "edge" else ", gpus: [{model: RTX 3090}]"
            place = f"address: {ADDRESS}, data_address: 192.0.2.{number}, root: {self.farm.root(name)}"
            state = ", state: out" if name == out else ""
            lines.append(f"  {name}: {{{place}, ssh: {{port: {self.farm.port(name)}}}{cards}{state}}}")
        hosts = "\n".join(lines)
        self.path.write_text(
            INVENTORY.format(key=self.farm.key, context=context, batches=batches, hosts=hosts)
        )

    def play(self, text: str, name: str = "apply.yaml") -> None:
        path = self.folder / "playbooks" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def ogen(self, *args: str, code: int = 0) -> Result:
        result = CliRunner().invoke(ogen, [args[0], str(self.path), *args[1:]])
        assert result.exit_code == code, result.output
        return result

    def run(self, *args: str, code: int = 0) -> dict[str, dict[str, Any]]:
        """Host → row."""
        found = json.loads(self.ogen(*args, "--format", "json", code=code).stdout)
        return {row["host"]: row for row in found["hosts"]}

    def text(self, host: str, path: str) -> str | None:
        place = self.farm.root(host) / path
        return place.read_text() if place.exists() else None


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    with Farm(tmp_path / "farm", *NAMES) as farm:
        monkeypatch.setenv("OGEN_KNOWN_HOSTS", str(farm.known_hosts))
        monkeypatch.setenv("HOME", str(tmp_path))
        yield Project(tmp_path, farm)
    console.hide(None)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the hosts' agents are asked."""
    asked: list[str] = []
    real = Contact.ask

    def ask(self: Any, message: Any, data: bytes = b"") -> Any:
        asked.append(f"{self.host.name} {message['op']}")
        return real(self, message, data)

    monkeypatch.setattr(Contact, "ask", ask)
    return asked


def statuses(rows: dict[str, dict[str, Any]]) -> list[str]:
    return [rows[name]["status"] for name in rows]


def steps(row: dict[str, Any]) -> list[tuple[str, bool, bool]]:
    return [(step["name"], step["changed"], step["failed"]) for step in row["steps"]]


# ------------------------------------------------------------------------------------------ the shipped
def test_the_shipped_play_asks_a_host_no_more_than_the_engine_does(
    project: Project, requests: list[str]
) -> None:
    project.run("apply", "--limit", "gpu1,edge")
    assert [one for one in requests if one.startswith("gpu1")] == [
        "gpu1 compare",
        "gpu1 apply",
        "gpu1 commit",
    ]
    requests.clear()
    assert set(statuses(project.run("apply", "--limit", "gpu1,edge"))) == {"unchanged"}
    assert sorted(requests) == ["edge compare", "gpu1 compare"]


# ---------------------------------------------------------------------------------- before and after
def test_tasks_run_before_and_after_the_release(project: Project, requests: list[str]) -> None:
    project.play(AROUND)
    rows = project.run("apply")
    assert set(statuses(rows)) == {"applied"}
    done = [("Note what comes", True, False), ("Note that it came", True, False), ("Tell", True, False)]
    assert [steps(row) for row in rows.values()] == [done] * 3
    assert [one for one in requests if one.startswith("gpu1")] == [
        f"gpu1 {op}" for op in ("compare", "steps", "apply", "commit", "steps", "steps")
    ]
    assert project.text("edge", "srv/after") == "edge True\n"
    release = json.loads(project.text("gpu1", "etc/ogen/audit.jsonl") or "")["to"]
    assert (project.text("gpu1", "srv/before") or "").strip() == release.partition("-")[0]
    assert project.text("gpu1", "srv/told") == ""


def test_a_second_apply_runs_the_tasks_and_changes_nothing(project: Project) -> None:
    project.play(AROUND)
    project.run("apply")
    again = project.run("apply")
    assert set(statuses(again)) == {"unchanged"}
    assert steps(again["gpu1"]) == [("Note what comes", False, False), ("Note that it came", False, False)]
    (project.farm.root("gpu2") / "srv/after").unlink()
    shown = project.ogen("apply").stdout
    assert re.search(r"gpu2 +applied .*the release was in force already\n  Note that it came: content", shown)
    assert re.search(r"gpu1 +unchanged .*\ngpu2", shown)


def test_a_dry_run_shows_the_tasks_and_does_nothing(project: Project) -> None:
    project.play(AROUND)
    found = json.loads(project.ogen("apply", "--dry-run", "--format", "json", code=2).stdout)
    predicted = [(one["host"], one["name"], one["changed"]) for one in found["tasks"]]
    assert predicted[:3] == [
        ("gpu1", "Note what comes", True),
        ("gpu1", "Note that it came", True),
        ("gpu1", "Tell", True),
    ]
    assert project.text("gpu1", "srv/before") is None
    rows = project.run("apply")
    assert [(h, *step[:2]) for h, row in rows.items() for step in steps(row)] == predicted
    (project.farm.root("gpu2") / "srv/after").unlink()
    shown = project.ogen("apply", "--dry-run", code=2).stdout
    assert shown.endswith("gpu2: tasks of the play\n  Note that it came\n    +gpu2 False\n")


def test_on_a_terminal_the_tasks_are_shown_before_the_question(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.run("apply")
    project.play(AROUND)
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(apply_module, "sys", SimpleNamespace(stdin=terminal, stderr=terminal))
    monkeypatch.setattr(fleet, "agreed", lambda question, yes: False)
    told = project.ogen("apply", code=2).stderr
    assert "gpu1: Note what comes\ngpu1: Note that it came\ngpu2: " in told
    assert "Tell" not in told, "the release does not change"
    assert "nothing was changed" in told
    assert project.text("gpu1", "srv/before") is None


def test_what_fails_before_the_release_flips_nothing(project: Project) -> None:
    project.play(HEAD + "  tasks:\n    - {name: Look, fail: {msg: not today}}\n" + RELEASE)
    result = project.ogen("apply", "--format", "json", code=3)
    rows = {row["host"]: row for row in json.loads(result.stdout)["hosts"]}
    assert statuses(rows) == ["failed", "not_started", "withheld"]
    (error,) = [e for e in json.loads(result.stdout)["errors"] if e["host"] == "gpu1"]
    assert error["message"] == "Look: not today"
    assert error["hint"].startswith("nothing was put in force there")
    assert not (project.farm.root("gpu1") / "etc/ogen/current").is_symlink()
    project.play(HEAD + "  tasks:\n" + RELEASE)
    assert set(statuses(project.run("apply", "--failed"))) == {"applied"}


def test_what_fails_after_the_release_leaves_it_in_force(project: Project) -> None:
    """The host is failed, and no other one is started; its balancers list what it serves now."""
    late = '    - {name: See, fail: {msg: it does not answer}, when: inventory_hostname == "gpu1"}\n'
    project.play(HEAD + "  tasks:\n" + RELEASE + late)
    result = project.ogen("apply", "--format", "json", code=3)
    found = json.loads(result.stdout)
    rows = {row["host"]: row for row in found["hosts"]}
    assert statuses(rows) == ["failed", "not_started", "applied"]
    assert rows["gpu1"]["after"] is not None
    assert rows["edge"]["without"] == ["gpu2/gpu0"]
    assert (project.farm.root("gpu1") / "etc/ogen/current").is_symlink()
    (error,) = [e for e in found["errors"] if e["host"] == "gpu1"]
    assert error["message"] == "See: it does not answer"
    assert error["hint"].startswith("the new release is in force there, and stays")


def test_a_canary_whose_tasks_fail_stops_the_rest(project: Project) -> None:
    late = '    - {name: See, fail: {}, when: inventory_hostname == "gpu1"}\n'
    project.play(HEAD + "  max_fail_percentage: 100\n  tasks:\n" + RELEASE + late)
    rows = project.run("apply", code=3)
    assert rows["gpu2"]["message"] == "the canary failed (gpu1)"
    project.play(HEAD + "  max_fail_percentage: 100\n  serial: 2\n  tasks:\n" + RELEASE + late)
    assert statuses(project.run("apply", code=3)) == ["failed", "applied", "applied"]
    project.write(context=4096)
    rows = project.run("apply", "--batch", "1", "--max-fail", "0", code=3)
    assert statuses(rows) == ["failed", "not_started", "applied"], "the command line wins"


def test_handlers_that_were_notified_run_after_a_failure_where_the_play_says_so(project: Project) -> None:
    tasks = """\
  tasks:
    - {name: Change, copy: {dest: /srv/x, content: x}, notify: Tell}
    - {name: Fail, fail: {}}
"""
    handlers = "  handlers:\n    - {name: Tell, file: {path: /srv/told, state: touch}}\n"
    project.play(HEAD + tasks + RELEASE + handlers)
    project.run("apply", code=3)
    assert project.text("gpu1", "srv/told") is None
    (project.farm.root("gpu1") / "srv/x").unlink()
    project.play(HEAD + "  force_handlers: true\n" + tasks + RELEASE + handlers)
    project.run("apply", code=3)
    assert project.text("gpu1", "srv/told") == ""


def test_nothing_changes_when_an_expression_can_t_be_resolved(project: Project) -> None:
    project.play(
        HEAD + "  tasks:\n" + RELEASE + '    - {name: A, copy: {dest: /srv/x, content: "{{ no }}"}}\n'
    )
    result = project.ogen("apply", code=3)
    assert "playbooks/apply.yaml:6:47" in result.stderr
    assert "'no' is undefined" in result.stderr
    assert not (project.farm.root("gpu1") / "etc/ogen/current").is_symlink()


def test_a_host_that_is_a_folder_has_only_files(project: Project) -> None:
    project.play(HEAD + "  tasks:\n    - {name: A, apt: {name: hello}}\n" + RELEASE)
    assert "apt: this host is a folder" in project.ogen("apply", "--dry-run", code=3).stderr


def test_tags_choose_among_the_tasks(project: Project) -> None:
    project.play(AROUND)
    refused = project.ogen("apply", "--tags", "notes", code=1).stderr
    assert "--tags notes leaves out the release task" in refused
    assert "playbooks/apply.yaml:6:7" in refused
    project.play(AROUND.replace("      notify: Tell\n", "      notify: Tell\n      tags: always\n"))
    rows = project.run("apply", "--tags", "notes")
    assert [name for name, *_ in steps(rows["gpu1"])] == ["Note that it came", "Tell"]
    assert "no task has the tag 'nots'" in project.ogen("apply", "--tags", "nots", code=1).stderr


def test_a_template_is_filled_for_each_host(project: Project) -> None:
    task = "    - {name: Fill, template: {src: motd.j2, dest: /srv/motd}}\n"
    project.play(HEAD + "  tasks:\n" + task + RELEASE)
    missing = project.ogen("apply", code=3).stderr
    assert "there is no template motd.j2" in missing
    assert "put it at playbooks/templates/motd.j2" in missing
    folder = project.folder / "playbooks/templates"
    folder.mkdir()
    (folder / "motd.j2").symlink_to("/etc/hostname")
    assert "lies outside of the project" in project.ogen("apply", code=3).stderr
    (folder / "motd.j2").unlink()
    (folder / "motd.j2").write_text(
        "{% if ogen_gpu %}\ncards at {{ inventory_hostname }}\n{% endif %}\nend\n"
    )
    project.run("apply")
    assert project.text("gpu2", "srv/motd") == "cards at gpu2\nend\n"
    assert project.text("edge", "srv/motd") == "end\n"


# ------------------------------------------------------------------------------------ rollback, retire
BACK = """\
    - ogen.fleet.release: {state: previous, id: "{{ ogen_to | default('') }}"}
"""


def test_tasks_around_a_rollback(project: Project) -> None:
    first = project.run("apply")["gpu1"]["after"]
    project.write(context=4096)
    project.run("apply")
    note = '    - {name: Note, copy: {dest: /srv/back, content: "{{ ogen_to }}"}}\n'
    project.play(HEAD + "  tasks:\n" + BACK + note, "rollback.yaml")
    shown = project.ogen("rollback", "--dry-run", "--limit", "gpu1", code=2)
    assert "  Note\n" in shown.stdout
    assert project.text("gpu1", "srv/back") is None
    rows = project.run("rollback", "--yes")
    assert {row["after"] for name, row in rows.items() if name == "gpu1"} == {first}
    assert project.text("gpu1", "srv/back") == first
    project.play(HEAD + "  tasks:\n    - {name: Not now, fail: {}}\n" + BACK, "rollback.yaml")
    rows = project.run("rollback", "--yes", "--limit", "gpu1", code=3)
    assert (rows["gpu1"]["status"], rows["gpu1"]["after"]) == ("failed", None)
    assert (project.farm.root("gpu1") / "etc/ogen/current").readlink().name == "tree"
    assert first in str((project.farm.root("gpu1") / "etc/ogen/current").readlink())


def test_tasks_around_a_retirement(project: Project) -> None:
    project.run("apply")
    project.write(out="gpu2")
    project.run("apply")
    text = HEAD + "  tasks:\n    - {name: Say, file: {path: /srv/gone, state: touch}}\n"
    project.play(text + "    - ogen.fleet.release: {state: absent}\n", "retire.yaml")
    shown = project.ogen("retire", "gpu2", "--dry-run", code=2).stdout
    assert "14 files on 1 host: 14 removed" in shown
    assert "gpu2: tasks of the play\n  Say\n" in shown
    assert (project.farm.root("gpu2") / "etc/ogen/current").is_symlink()
    rows = project.run("retire", "gpu2", "--yes")
    assert steps(rows["gpu2"]) == [("Say", True, False)]
    assert project.text("gpu2", "srv/gone") == ""
    assert not (project.farm.root("gpu2") / "etc/ogen").exists()


@pytest.mark.parametrize(("name", "state"), [("apply.yaml", "present"), ("rollback.yaml", "previous")])
def test_the_shipped_plays_need_not_be_loaded(name: str, state: Any, tmp_path: Path) -> None:
    """They say what happens without them; the digest tells that they are these, and is to follow a change."""
    file = shipped.folder("playbooks") / name
    assert hashlib.sha256(file.read_bytes()).hexdigest() == plays.PLAIN[name]
    found = course(load(file), state)
    assert found.plain
    options = push.Options(batches=(1, "25%", "100%"), max_fail=2)
    assert ruled(options, found, {}) == options


def test_an_apply_without_a_play_of_its_own_loads_none() -> None:
    program = (
        "import sys, ogen.cli.apply, ogen.cli.plays as p, types;"
        "fleet = types.SimpleNamespace(inventory=types.SimpleNamespace(folder='/nowhere'));"
        "assert p.of(fleet, 'present', None) is None;"
        "sys.exit('ogen.playbook' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
