"""Becoming root on real boxes: every way in which sudo refuses, over both clients, and a person who types."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import OGEN, Project
from lab import Lab, lab

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from terminals import Terminal

from ogen import push
from ogen.errors import BecomeError, HostError
from ogen.inventory.model import Host, Secret, Ssh

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(300)]

BOXES = ("left", "right")
INVENTORY = """\
version: 1
ssh: {{user: ops, become: true, key: key}}
hosts:
  left: {{address: {left}}}
  right: {{address: {right}}}
"""


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with lab("become") as made:
        made.up(*BOXES, gpus="none")
        project = Project(made, tmp_path_factory.mktemp("project"), boxes=BOXES)
        project.write(INVENTORY)
        yield project


def hello(
    project: Project, user: str, password: str | None = None, transport: str = "paramiko"
) -> dict[str, Any]:
    """The facts of both boxes, or why root can't be had; `password` is the inventory's for sudo."""
    secret = Secret("env", "X") if password else None
    ssh = Ssh(user=user, key="key", become=True, become_password=secret)
    hosts = [Host(n, project.lab.address(n), transport=transport, ssh=ssh) for n in BOXES]  # type: ignore[arg-type]
    ring = push.Keyring(str(project.folder), (project.lab.known_hosts,), lambda secret: password or "")
    return dict(push.hello(hosts, push.Options(ring)))


def fine(found: dict[str, Any]) -> None:
    wrong = [error for error in found.values() if isinstance(error, HostError)]
    assert not wrong, [f"{error} {error.log}" for error in wrong]


def refusals(found: dict[str, Any]) -> list[BecomeError]:
    errors = [error for error in found.values() if isinstance(error, BecomeError)]
    assert len(errors) == len(BOXES), found
    return errors


def journal(made: Lab, words: str) -> list[str]:
    """What both boxes logged about sudo so far, as far as it has these words."""
    text = "".join(made.sh(box, "journalctl --sync; journalctl -t sudo -o cat") for box in BOXES)
    return [line for line in text.splitlines() if re.search(words, line)]


def sudoers(made: Lab, text: str) -> None:
    for box in BOXES:
        made.sh(
            box, f"printf '%s\\n' '{text}' >>/etc/sudoers.d/zz-test; chmod 440 /etc/sudoers.d/*; visudo -c"
        )


@pytest.fixture
def rules(boxes: Project) -> Iterator[Project]:
    """Whatever a test adds to sudoers goes away with it."""
    yield boxes
    for box in BOXES:
        boxes.lab.sh(box, "rm -f /etc/sudoers.d/zz-test")


@pytest.mark.parametrize("transport", ["paramiko", "openssh"])
def test_with_and_without_a_password(boxes: Project, transport: str) -> None:
    fine(hello(boxes, "admin", None, transport))
    fine(hello(boxes, "admin", "needless", transport))  # sudo does not ask: it goes nowhere
    fine(hello(boxes, "ops", "ops", transport))
    for error in refusals(hello(boxes, "ops", None, transport)):
        assert "a password is required" in error.message
        assert "set ssh.become_password, run this on a terminal" in str(error.hint)


def test_a_wrong_password_costs_one_failure_on_one_host(boxes: Project) -> None:
    before = len(journal(boxes.lab, "authentication failure"))
    errors = refusals(hello(boxes, "ops", "wrong"))
    tried = [error for error in errors if "does not take the password" in error.message]
    assert len(tried) == 1
    (other,) = [error for error in errors if error not in tried]
    assert other.message == f"sudo's password was not tried: {tried[0].host} did not take the same one"
    assert len(journal(boxes.lab, "authentication failure")) == before + 1
    # the other host's sudo was left at its prompt: that is no failed login, and nothing was typed
    assert len(journal(boxes.lab, r"\d incorrect password attempt")) == 1
    fine(hello(boxes, "ops", "ops"))


def test_one_try_only(rules: Project) -> None:
    sudoers(rules.lab, "Defaults:ops passwd_tries=1, lecture=always")
    fine(hello(rules, "ops", "ops"))  # the lecture does not disturb
    tried = [e for e in refusals(hello(rules, "ops", "wrong")) if "does not take the password" in e.message]
    assert len(tried) == 1


@pytest.mark.parametrize(
    ("user", "rule", "says"),
    [
        ("admin", "Defaults:admin requiretty", "must have a tty"),
        ("guest", None, "a password is required"),
    ],
)
def test_the_line_that_is_named_helps(rules: Project, user: str, rule: str | None, says: str) -> None:
    """The hint's line for sudoers, put there, lets the next attempt in."""
    if rule:
        sudoers(rules.lab, rule)
    for error in refusals(hello(rules, user)):
        assert says in error.message
        line = str(error.hint).split("add to sudoers (visudo -f /etc/sudoers.d/ogen): ")[1]
    sudoers(rules.lab, line)
    fine(hello(rules, user))


def test_a_user_without_rights_and_with_a_password(boxes: Project) -> None:
    for box in BOXES:
        boxes.lab.sh(box, "echo guest:guest | chpasswd")
    for error in refusals(hello(boxes, "guest", "guest")):
        assert "guest is not in the sudoers file" in error.message
        assert str(error.hint).endswith("guest ALL=(root) NOPASSWD: ALL")


def test_a_profile_that_prints(boxes: Project) -> None:
    for box in BOXES:
        boxes.lab.sh(box, "echo 'echo Hello; echo more >&2; printf %s there,' >/home/admin/.bashrc")
    fine(hello(boxes, "admin"))
    fine(hello(boxes, "admin", transport="openssh"))


def test_apply_asks_at_a_terminal_once(boxes: Project) -> None:
    """For two hosts, with the right word and a wrong one; nothing is changed by the wrong one."""
    command = [*OGEN, "apply", str(boxes.inventory), "--yes"]
    for word, code in (("wrong", 3), ("ops", None)):
        one = Terminal(*command, env=boxes.env)
        one.until("(asked once for all hosts): ", 60)
        one.type(f"{word}\n".encode())
        status = one.end(60)
        assert one.shown.count("asked once") == 1
        assert f"{word}\n" not in one.shown
        if code is not None:
            assert status == code, one.shown
            assert "does not take the password" in one.shown
            assert "was not tried" in one.shown
            for box in BOXES:
                boxes.lab.sh(box, "test ! -e /etc/ogen")
        else:
            assert "password" not in one.shown.split("asked once for all hosts): ")[1], one.shown
            assert status == 0, one.shown
    for box in BOXES:
        boxes.lab.sh(box, "test -e /etc/ogen/current")
