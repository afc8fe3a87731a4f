"""Rendered files in a folder: exactly those, and never over somebody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from ogen.cli import tree
from ogen.errors import UsageError
from ogen.release.model import File, Release

UNIT = "/etc/systemd/system/x.service"


def release(host: str, *files: tuple[str, str]) -> Release:
    return Release(host, tuple(File(path, text.encode(), 0o755) for path, text in files))


def listed(folder: Path) -> list[str]:
    return sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != tree.INDEX
    )


def test_each_file_lies_under_its_host(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert tree.write(folder, [release("a", (UNIT, "x\n")), release("b", (UNIT, "y\n"))]) == 2
    assert (folder / "a" / UNIT[1:]).read_text() == "x\n"
    assert (folder / "a" / UNIT[1:]).stat().st_mode & 0o777 == 0o755
    assert listed(folder) == [f"a{UNIT}", f"b{UNIT}"]


def test_again_removes_what_is_gone_and_its_empty_folders(tmp_path: Path) -> None:
    tree.write(tmp_path, [release("a", (UNIT, "x\n"), ("/etc/old/y", "y\n")), release("b", (UNIT, "y\n"))])
    tree.write(tmp_path, [release("a", (UNIT, "z\n"))])
    assert listed(tmp_path) == [f"a{UNIT}"]
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "a" / "etc" / "old").exists()
    assert (tmp_path / "a" / UNIT[1:]).read_text() == "z\n"


def test_a_foreign_file_is_never_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "a" / UNIT[1:]
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UsageError, match="not written by ogen"):
        tree.write(tmp_path, [release("a", ("/etc/first", "x"), (UNIT, "x\n"))])
    assert mine.read_text() == "mine"
    assert listed(tmp_path) == [f"a{UNIT}"]


def test_foreign_files_beside_are_left(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("mine")
    tree.write(tmp_path, [release("a", (UNIT, "x\n"))])
    tree.write(tmp_path, [])
    assert listed(tmp_path) == ["README"]


def test_an_edited_file_is_not_lost(tmp_path: Path) -> None:
    tree.write(tmp_path, [release("a", (UNIT, "x\n"))])
    (tmp_path / "a" / UNIT[1:]).write_text("edited")
    for wish in ([release("a", (UNIT, "y\n"))], []):
        with pytest.raises(UsageError, match="edited since"):
            tree.write(tmp_path, wish)
    assert (tmp_path / "a" / UNIT[1:]).read_text() == "edited"


def test_no_file_is_written_or_removed_through_a_link(tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    tree.write(out, [release("a", (UNIT, "x\n"))])
    outside.mkdir()
    (out / "a" / UNIT[1:]).unlink()
    (out / "a" / UNIT[1:]).parent.rmdir()
    (out / "a" / UNIT[1:]).parent.symlink_to(outside)
    with pytest.raises(UsageError, match="symlink"):
        tree.write(out, [release("a", (UNIT, "x\n"))])
    (outside / "x.service").write_text("x\n")
    tree.write(out, [])
    assert listed(outside) == ["x.service"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 1}', "\0"])
def test_a_damaged_index_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / tree.INDEX).write_text(text)
    with pytest.raises(UsageError, match="damaged"):
        tree.write(tmp_path, [])


def test_an_index_cannot_make_ogen_remove_something_outside(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    out = tmp_path / "out"
    out.mkdir()
    (out / tree.INDEX).write_text('{"files": {"../mine": "00", "/etc/hostname": "00"}}')
    tree.write(out, [])
    assert (tmp_path / "mine").read_text() == "x"
    assert Path("/etc/hostname").exists()


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(UsageError, match="not a folder"):
        tree.write(tmp_path / "x", [])
