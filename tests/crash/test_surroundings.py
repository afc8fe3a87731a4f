"""What surrounds the agent: a hostile login, a wrong clock, symlinks that come and go; and who may write."""

from __future__ import annotations

import ast
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pretend import apply, host
from scenarios import NEW, OLD, SCENARIOS, in_force

import ogen.agent
from ogen.agent.disk import Change, Disk, Hook
from ogen.agent.errors import AgentError
from ogen.push.bundle import BOOTSTRAP, bundle

SOURCES = sorted(Path(ogen.agent.__file__).parent.glob("*.py"))
_CALLS = (
    "write pwrite truncate ftruncate mkdir makedirs mknod mkfifo rename renames replace link symlink unlink"
    " remove rmdir removedirs chmod fchmod lchmod chown fchown lchown utime setxattr fsync fdatasync open"
)
WRITES = frozenset(_CALLS.split(" "))
#: disk: the one; tasks: steps of playbooks, outside of the transaction; wire: the pipe to the controller;
#: modelstore: blobs and manifests of models, which no release changes once they are there
HANDS = (
    "disk",
    "wire",
    "modelstore",
    "tasks_archives",
    "tasks_files",
    "tasks_paths",
    "tasks_packages",
    "tasks_urls",
)


def writes(text: str) -> Iterator[str]:
    """Calls that may change the file system: of os, shutil, tempfile and pathlib, and open() for writing."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil", "tempfile", "pathlib"):
            yield f"from {node.module} import"
        if not isinstance(node, ast.Call):
            continue
        name = node.func
        if isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name):
            if name.value.id == "os" and name.attr in WRITES and not (name.attr == "open" and reads(node)):
                yield f"os.{name.attr}"
            if name.value.id in ("tempfile", "pathlib") or (
                name.value.id == "shutil" and name.attr != "which"
            ):
                yield f"{name.value.id}.{name.attr}"
        if isinstance(name, ast.Name) and name.id == "open":
            mode = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "mode")]
            if any(not isinstance(m, ast.Constant) or set(str(m.value)) - set("rbt") for m in mode):
                yield "open for writing"


def reads(call: ast.Call) -> bool:
    """An os.open that can only read."""
    flags = {node.attr for one in call.args[1:] for node in ast.walk(one) if isinstance(node, ast.Attribute)}
    return "O_RDONLY" in flags and flags <= {"O_RDONLY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"}


@pytest.mark.parametrize("path", [p for p in SOURCES if p.stem not in HANDS], ids=lambda p: p.stem)
def test_no_other_module_writes(path: Path) -> None:
    found = [call for call in writes(path.read_text()) if not (path.stem == "locks" and call == "os.open")]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "os.rename(a, b)",
        "open(p, 'w')",
        "open(p, mode='a')",
        "shutil.rmtree(p)",
        "from os import unlink",
        "os.open(p, flags)",
        "os.open(p, os.O_RDONLY | os.O_CREAT)",
    ],
)
def test_a_module_that_writes_is_seen(text: str) -> None:
    assert list(writes(text))


def test_what_the_disk_does_it_tells_first() -> None:
    """In disk.py, each call that changes something stands below a step of its own."""
    tree = ast.parse(next(p for p in SOURCES if p.stem == "disk").read_text())
    names = {c.split(".")[1] for c in writes(ast.unparse(tree)) if c.startswith("os.")}
    told = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "_step"
        and isinstance(node.args[0], ast.Constant)
    }
    silent = {"open", "makedirs", "ftruncate", "pwrite"}  # looking; the root itself; a lock's note
    assert {n.lstrip("f") if n in ("fchmod", "fchown") else n for n in names} - silent <= told


# --------------------------------------------------------------------------- the login's own Python
@pytest.mark.parametrize("isolated", [True, False])
def test_a_hostile_module_in_the_login_is_not_imported(isolated: bool, tmp_path: Path) -> None:
    """With -I, as the agent is started; without it (the control) the module would run."""
    site = tmp_path / f".local/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    site.mkdir(parents=True)
    for folder in (tmp_path, site):
        for name in ("json", "hashlib", "usercustomize", "sitecustomize"):
            text = f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit(3)\n"
            (folder / f"{name}.py").write_text(text)
    agent = bundle()
    flags = ["-I"] if isolated else []
    done = subprocess.run(
        [sys.executable, *flags, "-c", BOOTSTRAP, "nonce", agent.sha256, str(tmp_path / "root")],
        input=agent.sent,
        capture_output=True,
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]},
        timeout=60,
        check=False,
    )
    assert (tmp_path / "ran").exists() is not isolated, done.stderr
    assert (done.returncode == 0) is isolated


# ----------------------------------------------------------------------------------------- clock
def test_a_clock_that_jumps_by_ten_years(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Back and forth at every look at it; files are from the future too."""
    right, jumps = time.time, iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: right() + (-1) ** next(jumps) * 10 * 365 * 86400)
    one = host(room)
    SCENARIOS[0].prepare(one)
    for each in (OLD, NEW, OLD):
        said = apply(one, each)
        assert said.get("status") == "applied", said
        assert in_force(one, each) == []
        for path in room.rglob("*"):
            os.utime(path, (time.time(), time.time()), follow_symlinks=False)


def test_no_decision_uses_the_wall_clock() -> None:
    """Only what is shown to people, and the look's own time that doctor measures the clock by."""
    found = {
        (path.stem, node.attr)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("time", "datetime")
        and node.attr not in ("monotonic", "sleep")
    }
    in_transaction = {one for one in found if not one[0].startswith(("look", "tasks"))}
    lines = {("binned", "datetime")}  # it reads times that stand in logs
    assert in_transaction <= {("transaction", "strftime"), ("transaction", "gmtime")} | lines


# ----------------------------------------------------------------------------------- symlink race
def swap(above: Path, moment: int, outside: Path) -> Hook:
    seen: list[Change] = []

    def before(change: Change) -> None:
        seen.append(change)
        if len(seen) == moment + 1 and (above / "sub").is_dir():
            (above / "sub").rename(above / "moved")
            (above / "sub").symlink_to(outside)

    return before


def test_a_folder_that_becomes_a_symlink_at_any_moment(tmp_path: Path) -> None:
    """Swapped ahead of each change in turn, by somebody who owns the folder: nothing lands elsewhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    work = (
        lambda disk: disk.replace("/etc/ogen/sub/kept", b"new"),
        lambda disk: disk.symlink("x", "/etc/ogen/sub/kept"),
        lambda disk: disk.append("/etc/ogen/sub/kept", b"more"),
        lambda disk: disk.remove_tree("/etc/ogen/sub"),
        lambda disk: disk.folder("/etc/ogen/sub/kept/deep"),
    )
    for number, one in enumerate(work):
        for moment in range(8):
            root = tmp_path / f"{number}-{moment}"
            Disk(str(root)).folder("/etc/ogen/sub")
            with contextlib.suppress(AgentError, OSError):
                one(Disk(str(root), swap(root / "etc/ogen", moment, outside)))
            assert [p.name for p in outside.iterdir()] == ["kept"]
            assert (outside / "kept").read_text() == "x"
            shutil.rmtree(root)
