"""docs/commands.md is what --help says. OGEN_UPDATE_GOLDEN=1 writes it anew."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
from click.testing import CliRunner

from ogen.cli import commands
from ogen.cli.app import ogen

DOCUMENT = Path(__file__).parents[2] / "docs" / "commands.md"
HEAD = (
    "# Commands\n\nWhat `ogen --help` and `ogen COMMAND --help` print; a test holds this page equal to it.\n"
)


def page() -> str:
    parts = [HEAD, _block("ogen")]
    for title, part in commands.SECTIONS.items():
        parts.append(f"\n## {title}\n")
        parts += [f"\n### {name}\n{_block('ogen', name)}{_parts(name)}" for name in part]
    return "".join(parts)


def _parts(name: str) -> str:
    """What a command of commands consists of."""
    command = commands.load(name)
    inner = command.commands if isinstance(command, click.Group) else ()
    return "".join(_block("ogen", name, one) for one in inner)


def _block(*words: str) -> str:
    result = CliRunner(env={"COLUMNS": "100"}).invoke(ogen, [*words[1:], "--help"], terminal_width=100)
    assert result.exit_code == 0, result.output
    return f"\n```text\n$ {' '.join(words)} --help\n{result.stdout.rstrip()}\n```\n"


def fresh() -> str:
    """The page by a Python of its own: click keeps what a command's first call made of its --help."""
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_page_is_what_help_says() -> None:
    if os.environ.get("OGEN_UPDATE_GOLDEN"):
        DOCUMENT.write_text(fresh())
    assert DOCUMENT.read_text() == fresh()


if __name__ == "__main__":
    sys.stdout.write(page())
