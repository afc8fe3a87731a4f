"""A play of a project on real boxes: drained, changed, asked, served again, under load; a task that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from cluster import Commands
from lab import lab
from test_drain import INVENTORY, TIMINGS, Load, started

pytestmark = [pytest.mark.boxes, pytest.mark.soak, pytest.mark.timeout(1200)]

BOXES = ("one", "two")
HEAD = "- hosts: all\n  become: true\n  gather_facts: false\n  serial: 1\n  tasks:\n"
PLAY = """\
    - name: Take it out
      ogen.fleet.drain: {state: drained, instances: [gpu0], seconds: 300}
    - name: See that nobody sends
      ansible.builtin.command: {argv: [systemctl, is-active, ogen-ollama-gpu0.service]}
      changed_when: false
    - ogen.fleet.models: {src: "{{ ogen_release }}"}
    - name: Release
      ogen.fleet.release: {src: "{{ ogen_release }}", state: present}
      notify: Tell
    - name: Wait for Ollama
      ansible.builtin.wait_for: {port: 11434, timeout: 60}
    - name: Ask it
      ansible.builtin.uri: {url: "http://127.0.0.1:11434/api/version"}
    - name: Take it in
      ogen.fleet.drain: {state: served}
"""
HANDLERS = """\
  handlers:
    - name: Tell
      ansible.builtin.file: {path: /run/told, state: touch}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with lab("plays") as made:
        made.up(*BOXES, gpus="24576,24576", ollama=True)
        for box in BOXES:
            made.write(box, "/etc/testbed/ollama.json", json.dumps(TIMINGS))
        found = Commands(made, tmp_path_factory.mktemp("project"), boxes=BOXES)
        found.write(INVENTORY, context=8192)
        (found.folder / "playbooks").mkdir()
        found.ogen("provision")
        found.ogen("apply", "--yes")
        yield found


def apply(project: Commands, code: int = 0) -> dict[str, dict[str, Any]]:
    done = project.ogen("apply", "--format", "json", code=code)
    return {row["host"]: row for row in json.loads(done.stdout)["hosts"]}


def steps(row: dict[str, Any]) -> list[tuple[str, bool]]:
    return [(step["name"], step["changed"]) for step in row["steps"]]


def test_a_play_drains_changes_asks_and_serves_again_under_load(project: Commands) -> None:
    (project.folder / "playbooks/apply.yaml").write_text(HEAD + PLAY + HANDLERS)
    project.write(INVENTORY, context=4096)
    told = json.loads(project.ogen("apply", "--dry-run", "--format", "json", code=2).stdout)["tasks"]
    with Load([f"http://{project.lab.address(box)}:8080" for box in BOXES]) as stream:
        rows = apply(project)
    print(f"\n{stream.whole} streams whole, {len(stream.failed)} failed")
    assert not stream.failed
    assert stream.whole > 10
    wanted = [
        ("Take it out", True),
        ("See that nobody sends", False),
        ("Wait for Ollama", False),
        ("Ask it", False),
        ("Take it in", True),
        ("Tell", True),
    ]
    for box in BOXES:
        assert rows[box]["status"] == "applied"
        assert steps(rows[box]) == wanted
        assert [(one["name"], one["changed"]) for one in told if one["host"] == box] == wanted
    assert project.ogen("drain", "one/gpu0", "--format", "json").stdout  # nobody holds it any more
    project.ogen("undrain", "one/gpu0")


def test_a_task_that_fails_after_the_release_leaves_it_in_force(project: Commands) -> None:
    ask = "    - ansible.builtin.uri: {url: 'http://127.0.0.1:11434/api/none'}\n"
    release = "    - ogen.fleet.release: {src: '{{ ogen_release }}'}\n"
    (project.folder / "playbooks/apply.yaml").write_text(HEAD + release + ask)
    project.write(INVENTORY, context=8192)
    before = started(project, BOXES)
    rows = apply(project, code=3)
    assert [rows[box]["status"] for box in BOXES] == ["failed", "not_started"]
    assert rows["one"]["after"] != rows["one"]["before"]
    assert "status 404" in rows["one"]["message"]
    after = started(project, BOXES)
    assert after != before
    (project.folder / "playbooks/apply.yaml").write_text(HEAD + release)
    assert [row["status"] for row in apply(project).values()] == ["unchanged", "applied"]
