"""`ogen` itself: finds the command, runs it, turns whatever happens into one exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from .. import __version__
from . import commands
from .exits import Exit


@dataclass(frozen=True, slots=True)
class Asked:
    """What must be known of the command line even when it can't be parsed."""

    shape: str = "text"  # of --format
    debug: bool = False

    @classmethod
    def of(cls, args: Sequence[str]) -> Asked:
        shape, debug = "text", False
        for word, following in zip(args, [*args, ""][1:], strict=True):
            if word == "--":
                break
            if word == "--format":
                shape = following
            elif word.startswith("--format="):
                shape = word.partition("=")[2]
            debug = debug or word == "--debug"
        return cls(shape, debug)


class Ogen(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(commands.TABLE)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = commands.load(cmd_name)
        if command is not None and _DEBUG not in command.params:
            command.params.append(_DEBUG)
            command.context_settings = {**ctx.command.context_settings, **command.context_settings}
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in commands.TABLE and not args[0].startswith("-"):
            from ..errors import UsageError
            from .failure import did_you_mean

            near = did_you_mean(args[0], list(commands.TABLE))
            raise UsageError(f"no such command: {args[0]}", hint=near or "`ogen --help` lists the commands")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, part in commands.SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.help) for name, entry in part.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderGone from error  # click would make it exit code 1

    def main(self, args: Sequence[str] | None = None, *_: Any, **extra: Any) -> NoReturn:
        """Runs the command line `args` (sys.argv's, if not given); always ends in SystemExit."""
        words = list(sys.argv[1:] if args is None else args)
        extra |= {"prog_name": "ogen", "standalone_mode": False}
        sys.exit(_run(super().main, words, extra))


def _run(call: Any, words: list[str], extra: dict[str, Any]) -> int:
    asked, root = Asked.of(words), _Meta()
    try:
        code = call(args=words, obj=root, **extra)
        sys.stdout.flush()
        return int(code or 0)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return Exit.INTERRUPTED
    except (BrokenPipeError, _ReaderGone):
        # Python's own flush at exit must not fail a second time
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE
    except Exception as error:
        if asked.debug:
            import traceback

            traceback.print_exc()
        from . import failure

        return failure.report(error, shape=asked.shape, printed=root.printed)


class _ReaderGone(Exception):
    """Whoever read stdout went away, as `head` does."""


class _Meta:
    """What outlives the click context: whether the JSON document is out already."""

    printed = False


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"ogen {__version__}")
        ctx.exit()


_DEBUG = click.Option(["--debug"], is_flag=True, expose_value=False, help="Show tracebacks.")


@click.group(
    cls=Ogen,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
    epilog="`ogen COMMAND --help` says more. Exit codes: 0 done, 1 wrong input, 2 changes pending, "
    "3 hosts failed, 4 unreachable, 5 locked, 6 rolled back.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show it")
@click.pass_context
def ogen(ctx: click.Context) -> None:
    """One reviewed inventory of hosts and GPUs becomes a running Ollama cluster."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
