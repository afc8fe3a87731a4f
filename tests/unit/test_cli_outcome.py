"""How a rollout's end is told, and its progress."""

from __future__ import annotations

import io
import json
import re
import sys

import click
import pytest
from click.testing import CliRunner, Result

from ogen.cli import console, outcome
from ogen.cli.app import _Meta
from ogen.cli.exits import Exit
from ogen.cli.progress import Lines, Live, Silent, progress
from ogen.errors import ConnectError, HostError, LockedError, RemoteError, RolledBack
from ogen.push import Event, HostResult, Outcome, Status

UNIT = "ogen-ollama-gpu0.service"
RESULTS = (
    HostResult(
        "gpu1", "applied", before=None, after="aaaa", seconds=12.34, restarted=("ogen-ollama-gpu0.service",)
    ),
    HostResult("gpu22", "unchanged", before="bbbb", after="bbbb"),
)


def failed(status: Status, error: HostError) -> HostResult:
    return HostResult(error.host, status, error.message, error, "old", "old", 1.0)


def shown(results: tuple[HostResult, ...], shape: str = "text") -> Result:
    @click.command()
    def command() -> None:
        sys.exit(outcome.show(Outcome(results), shape))

    return CliRunner().invoke(command, obj=_Meta())


def test_the_table() -> None:
    result = shown(RESULTS)
    assert result.exit_code == 0
    assert result.stdout == (
        "gpu1   applied    nothing → aaaa  12.3 s  restarted ogen-ollama-gpu0.service\n"
        "gpu22  unchanged  bbbb\n"
        "1 applied, 1 unchanged\n"
    )


def test_nothing_to_do() -> None:
    assert shown(RESULTS[1:]).stdout.endswith("nothing to do: 1 host unchanged\n")


ROLLED = failed(
    "rolled_back",
    RolledBack("chat did not load", host="a", log=["CUDA error: out of memory"], hint="less context"),
)
LOST = failed("unreachable", ConnectError("no route", host="b"))
LOCKED = failed("locked", LockedError("held by x", host="c"))
BROKEN = failed("failed", RemoteError("agent died", host="d"))
WITHHELD = failed("withheld", RemoteError("balancers keep it", host="e"))

LATE = HostResult("f", "not_started", "the canary failed (d)", before="old", after="old")
SKIPPED = HostResult("g", "skipped", "192.0.2.7:22: timed out", seconds=10.0)
REDUCED = HostResult("edge", "applied", before="old", after="new", seconds=2.0, without=("a/gpu0", "b/gpu1"))


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ((ROLLED, LOST, LOCKED, BROKEN), Exit.ROLLED_BACK),
        ((LOST, LOCKED, BROKEN), Exit.FAILED),
        ((LOST, LOCKED), Exit.UNREACHABLE),
        ((LOCKED, *RESULTS), Exit.LOCKED),
        ((ROLLED, WITHHELD), Exit.ROLLED_BACK),
        ((LOST, LATE, WITHHELD), Exit.UNREACHABLE),
        ((LATE, *RESULTS), Exit.FAILED),
        ((SKIPPED, *RESULTS), Exit.DONE),
        (RESULTS, Exit.DONE),
    ],
)
def test_the_exit_code(results: tuple[HostResult, ...], code: Exit) -> None:
    assert shown(results).exit_code == code
    assert shown(results, "json").exit_code == code


def test_a_failure_shows_the_hosts_own_last_words() -> None:
    result = shown((ROLLED, *RESULTS))
    assert result.stderr.splitlines() == [
        "error: a: chat did not load",
        "    | CUDA error: out of memory",
        "  hint: less context",
    ]
    assert "a      rolled back  old  1.0 s" in result.stdout


def test_hosts_that_follow_from_others_say_why_in_the_table() -> None:
    result = shown((LATE, SKIPPED, REDUCED))
    assert result.stderr == ""
    assert result.stdout == (
        "f     not started  old  the canary failed (d)\n"
        "g     skipped      10.0 s  192.0.2.7:22: timed out\n"
        "edge  applied      old → new  2.0 s  does without a/gpu0, b/gpu1, not in force\n"
        "1 not started, 1 skipped, 1 applied\n"
    )
    assert outcome.row(REDUCED)["without"] == ["a/gpu0", "b/gpu1"]


def test_json_holds_every_host_and_every_error() -> None:
    document = json.loads(shown((ROLLED, *RESULTS), "json").stdout)
    assert document["version"] == 1
    assert [(h["host"], h["status"]) for h in document["hosts"]] == [
        ("a", "rolled_back"),
        ("gpu1", "applied"),
        ("gpu22", "unchanged"),
    ]
    assert document["errors"][0]["host"] == "a"
    assert document["errors"][0]["log"] == ["CUDA error: out of memory"]


# ------------------------------------------------------------------------------------- progress
def test_lines_say_each_thing_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines() as watch:
        for percent in (0, 1, 24, 25, 99, 100):
            watch(Event("gpu1", "models", "pull llama3.1", percent))
        watch(Event("gpu1", "done", "applied"))
        watch(Event("gpu1", "done", "applied"))
    assert capsys.readouterr().err.splitlines() == [
        "gpu1: models: pull llama3.1 0 %",
        "gpu1: models: pull llama3.1 25 %",
        "gpu1: models: pull llama3.1 99 %",
        "gpu1: models: pull llama3.1 100 %",
        "gpu1: applied",
    ]


def test_where_the_rollout_is_stands_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines() as watch:
        watch(Event("", "batch", "expand: canary 1/12"))
        watch(Event("gpu1", "done", "applied"))
        watch(Event("", "batch", "expand: batch 2 of 3"))
    assert capsys.readouterr().err.splitlines() == [
        "-- expand: canary 1/12",
        "gpu1: applied",
        "-- expand: batch 2 of 3",
    ]


def test_what_a_host_says_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines() as watch:
        watch(Event("gpu1", "models", "\x1b[2Jcleared\n\u202eevil\x07"))
    assert capsys.readouterr().err == "gpu1: models: cleared \\u202eevil\\x07\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_live_line_per_host(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    watch = progress(3)
    assert isinstance(watch, Live)
    with watch:
        watch(Event("", "batch", "expand: batch 2 of 3"))
        watch(Event("gpu1", "models", "pull [bold]x[/bold] \x1b[2J", 42.0))
        watch(Event("gpu2", "prove"))
        watch(Event("gpu2", "done"))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert re.search(r"gpu1 0 s models: pull \[bold\]x\[/bold\] 42 % ━━━━━", text)
    assert "expand: batch 2 of 3; 1 of 3 hosts done" in text


def test_no_terminal_gets_lines_and_looking_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(progress(1), Lines)
    assert isinstance(progress(1, looking=True), Silent)
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert isinstance(progress(1), Lines)
    assert not console.colourful(sys.stderr)
