"""Where text goes: stdout is data, stderr is people. Neither shows a secret or others' control characters."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
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


def hide(redact: Callable[[str], str] | None) -> None:
    """From here on, whatever is printed goes through `redact` (a vault's); None: as it is."""
    global _redact
    _redact = redact or str


_redact: Callable[[str], str] = str


def safe(text: str) -> str:
    """`text` without secrets, and without characters that steer a terminal."""
    return clean(_redact(text))


def out(text: str = "", *, newline: bool = True) -> None:
    """Data, to stdout, made safe."""
    sys.stdout.write(safe(text) + ("\n" if newline else ""))


def raw(text: str) -> None:
    """Data that is clean already, colours included, to stdout."""
    sys.stdout.write(_redact(text))


def say(text: str = "") -> None:
    """A word for people, to stderr, made safe."""
    sys.stderr.write(safe(text) + "\n")


def tell(text: str) -> None:
    """A word for people that is clean already, colours included, to stderr."""
    sys.stderr.write(_redact(text) + "\n")


def paint(text: str, colour: str, *, bold: bool = False, stream: TextIO | None = None) -> str:
    """`text` cleaned, and in colour where `stream` (stdout, if not given) can show it."""
    text = safe(text)
    return click.style(text, fg=colour, bold=bold or None) if colourful(stream) else text


def document(value: dict[str, Any]) -> None:
    """The one JSON document of a command; ASCII, so that no character in it steers a terminal."""
    session = click.get_current_context().find_root().obj
    if session is not None:
        if session.printed:
            raise RuntimeError("a command prints one JSON document, not two")
        session.printed = True
    write_json(value)


def write_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json_text(value))


def json_text(value: dict[str, Any]) -> str:
    """Redacted value by value, so that the document stays one."""
    return json.dumps(_redacted({"version": FORMAT_VERSION, **value}), indent=2, default=str) + "\n"


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return _redact(value)
    if isinstance(value, Mapping):
        return {_redact(str(key)): _redacted(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redacted(one) for one in value]
    return value


def count(number: int, noun: str) -> str:
    """Such as "1 host", "3 hosts"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
