"""Where text goes: stdout is data, stderr is people. Both are cleaned of others' control characters."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO

import click

from ..release.plaintext import clean

FORMAT_VERSION = 1


def colourful(stream: TextIO | None = None) -> bool:
    """Whether colour helps: a terminal, and nobody asked for none."""
    stream = stream or sys.stdout
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def out(text: str = "", *, newline: bool = True) -> None:
    """Data, to stdout, cleaned."""
    raw(clean(text) + ("\n" if newline else ""))


def raw(text: str) -> None:
    """Data that is clean already, colours included."""
    sys.stdout.write(text)


def say(text: str = "") -> None:
    """A word for people, to stderr, cleaned."""
    tell(clean(text))


def tell(text: str) -> None:
    """A word for people that is clean already, colours included."""
    sys.stderr.write(text + "\n")


def paint(text: str, colour: str, *, bold: bool = False, stream: TextIO | None = None) -> str:
    """`text` cleaned, and in colour where `stream` (stdout, if not given) can show it."""
    text = clean(text)
    return click.style(text, fg=colour, bold=bold or None) if colourful(stream) else text


def document(value: dict[str, Any]) -> None:
    """The one JSON document of a command; ASCII, so that no character in it steers a terminal."""
    session = click.get_current_context().find_root().obj
    if session is not None:
        if session.printed:
            raise RuntimeError("a command prints one JSON document, not two")
        session.printed = True
    raw(dumped(value))


def dumped(value: dict[str, Any]) -> str:
    return json.dumps({"version": FORMAT_VERSION, **value}, indent=2, default=str) + "\n"
