"""The plays of apply, rollback and retire: one release task, and what can't be done in a play's order."""

from __future__ import annotations

from pathlib import Path

import pytest

from ogen import shipped
from ogen.errors import OgenError, PlaybookError, Problems
from ogen.playbook import course, load, without_release
from ogen.playbook.course import State

FILES: dict[State, str] = {"present": "apply.yaml", "previous": "rollback.yaml", "absent": "retire.yaml"}
MODELS = 'ogen.fleet.models: {src: "{{ ogen_release }}"}'
RELEASE = 'ogen.fleet.release: {src: "{{ ogen_release }}", state: present}'
BACK = "ogen.fleet.release: {state: previous"


def write(folder: Path, text: str) -> Path:
    path = folder / "play.yaml"
    path.write_text(text)
    return path


def play(*tasks: str, head: str = "- hosts: all\n") -> str:
    return f"{head}  tasks:\n" + "".join(f"    - {task}\n" for task in tasks)


@pytest.mark.parametrize("state", FILES)
def test_the_shipped_plays(state: State) -> None:
    found = course(load(shipped.folder("playbooks") / FILES[state]), state)
    assert found.release.module == "ogen.fleet.release"
    assert found.plain == (state != "absent"), "nothing to do but what the engine does anyway"
    assert not found.play.gather_facts


def test_a_play_with_tasks_of_its_own(tmp_path: Path) -> None:
    text = play("{name: a, fail: {}, when: false}", MODELS, f"{{{RELEASE}, notify: h}}", "fail: {msg: x}")
    text += "  handlers:\n    - {name: h, fail: {}}\n"
    found = course(load(write(tmp_path, text)), "present")
    assert (found.plain, found.release.notify) == (False, ("h",))
    alone = play(f"{{{RELEASE}, notify: h}}") + "  handlers: [{name: h, fail: {}}]\n"
    assert not course(load(write(tmp_path, alone)), "present").plain


# the command's state, the play, the line and column of the error, a word of its message or hint
REFUSED: dict[str, tuple[State, str, tuple[int, int], str]] = {
    "no release": ("present", play("fail: {}"), (1, 3), "no release task"),
    "two releases": ("present", play(RELEASE, RELEASE), (4, 7), "one transaction"),
    "in a loop": ("present", play(f"{{{RELEASE}, loop: [1]}}"), (3, 79), "one release"),
    "when": ("present", play(f"{{{RELEASE}, when: ogen_node}}"), (3, 79), "--limit"),
    "never": ("present", play(f"{{{RELEASE}, tags: never}}"), (3, 7), "would not run"),
    "other state": ("previous", play(RELEASE), (3, 62), "wants `state: previous`"),
    "state left out": ("absent", play("ogen.fleet.release: {}"), (3, 7), "wants `state: absent`"),
    "no src": ("present", play("ogen.fleet.release: {state: present}"), (3, 7), "needs `src`"),
    "other src": ("present", play("ogen.fleet.release: {src: /tmp/x}"), (3, 33), "ogen_release"),
    "id of apply": (
        "present",
        play(RELEASE.replace('}}"', '}}", id: x')),
        (3, 59),
        "--to",
    ),
    "id of its own": ("previous", play(BACK + ", id: 0f1e}"), (3, 49), "ogen_to"),
    "two plays": ("present", play(RELEASE) + "- hosts: all\n", (4, 3), "one play"),
    "some hosts": ("present", play(RELEASE, head="- hosts: boxes\n"), (1, 3), "`hosts: all`"),
    "serial of rollback": (
        "previous",
        play(BACK + "}", head="- hosts: all\n  serial: 1\n"),
        (2, 11),
        "for `ogen apply`",
    ),
    "models alone": ("present", play(MODELS, "fail: {}", RELEASE), (3, 7), "directly before"),
    "models of rollback": ("previous", play(MODELS, BACK + "}"), (3, 7), "is for `ogen apply`"),
    "models notify": (
        "present",
        play(f"{{{MODELS}, notify: h}}", RELEASE) + "  handlers: [{name: h, fail: {}}]\n",
        (3, 7),
        "release task",
    ),
    "handler": (
        "present",
        play(RELEASE) + "  handlers:\n    - {name: h, ogen.fleet.drain: {state: served}}\n",
        (5, 7),
        "can't be a handler",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_t_be_done_is_an_error_with_its_place(tmp_path: Path, case: str) -> None:
    state, text, place, word = REFUSED[case]
    found = errors_of(write(tmp_path, text), state)[0]
    assert found.where is not None
    assert ((found.where.line, found.where.column), word in str(found)) == (place, True), str(found)


def errors_of(path: Path, state: State) -> list[OgenError]:
    with pytest.raises((PlaybookError, Problems)) as caught:
        course(load(path), state)
    return list(caught.value.errors) if isinstance(caught.value, Problems) else [caught.value]


def test_provision_has_no_release(tmp_path: Path) -> None:
    with pytest.raises(PlaybookError, match="no task for `ogen provision`") as caught:
        without_release(load(write(tmp_path, play("fail: {}", RELEASE))))
    assert str(caught.value.where).endswith("play.yaml:4:7")
