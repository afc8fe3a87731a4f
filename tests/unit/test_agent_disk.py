"""The only hand that writes: where it may, and never through a symlink."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ogen.agent.disk import ROOTS, Change, Disk, split
from ogen.agent.errors import AgentError


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    made = Disk(str(tmp_path))
    made.folder("/etc/ogen")
    return made


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/etc/ogenx/a",
        "/etc/ogen/../passwd",
        "/etc/ogen//a",
        "/etc/ogen/./a",
        "/etc/ogen/a/",
        "etc/ogen/a",
        "/etc/ogen/a\0b",
        "",
        "/",
        "/etc/systemd/system/../../shadow",
    ],
)
def test_other_paths_are_refused(disk: Disk, path: str) -> None:
    with pytest.raises(AgentError):
        disk.create(path, b"")


@given(st.text(alphabet="/.a\0e tcogn", max_size=30))
def test_an_allowed_path_stays_below_its_root(text: str) -> None:
    try:
        parts = split(text)
    except AgentError:
        return
    assert any(("/" + "/".join(parts) + "/").startswith(root + "/") for root in ROOTS)
    assert os.path.normpath(text) == text


def test_a_symlink_on_the_way_leads_nowhere(disk: Disk, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "etc/ogen/releases").symlink_to(outside)
    for work in (
        lambda: disk.create("/etc/ogen/releases/a", b"x"),
        lambda: disk.symlink("x", "/etc/ogen/releases/a"),
        lambda: disk.append("/etc/ogen/releases/a", b"x"),
        lambda: disk.open_lock("/etc/ogen/releases/a"),
    ):
        with pytest.raises(AgentError, match="not a folder"):
            work()
    assert list(outside.iterdir()) == []


def test_removing_never_follows(disk: Disk, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    disk.folder("/etc/ogen/tree/inner")
    (tmp_path / "etc/ogen/tree/inner/link").symlink_to(kept)
    disk.remove_tree("/etc/ogen/tree")
    assert not (tmp_path / "etc/ogen/tree").exists()
    assert (kept / "file").read_text() == "x"


def test_a_file_that_waits_as_a_symlink_is_not_written_through(disk: Disk, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    (tmp_path / "etc/ogen/journal").symlink_to(target)
    with pytest.raises(OSError, match="symbolic"):
        disk.append("/etc/ogen/journal", b"new")
    disk.replace("/etc/ogen/journal", b"new")
    assert target.read_text() == "old"
    assert (tmp_path / "etc/ogen/journal").read_text() == "new"


def test_modes_and_content(disk: Disk, tmp_path: Path) -> None:
    disk.create("/etc/ogen/a", b"text", 0o640)
    found = tmp_path / "etc/ogen/a"
    assert (found.read_bytes(), found.stat().st_mode & 0o7777) == (b"text", 0o640)
    with pytest.raises(FileExistsError):
        disk.create("/etc/ogen/a", b"other")


def test_a_symlink_is_replaced_in_one_step(disk: Disk) -> None:
    steps: list[Change] = []
    disk.symlink("one", "/etc/ogen/current")
    watched = Disk(disk.root, steps.append)
    watched.symlink("two", "/etc/ogen/current")
    assert disk.link("/etc/ogen/current") == "two"
    assert [s.operation for s in steps] == ["symlink", "rename", "fsync"]


def test_the_root_itself_may_be_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    Disk(str(tmp_path / "link")).folder("/etc/ogen")
    assert (tmp_path / "real/etc/ogen").is_dir()


def test_files_of_a_set_are_synced_when_all_are_made(tmp_path: Path) -> None:
    steps: list[str] = []
    disk = Disk(str(tmp_path), lambda change: steps.append(f"{change.operation} {change.path[-1]}"))
    disk.folder("/etc/ogen")
    steps.clear()
    with disk.together():
        for name in "ab":
            disk.create(f"/etc/ogen/{name}", b"text", 0o600, sync=False)
    assert steps == ["create a", "write a", "create b", "write b", "fsync a", "fsync b"]


def test_a_large_set_holds_few_files_open(tmp_path: Path) -> None:
    disk = Disk(str(tmp_path))
    disk.folder("/etc/ogen")
    before, most = open_files(), 0
    with disk.together():
        for number in range(200):
            disk.create(f"/etc/ogen/{number}", b"", sync=False)
            most = max(most, open_files())
    assert before < most <= before + 64
    assert open_files() == before


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def twice(disk: Disk) -> None:
    with disk.together():
        for _ in range(2):
            disk.create("/etc/ogen/a", b"", sync=False)


def test_a_set_that_fails_leaves_no_file_open(tmp_path: Path) -> None:
    disk = Disk(str(tmp_path))
    disk.folder("/etc/ogen")
    before = open_files()
    with pytest.raises(FileExistsError):
        twice(disk)
    assert open_files() == before
