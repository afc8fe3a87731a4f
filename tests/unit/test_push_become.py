"""Becoming root: no byte to a prompt, the password once, and what to do when it can't be had."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ogen import push
from ogen.errors import BecomeError, HostError, RemoteError
from ogen.inventory.model import Host, Secret, Ssh
from ogen.push import become
from ogen.push.bundle import bundle
from ogen.push.pipes import ProcessPipe

SUDO = """\
#!/bin/sh
# a sudo that asks for the password "right", {tries} times
while [ "$1" != -- ]; do
    case $1 in -p) prompt=$2; shift ;; -n) quiet=1 ;; esac
    shift
done
shift
[ -z "$quiet" ] || {{ echo "sudo: a password is required" >&2; exit 1; }}
for i in $(seq {tries}); do
    printf %s "$prompt" >&2
    read -r word
    echo "$word" >>{log}
    [ "$word" != right ] || exec "$@"
    echo "Sorry, try again." >&2
done
exit 1
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What was typed into sudo."""
    typed = tmp_path / "typed"
    script = tmp_path / "bin/sudo"
    script.parent.mkdir()
    script.write_text(SUDO.format(tries=3, log=typed))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    return typed


def hello(password: str | None) -> dict[str, object] | HostError:
    secret = Secret("env", "X") if password is not None else None
    host = Host("here", "127.0.0.1", connection="local", ssh=Ssh(become=True, become_password=secret))
    options = push.Options(push.Keyring(reveal=lambda secret: password or ""))
    return push.hello([host], options)["here"]  # type: ignore[return-value]


def test_the_password_goes_out_once(log: Path) -> None:
    found = hello("right")
    assert not isinstance(found, HostError), found
    assert log.read_text() == "right\n"


def test_a_wrong_password_is_not_tried_again(log: Path) -> None:
    found = hello("wrong")
    assert isinstance(found, BecomeError)
    assert "does not take the password" in found.message
    assert "ssh.become_password" in str(found.hint)
    assert log.read_text().split("\n")[0] == "wrong"
    assert "OGN1" not in log.read_text()


def test_without_a_password_nothing_is_typed(log: Path) -> None:
    found = hello(None)
    assert isinstance(found, BecomeError)
    assert "become_password" in str(found.hint)
    assert not log.exists()


def test_the_password_is_in_no_command_line(log: Path) -> None:
    host = Host("h", "h", ssh=Ssh(become=True))
    begun = become.start(host, bundle(), "hunter2")
    assert "hunter2" not in begun.line


def test_a_folder_needs_no_root() -> None:
    host = Host("h", "h", root="/srv/image", ssh=Ssh(become=True))
    assert become.start(host, bundle(), None).command[0] == "python3"


@pytest.mark.parametrize(
    ("said", "kind", "hint"),
    [
        ("guest is not in the sudoers file.  This incident", BecomeError, "NOPASSWD"),
        ("sudo: sorry, you must have a tty to run sudo", BecomeError, "requiretty"),
        ("sudo: a password is required", BecomeError, "become_password"),
        ("bash: sudo: command not found", BecomeError, "install sudo"),
    ],
)
def test_what_sudo_says(said: str, kind: type[HostError], hint: str) -> None:
    host = Host("h", "h", ssh=Ssh(user="guest", become=True))
    begun = become.start(host, bundle(), None)
    said = said if said.startswith("sudo") or "sudo:" in said else f"sudo: {said}"
    pipe = ProcessPipe("h", ("sh", "-c", 'echo "$0" >&2; exit 1', said))
    with pytest.raises(kind) as caught:
        become.greet(pipe, begun, host)
    pipe.close()
    assert hint in str(caught.value.hint)


def test_a_noisy_login_does_not_disturb() -> None:
    host = Host("h", "h")
    begun = become.start(host, bundle(), None)
    noise = f"echo Welcome; echo ogen other have; echo; printf 'ogen {begun.nonce} need\\nrest'"
    pipe = ProcessPipe("h", ("sh", "-c", noise))
    assert become.greet(pipe, begun, host) is False
    assert pipe.take(4, 5) == b"rest"
    pipe.close()


def test_a_python_that_is_too_old() -> None:
    host = Host("h", "h")
    begun = become.start(host, bundle(), None)
    pipe = ProcessPipe("h", ("sh", "-c", "echo 'ogen: python 3.8 or later is needed' >&2; exit 1"))
    with pytest.raises(RemoteError) as caught:
        become.greet(pipe, begun, host)
    pipe.close()
    assert caught.value.log == ("ogen: python 3.8 or later is needed",)
