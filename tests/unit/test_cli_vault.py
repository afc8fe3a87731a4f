"""Secrets: read once, by the three ways; errors name them and never show them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from ogen.cli.vault import MAX_BYTES, Vault
from ogen.errors import UsageError
from ogen.inventory.model import Secret

CANARY = "canary-8c1e77"


def secret(kind: Literal["env", "file", "command"], *argument: str) -> Secret:
    return Secret(kind, argument if kind == "command" else argument[0])


def test_the_three_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OGEN_TEST_SECRET", CANARY)
    (tmp_path / "key").write_text(CANARY + "\n")
    vault = Vault(str(tmp_path))
    assert vault(secret("env", "OGEN_TEST_SECRET")) == CANARY
    assert vault(secret("file", "key")) == CANARY
    assert vault(secret("command", "cat", "key")) == CANARY


def test_a_command_runs_once_and_without_a_shell(tmp_path: Path) -> None:
    vault = Vault(str(tmp_path))
    asked = secret(
        "command", "python3", "-c", "import sys; open('log', 'a').write('x'); print(sys.argv[1])", "a;b $HOME"
    )
    assert vault(asked) == vault(asked) == "a;b $HOME"
    assert (tmp_path / "log").read_text() == "x"


def test_what_was_revealed_is_redacted(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(CANARY)
    vault = Vault(str(tmp_path))
    assert CANARY in vault.redactor()(f"key {CANARY}")
    vault(secret("file", "key"))
    assert CANARY not in vault.redactor()(f"key {CANARY}")
    assert vault.redactor().mark("x") == vault.redactor().mark("x")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (secret("env", "OGEN_TEST_NOT_SET"), "is not set"),
        (secret("file", "nothing"), "no such file"),
        (secret("file", "."), "is a directory"),
        (secret("command", "/nonexistent/x"), "can't be run"),
        (secret("command", "sh", "-c", "echo why >&2; exit 3"), "ended with 3: why"),
        (secret("command", "true"), "is empty"),
        (secret("command", "printf", "\\377"), "not UTF-8"),
        (secret("command", "head", "-c", str(MAX_BYTES + 1), "/dev/zero"), "longer than"),
    ],
)
def test_what_can_go_wrong(tmp_path: Path, asked: Secret, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Vault(str(tmp_path))(asked)


def test_a_failing_commands_output_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        Vault(str(tmp_path))(secret("command", "sh", "-c", "printf %s canary-; printf %s 8c1e77; exit 1"))
    assert CANARY not in str(raised.value)
