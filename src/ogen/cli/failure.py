"""Errors for people and for programs: what, where with excerpt and caret, how to mend it."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from ..errors import HostError, OgenError, Problems, Where
from ..release.plaintext import clean
from . import console
from .exits import Exit, worst


def report(error: BaseException, *, shape: str, printed: bool = False) -> Exit:
    """Prints `error` as `shape` (the --format asked for) wants it; returns the exit code."""
    errors = list(each(error))
    if shape == "json" and not printed:
        console.write_json({"errors": [as_json(e) for e in errors]})
    elif shape == "github":
        for one in errors:
            console.raw(as_github(one) + "\n")
    else:
        for one in errors:
            console.tell(as_text(one))
        if len(errors) > 1:
            console.tell(console.paint(f"{len(errors)} errors", "red", bold=True, stream=sys.stderr))
    return worst(getattr(e, "exit_code", Exit.WRONG) for e in errors)


def each(error: BaseException) -> Iterator[OgenError]:
    """The single errors in `error`, each as an OgenError."""
    if isinstance(error, Problems):
        for one in error.errors:
            yield from each(one)
    elif isinstance(error, OgenError):
        yield error
    elif isinstance(error, click.ClickException):
        yield _from_click(error)
    elif isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        yield OgenError(f"{name}{error.strerror.lower()}")
    else:
        told = str(error)
        yield OgenError(
            f"internal error: {type(error).__name__}{': ' + told if told else ''}",
            hint="this is a bug in ogen; run the command with --debug and report what it shows",
        )


def _from_click(error: click.ClickException) -> OgenError:
    """click's message without its own suggestions, and a hint in ogen's words."""
    message = re.sub(r"\s*\(?Did you mean.*|\s*\(Possible options:.*", "", error.format_message()).strip()
    message = message[:1].lower() + message[1:].rstrip(".")
    message = message.replace("is not a valid float range", "is no number")
    message = message.replace("is not a valid integer range", "is no whole number")
    hint = None
    context = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption) and context is not None:
        known = [o for p in context.command.params for o in p.opts]
        hint = did_you_mean(error.option_name, known)
    extra = re.search(r"unexpected extra arguments? \((.+)\)", message)
    if extra and context is not None and any("--limit" in p.opts for p in context.command.params):
        hint = f"hosts are chosen by --limit {extra[1].replace(' ', ',')}"
    if hint is None and context is not None:
        hint = f"`{context.command_path} --help` shows how it is used"
    return OgenError(message, hint=hint)


def did_you_mean(word: str, known: Sequence[str]) -> str | None:
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    return "did you mean " + " or ".join(f"`{n}`" for n in near) + "?" if near else None


def as_text(error: OgenError) -> str:
    """The error as people read it; a host's last log lines come with it."""

    def paint(text: str, colour: str) -> str:
        return console.paint(text, colour, bold=True, stream=sys.stderr)

    lines = [f"{paint('error:', 'red')} {_who(error)}{clean(error.message)}"]
    if error.where is not None:
        lines.append(f"  {paint('-->', 'blue')} {clean(str(error.where))}")
        lines += [clean(line) for line in error.where.excerpt().splitlines()]
    if isinstance(error, HostError):
        lines += [f"    | {clean(line)}" for line in error.log]
    if error.hint:
        lines.append(f"  {paint('hint:', 'cyan')} {clean(error.hint)}")
    return "\n".join(lines)


def _who(error: OgenError) -> str:
    return f"{clean(error.host)}: " if isinstance(error, HostError) else ""


def as_json(error: OgenError) -> dict[str, Any]:
    where = error.where
    shown: dict[str, Any] = {
        "message": error.message,
        "file": where.file if where else None,
        "line": where.line if where else None,
        "column": where.column if where else None,
        "hint": error.hint,
    }
    if isinstance(error, HostError):
        shown |= {"host": error.host, "log": list(error.log)}
    return shown


def as_github(error: OgenError, level: str = "error") -> str:
    """The error as an annotation."""
    message = _who(error) + error.message + (f"\n{error.hint}" if error.hint else "")
    return annotation(level, message, error.where)


def annotation(level: str, message: str, where: Where | None) -> str:
    """A workflow command that GitHub shows beside the line; the text can't end it early."""
    place = f" file={_property(where.file)},line={where.line},col={where.column}" if where else ""
    return f"::{level}{place}::{_data(clean(message))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(clean(text)).replace(":", "%3A").replace(",", "%2C")
