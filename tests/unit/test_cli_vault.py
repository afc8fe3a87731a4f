"""The vault: each secret is read once, and hidden from then on. Reading: test_inventory_secrets.py."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from ogen.cli.vault import Vault
from ogen.errors import InventoryError
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


def test_what_lies_outside_of_the_folder_is_refused_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(CANARY)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "link").symlink_to(tmp_path / "secret")
    for name in ("../secret", "link", str(tmp_path / "secret")):
        with pytest.raises(InventoryError, match="outside") as raised:
            Vault(str(tmp_path / "project"))(secret("file", name))
        assert CANARY not in str(raised.value)
