"""`ogen queue` before a host is asked: what is misspelt is told with what there is; names are completed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from ogen import shipped
from ogen.cli.app import ogen


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    shutil.copy(shipped.folder("inventories") / "queue.yaml", tmp_path)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "queue").write_text("correct-horse-battery-staple\n")
    (tmp_path / "secrets" / "keys.yaml").write_text("alice: alice-0123456789abcdef\n")
    return tmp_path / "queue.yaml"


def run(*words: object) -> Result:
    return CliRunner().invoke(ogen, ["queue", *map(str, words)])


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["status", "--queue", "job"], "there is no queue 'job'", "did you mean 'jobs'?"),
        (["submit", "chatt", "hi"], "queue jobs has no model 'chatt'", "did you mean 'chat'?"),
        # a model of the inventory, but none of the queue's
        (["submit", "embed", "hi"], "queue jobs has no model 'embed'", "models: chat, gpt-4o-mini"),
        (["drain", "--model", "cht"], "queue jobs has no model 'cht'", "did you mean 'chat'?"),
        (["retry", "--model", "cht"], "queue jobs has no model 'cht'", "did you mean 'chat'?"),
        (["discard"], "which dead letters?", "--all"),
        (["discard", "chat.1", "--all"], "which dead letters?", "--all"),
        (["submit", "chat", "hi", "--deadline", "soon"], "'soon' is no span of time", "10m"),
    ],
)
def test_what_is_misspelt_is_told_before_a_host_is_asked(
    inventory: Path, words: list[str], error: str, hint: str
) -> None:
    result = run(words[0], inventory, *words[1:])
    assert result.exit_code == 1, result.output
    assert error in result.stderr
    assert hint in result.stderr


def test_a_fleet_without_a_queue(tmp_path: Path) -> None:
    result = run("status", shipped.folder("inventories") / "dual-3090.yaml")
    assert (result.exit_code, "docs/queue.md" in result.stderr) == (1, True)


def test_a_short_secret_is_told_with_how_to_make_one(inventory: Path) -> None:
    inventory.with_name("secrets").joinpath("queue").write_text("short\n")
    result = CliRunner().invoke(ogen, ["apply", str(inventory), "--dry-run"])
    assert result.exit_code == 1
    assert "a queue's secret needs at least 16 characters" in result.stderr
    assert "queue.yaml:42:15" in result.stderr
    assert "openssl rand -hex 32" in result.stderr


@pytest.mark.parametrize(
    ("words", "begun", "offered"),
    [
        (["status", "--queue"], "", ["jobs"]),
        (["drain", "--model"], "", ["chat"]),
        (["submit"], "", ["chat", "gpt-4o-mini"]),
        (["submit"], "gpt", ["gpt-4o-mini"]),
    ],
)
def test_names_are_completed(inventory: Path, words: list[str], begun: str, offered: list[str]) -> None:
    def found(path: object) -> list[str]:
        shell = ShellComplete(ogen, {}, "ogen", "_OGEN_COMPLETE")
        given = ["queue", words[0], str(path), *words[1:]]
        return sorted(one.value for one in shell.get_completions(given, begun))

    assert found(inventory) == offered
    assert found(inventory.with_name("none.yaml")) == [], (
        "what can't be read offers nothing, and says nothing"
    )
