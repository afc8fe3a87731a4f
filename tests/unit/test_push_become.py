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
from ogen.push.access import Keyring
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


def fleet(words: dict[str, str], **keyring: object) -> dict[str, object]:
    """`hello` at hosts that are all this machine; `words`: host → its sudo password in the inventory."""
    hosts = [
        Host(
            name,
            "127.0.0.1",
            connection="local",
            ssh=Ssh(become=True, become_password=Secret("env", word) if word else None),
        )
        for name, word in words.items()
    ]
    ring = Keyring(reveal=lambda secret: str(secret.argument), **keyring)  # type: ignore[arg-type]
    return dict(push.hello(hosts, push.Options(ring)))


def test_a_wrong_password_costs_one_failure_on_one_host(log: Path) -> None:
    found = fleet({f"h{n}": "wrong" for n in range(6)})
    errors = [error for error in found.values() if isinstance(error, BecomeError)]
    assert len(errors) == 6
    assert log.read_text().split() == ["wrong"]
    tried = [error for error in errors if "does not take the password" in error.message]
    assert len(tried) == 1
    rest = [error for error in errors if error is not tried[0]]
    assert {error.message for error in rest} == {
        f"sudo's password was not tried: {tried[0].host} did not take the same one"
    }


def test_each_password_has_its_own_verdict(log: Path) -> None:
    found = fleet({"a": "wrong", "b": "right", "c": "wrong", "d": "right", "e": "other"})
    assert [n for n, answer in found.items() if not isinstance(answer, HostError)] == ["b", "d"]
    assert sorted(log.read_text().split()) == ["other", "right", "right", "wrong"]


def test_a_person_is_asked_once(log: Path) -> None:
    questions: list[str] = []

    def ask(question: str) -> str:
        questions.append(question)
        return "right"

    found = fleet({"a": "", "b": "", "c": "right"}, ask=ask)
    assert not [answer for answer in found.values() if isinstance(answer, HostError)]
    assert len(questions) == 1
    assert questions[0].startswith("sudo password of ")
    assert questions[0].endswith("(asked once for all hosts): ")


def test_a_person_who_answers_nothing(log: Path) -> None:
    found = fleet({"a": "", "b": ""}, ask=lambda question: None)
    assert [type(answer) for answer in found.values()] == [BecomeError, BecomeError]
    assert not log.read_text().strip()  # the end of its input is all that sudo got


def test_a_question_that_is_not_sudos_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PAM module may ask something else: that is no place for the password, and the host says it."""
    script = tmp_path / "bin/sudo"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\nprintf 'Lecture.\\nOne-time code: ' >&2\nread -r w\necho $w >typed\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(become, "GREETING", 0.5)
    monkeypatch.chdir(tmp_path)
    found = hello("right")
    assert isinstance(found, BecomeError)
    assert found.message.endswith("asks a question of its own: One-time code:")
    assert "passprompt_override" in str(found.hint)
    assert not (tmp_path / "typed").exists() or not (tmp_path / "typed").read_text().strip()


def test_the_password_is_in_no_command_line(log: Path) -> None:
    host = Host("h", "h", ssh=Ssh(become=True, become_password=Secret("env", "X")))
    begun = become.start(host, bundle(), Keyring(reveal=lambda secret: "hunter2"))
    assert "hunter2" not in begun.line


def test_a_folder_needs_no_root() -> None:
    host = Host("h", "h", root="/srv/image", ssh=Ssh(become=True))
    assert become.start(host, bundle(), Keyring()).command[0] == "python3"


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("guest is not in the sudoers file.  This incident", "guest ALL=(root) NOPASSWD: ALL"),
        ("sudo: sorry, you must have a tty to run sudo", "Defaults:guest !requiretty"),
        ("sudo: a password is required", "become_password"),
        ("bash: sudo: command not found", "install sudo"),
        ("env: 'sudo': No such file or directory", "install sudo"),
        ("Sorry, user guest is not allowed to execute 'x' as root on box.", "visudo -f /etc/sudoers.d/ogen"),
        ("sudo: account validation failure, is your account locked?", "faillock --user guest"),
        ("sudo: effective uid is not 0, is sudo installed setuid root?", "chmod 4755"),
        ("sudo: unable to resolve host box: x\nsudo: 1 incorrect password attempt", "tried only once"),
        ("sudo: something new", "NOPASSWD"),
    ],
)
def test_what_sudo_says(said: str, hint: str) -> None:
    host = Host("h", "h", ssh=Ssh(user="guest", become=True))
    begun = become.start(host, bundle(), Keyring())
    pipe = ProcessPipe("h", ("sh", "-c", 'echo "$0" >&2; exit 1', said))
    with pytest.raises(BecomeError) as caught:
        become.greet(pipe, begun, host)
    pipe.close()
    assert hint in str(caught.value.hint)


def test_a_word_of_sudo_is_no_refusal() -> None:
    host = Host("h", "h", ssh=Ssh(user="guest", become=True))
    begun = become.start(host, bundle(), Keyring())
    said = "echo 'sudo: unable to resolve host box' >&2; echo 'ogen: out of memory' >&2; exit 1"
    pipe = ProcessPipe("h", ("sh", "-c", said))
    with pytest.raises(RemoteError, match="out of memory"):
        become.greet(pipe, begun, host)
    pipe.close()


def test_a_login_that_says_hello_without_a_line_end() -> None:
    host = Host("h", "h")
    begun = become.start(host, bundle(), Keyring())
    pipe = ProcessPipe("h", ("sh", "-c", f"printf 'hi, ogen {begun.nonce} have\\n'"))
    assert become.greet(pipe, begun, host) is True
    pipe.close()


def test_a_noisy_login_does_not_disturb() -> None:
    host = Host("h", "h")
    begun = become.start(host, bundle(), Keyring())
    noise = f"echo Welcome; echo ogen other have; echo; printf 'ogen {begun.nonce} need\\nrest'"
    pipe = ProcessPipe("h", ("sh", "-c", noise))
    assert become.greet(pipe, begun, host) is False
    assert pipe.take(4, 5) == b"rest"
    pipe.close()


def test_a_python_that_is_too_old() -> None:
    host = Host("h", "h")
    begun = become.start(host, bundle(), Keyring())
    pipe = ProcessPipe("h", ("sh", "-c", "echo 'ogen: python 3.8 or later is needed' >&2; exit 1"))
    with pytest.raises(RemoteError) as caught:
        become.greet(pipe, begun, host)
    pipe.close()
    assert caught.value.log == ("ogen: python 3.8 or later is needed",)
