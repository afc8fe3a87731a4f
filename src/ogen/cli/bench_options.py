"""The options of `ogen bench`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .options import F
from .spans import Span

MOST = 512  # connections: more need more files than a process may open
PROMPT = "Explain to a curious child, in plain words and a few sentences, why the sky is blue."


def _sweep(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...]:
    words = [word.strip() for word in value.split(",")] if value else []
    if not all(word.isdigit() and 1 <= int(word) <= MOST for word in words) or len(words) > 32:
        raise click.BadParameter(f"{value!r} is no list such as 1,2,4,8 (up to 32 numbers from 1 to {MOST})")
    return tuple(dict.fromkeys(map(int, words)))


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.argument(
        "path",
        metavar="[INVENTORY]",
        required=False,
        type=click.Path(path_type=Path),
        envvar="OGEN_INVENTORY",
    ),
    click.option("--balancer", metavar="NAME", help="Which one, if there are several."),
    click.option(
        "--url", metavar="URL", help="Send there; without INVENTORY nothing but this URL is contacted."
    ),
    click.option("--model", metavar="NAME", help="Which one, if there are several."),
    click.option(
        "--concurrency",
        metavar="N",
        type=click.IntRange(1, MOST),
        default=8,
        show_default=True,
        help="Requests under way at once.",
    ),
    click.option(
        "--sweep",
        metavar="N,N,…",
        callback=_sweep,
        help="A run for each of these concurrencies, and the knee.",
    ),
    click.option(
        "--requests", metavar="N", type=click.IntRange(1, 1_000_000), help="End each run after so many."
    ),
    click.option(
        "--duration",
        metavar="SPAN",
        type=Span(),
        help="End each run after that time; 30s if nothing ends it.",
    ),
    click.option(
        "--tokens",
        metavar="N",
        type=click.IntRange(1, 100_000),
        default=128,
        show_default=True,
        help="The longest answer.",
    ),
    click.option(
        "--prompt",
        metavar="TEXT",
        default=PROMPT,
        help="What is asked, after a number that no request has twice; @FILE reads it from there.",
    ),
    click.option(
        "--api",
        type=click.Choice(["ollama", "openai"]),
        default="ollama",
        show_default=True,
        help="/api/generate, or /v1/chat/completions.",
    ),
    click.option(
        "--key",
        metavar="NAME",
        help="A key by its name in the inventory; else OGEN_KEY in the environment is sent.",
    ),
    click.option(
        "--warmup",
        metavar="N",
        type=click.IntRange(0, MOST),
        help="Requests before, that do not count; one for each instance if not given.",
    ),
    click.option(
        "--timeout",
        metavar="SPAN",
        type=Span(),
        default="5m",
        show_default=True,
        help="What a request may take.",
    ),
    click.option(
        "--hosts/--no-hosts",
        default=True,
        show_default=True,
        help="Look at cards and access logs meanwhile, over SSH.",
    ),
    click.option(
        "--compare",
        metavar="A B",
        nargs=2,
        type=click.Path(path_type=Path),
        help="Send nothing; compare two saved runs.",
    ),
    click.option(
        "--against", metavar="FILE", type=click.Path(path_type=Path), help="Compare with a saved run."
    ),
    click.option(
        "-o",
        "--output",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Save the run, for --compare and --against.",
    ),
)


def all_of_them(command: F) -> F:
    """In the order of the list above."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
