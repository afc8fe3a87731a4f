"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def inventory(command: F) -> F:
    """INVENTORY: a file, or a folder of files; passed as `path`."""
    return click.argument(
        "path", metavar="INVENTORY", type=click.Path(path_type=Path), envvar="OGEN_INVENTORY"
    )(command)


def limit(command: F) -> F:
    """--limit PATTERN; passed as `limit`, None if not given."""
    return click.option(
        "--limit",
        metavar="PATTERN",
        help="Only these hosts: names, groups, `gpu*`, `a,b`, `!gpu07`. No match is an error.",
    )(command)


def since(help_text: str) -> Callable[[F], F]:
    """--since SPAN, 24 hours if not given; passed as `since`, in seconds."""
    from .spans import Span  # only these commands wait for what reads it

    return click.option(
        "--since", metavar="SPAN", type=Span(), default="24h", show_default=True, help=help_text
    )


def shape(*choices: str) -> Callable[[F], F]:
    """--format; the first choice is the default; passed as `shape`."""

    def add(command: F) -> F:
        return click.option(
            "--format",
            "shape",
            type=click.Choice(choices),
            default=choices[0],
            show_default=True,
            help="How the result is printed.",
        )(command)

    return add


def tags(command: F) -> F:
    """--tags; passed as `tags`, None if not given."""
    return click.option(
        "--tags", metavar="TAG,…", help="Only the playbook's tasks with one of these tags, and its release."
    )(command)


def parallel(command: F) -> F:
    """--parallel N; passed as `parallel`."""
    return click.option(
        "--parallel",
        metavar="N",
        type=click.IntRange(1, 512),
        default=32,
        show_default=True,
        help="How many hosts are worked on at once.",
    )(command)
