"""The command line as a whole: laziness, exit codes, errors, help, completion."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from ogen import errors
from ogen.cli import commands
from ogen.cli.app import Asked, ogen
from ogen.cli.exits import Exit, worst

HEAVY = ("paramiko", "rich", "cerberus", "jinja2", "ruamel", "ogen.inventory", "ogen.push")


def run(*args: str) -> Result:
    return CliRunner().invoke(ogen, list(args))


def python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60)


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """`ogen validate` fails with `error`."""

    @click.command()
    @click.argument("path", required=False)
    @click.option("--format", "shape")
    def command(path: str | None, shape: str | None) -> None:
        raise error

    monkeypatch.setattr(commands, "load", lambda name: command)


@pytest.mark.parametrize(
    ("args", "says", "hint"),
    [
        (("status", "fleet.yaml", "gpu1"), "unexpected extra argument (gpu1)", "--limit gpu1"),
        (("doctor", "fleet.yaml", "gpu1", "gpu2"), "extra arguments (gpu1 gpu2)", "--limit gpu1,gpu2"),
        (("validate", "fleet.yaml", "gpu1"), "unexpected extra argument (gpu1)", "`ogen validate --help`"),
        (("status", "fleet.yaml", "--watch", "x"), "'x' is no number", "`ogen status --help`"),
        (("status", "fleet.yaml", "--parallel", "2.5"), "'2.5' is no whole number", "`ogen status --help`"),
    ],
)
def test_what_a_beginner_types(args: tuple[str, ...], says: str, hint: str) -> None:
    done = run(*args)
    assert done.exit_code == 1
    assert says in done.stderr
    assert hint in done.stderr.partition("hint:")[2]


def test_version_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom ogen.cli import main\n"
        "try: main(['--version'])\n"
        f"finally: sys.stderr.write(','.join(m for m in {HEAVY!r} if m in sys.modules))"
    )
    done = python(code)
    assert done.returncode == 0
    assert done.stdout.startswith("ogen ")
    assert done.stderr == ""


def test_help_imports_no_command() -> None:
    code = (
        "import sys\nfrom ogen.cli import main, commands\n"
        "try: main(['--help'])\n"
        "finally: sys.stderr.write(','.join(n for n in commands.TABLE if f'ogen.cli.{n}' in sys.modules))"
    )
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", sorted(commands.TABLE))
def test_each_command_loads_and_its_help_is_the_tables(name: str) -> None:
    command = commands.load(name)
    assert command is not None
    assert command.get_short_help_str(200).rstrip(".") == commands.TABLE[name].help.rstrip(".")
    assert run(name, "--help").exit_code == 0


def test_help_shows_every_command_under_a_section() -> None:
    text = run("--help").stdout
    for title, part in commands.SECTIONS.items():
        assert title in text
        for name in part:
            assert f"  {name} " in text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["vaildate"], "did you mean `validate`?"),
        (["validate", "--fromat", "json", "x"], "did you mean `--format`?"),
        (["validate"], "missing argument"),
        (["completion", "tcsh"], "tcsh"),
        (["--nonsense"], "no such option"),
        (["zzz"], "`ogen --help` lists the commands"),
    ],
)
def test_a_mistyped_line_exits_1_with_a_hint(args: list[str], words: str) -> None:
    result = run(*args)
    assert result.exit_code == Exit.WRONG
    assert words in result.stderr
    assert "hint:" in result.stderr
    assert result.stdout == ""


def test_every_error_has_an_exit_code_of_the_enum() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.OgenError)]
    assert len(classes) > 10
    for kind in classes:
        assert Exit(kind.exit_code)


def test_the_worst_code_wins() -> None:
    assert worst([]) == 0
    assert worst([5, 4, 0]) == 4
    assert worst([5, 4, 3]) == 3
    assert worst([3, 6, 4]) == 6
    assert worst([2, 0]) == 2


def where() -> errors.Where:
    return errors.Where(errors.Text("inv.yaml", ["a:", "  modle: x"]), 2, 3)


def test_an_error_is_told_with_place_caret_and_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, errors.InventoryError("unknown key", where=where(), hint="did you mean model?"))
    result = run("validate")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "error: unknown key",
        "  --> inv.yaml:2:3",
        "    2 |   modle: x",
        "      |   ^",
        "  hint: did you mean model?",
    ]


def test_all_problems_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, errors.Problems([errors.InventoryError("one"), errors.InventoryError("two")]))
    result = run("validate")
    assert result.stderr.splitlines() == ["error: one", "error: two", "2 errors"]


def test_a_host_error_shows_the_hosts_log_without_its_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    log = ("\x1b[31mCUDA error\x1b[0m", "bell\x07 \u202eevil")
    raising(monkeypatch, errors.RolledBack("did not come up", host="gpu1", log=log))
    result = run("validate")
    assert result.exit_code == Exit.ROLLED_BACK
    assert result.stderr.splitlines() == [
        "error: gpu1: did not come up",
        "    | CUDA error",
        "    | bell\\x07 \\u202eevil",
    ]


@pytest.mark.parametrize(
    "error",
    [
        errors.InventoryError("bad", where=where()),
        errors.Problems([errors.PlanError("a"), errors.PlanError("b", hint="c")]),
        errors.ConnectError("refused", host="gpu1"),
        click.UsageError("what?"),
        ZeroDivisionError("oops"),
        FileNotFoundError(2, "No such file or directory", "x.yaml"),
    ],
)
def test_json_is_one_document_under_any_failure(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    raising(monkeypatch, error)
    result = run("validate", "x", "--format", "json")
    assert result.exit_code in (1, 4)
    shown = json.loads(result.stdout)
    assert shown["version"] == 1
    assert shown["errors"]
    for one in shown["errors"]:
        assert {"message", "file", "line", "column", "hint"} <= set(one)
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "args", [["--format", "json", "--nope"], ["validate", "--format=json", "a", "b", "c"]]
)
def test_json_is_one_document_even_for_a_wrong_command_line(args: list[str]) -> None:
    result = run(*args)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["errors"]


def test_github_lines_cannot_be_broken_by_text(monkeypatch: pytest.MonkeyPatch) -> None:
    text = errors.Text("a,b:c.yaml", ["x"])
    message = "bad%0A::set-output\n::error::x"
    raising(monkeypatch, errors.InventoryError(message, where=errors.Where(text, 1, 1)))
    result = run("validate", "--format", "github")
    assert result.stdout == ("::error file=a%2Cb%3Ac.yaml,line=1,col=1::bad%250A::set-output%0A::error::x\n")


def test_tracebacks_only_under_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, ZeroDivisionError("oops"))
    assert "Traceback" not in run("validate").output
    assert "internal error: ZeroDivisionError: oops" in run("validate").stderr
    assert "Traceback" in run("validate", "--debug").stderr


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    result = run("validate")
    assert result.exit_code == 130
    assert result.stderr.strip() == "interrupted"


def test_a_reader_that_leaves_is_no_failure() -> None:
    done = subprocess.run(
        ["bash", "-c", '"$0" -m ogen completion bash | true; echo ${PIPESTATUS[0]}', sys.executable],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() in ("0", "141")
    assert done.stderr == ""


def test_words_after_two_dashes_are_no_options() -> None:
    assert Asked.of(["x", "--", "--format", "json", "--debug"]) == Asked("text", False)
    assert Asked.of(["x", "--format", "json", "--debug"]) == Asked("json", True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_OGEN_COMPLETE" in result.stdout


def test_completion_knows_commands_and_options(tmp_path: Path) -> None:
    code = "from ogen.cli import main; main()"
    env = {"_OGEN_COMPLETE": "bash_complete", "COMP_WORDS": "ogen val", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    assert done.stdout.split() == ["plain,validate"]
    env |= {"COMP_WORDS": "ogen validate --fo", "COMP_CWORD": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    assert done.stdout.split() == ["plain,--format"]


def test_without_a_command_the_help_is_shown() -> None:
    assert run().exit_code == 0
    assert run().stdout == run("--help").stdout
