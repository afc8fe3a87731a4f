"""The inventory's folder at a git revision: nothing is touched, nothing runs, nothing leaves."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from ogen.cli import revision
from ogen.errors import DiffError


def git(folder: Path, *args: str) -> str:
    env = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.org",
    }
    done = subprocess.run(
        ["git", "-C", str(folder), *args], capture_output=True, text=True, env=env, check=True
    )
    return done.stdout.strip()


def commit(folder: Path, message: str = "x") -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", message)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository whose inventory lies two folders down, with two commits."""
    top = tmp_path / "repo"
    folder = top / "fleet" / "prod"
    (folder / "templates").mkdir(parents=True)
    git(top, "init", "-q", "-b", "main")
    (top / "outside.txt").write_text("outside\n")
    (folder / "inventory.yaml").write_text("first\n")
    (folder / "templates" / "x.j2").write_text("first\n")
    commit(top)
    (folder / "inventory.yaml").write_text("second\n")
    commit(top)
    return folder


def test_the_folder_as_it_was(project: Path) -> None:
    with revision.at(project / "inventory.yaml", "HEAD~1") as then:
        assert then is not None
        assert then.read_text() == "first\n"
        assert (then.parent / "templates" / "x.j2").read_text() == "first\n"
        assert not (then.parent / "outside.txt").exists()
        kept = then
    assert not kept.exists()
    with revision.at(project, "HEAD~1") as then:
        assert then is not None
        assert (then / "inventory.yaml").read_text() == "first\n"


def test_an_inventory_at_the_top_of_the_repository(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "inventory.yaml").write_text("top\n")
    commit(tmp_path)
    with revision.at(tmp_path / "inventory.yaml", "HEAD") as then:
        assert then is not None
        assert then.read_text() == "top\n"


def test_an_inventory_that_was_not_there_yet(project: Path) -> None:
    new = project.parent / "new"
    new.mkdir()
    (new / "inventory.yaml").write_text("x\n")
    for path in (new / "inventory.yaml", new, project / "other.yaml"):
        with revision.at(path, "HEAD") as then:
            assert then is None


def test_the_users_tree_index_and_refs_stay(project: Path) -> None:
    top = project.parent.parent
    (project / "inventory.yaml").write_text("uncommitted\n")
    (top / "staged").write_text("x")
    git(top, "add", "staged")

    def state() -> list[tuple[str, int, int]]:
        seen = [(str(p), s.st_ino, s.st_mtime_ns) for p in sorted(top.rglob("*")) for s in [p.lstat()]]
        return [entry for entry in seen if "/objects" not in entry[0]]

    before = state()
    with revision.at(project / "inventory.yaml", "HEAD") as then:
        assert then is not None
        assert then.read_text() == "second\n"
    assert state() == before


def test_a_read_only_checkout(project: Path) -> None:
    top = project.parent.parent
    folders = [p for p in (top, *top.rglob("*")) if p.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        with revision.at(project / "inventory.yaml", "HEAD~1") as then:
            assert then is not None
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_a_shallow_clone_says_how_to_fetch_the_base(project: Path, tmp_path: Path) -> None:
    clone = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{project.parent.parent}", str(clone))
    inventory = clone / "fleet" / "prod" / "inventory.yaml"
    with revision.at(inventory, "origin/main") as then:
        assert then is not None
    for base, hint in (
        ("HEAD~1", "git fetch --deepen=50"),
        ("origin/release", "git fetch --depth=1 origin release:refs/remotes/origin/release"),
        ("v1.0", "git fetch --depth=1 origin v1.0`, then `--base FETCH_HEAD"),
    ):
        with pytest.raises(DiffError) as raised, revision.at(inventory, base):
            pass
        assert hint in (raised.value.hint or "")


@pytest.mark.parametrize("base", ["", "--output=/tmp/x", "-h", "a\nb", "main\x1b[2J"])
def test_what_is_no_revision_never_reaches_git(
    project: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, ...]] = []
    real = revision._git
    monkeypatch.setattr(revision, "_git", lambda f, *a: (seen.append(a), real(f, *a))[1])
    with pytest.raises(DiffError, match="not a git revision"), revision.at(project / "inventory.yaml", base):
        pass
    assert not any(base in word for args in seen for word in args if base)


@pytest.mark.parametrize("base", ["nope", "HEAD:fleet", "main..HEAD", "refs/heads/nope"])
def test_an_unknown_revision(project: Path, base: str) -> None:
    with pytest.raises(DiffError, match="git knows no commit"), revision.at(project / "inventory.yaml", base):
        pass


def test_no_repository_at_all(tmp_path: Path) -> None:
    (tmp_path / "inventory.yaml").write_text("x")
    with (
        pytest.raises(DiffError, match="not in a git work tree"),
        revision.at(tmp_path / "inventory.yaml", "HEAD"),
    ):
        pass


def test_no_git(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(DiffError, match="needs git"), revision.at(project / "inventory.yaml", "HEAD"):
        pass


def test_left_out_by_export_ignore(project: Path) -> None:
    (project / ".gitattributes").write_text("inventory.yaml export-ignore\n")
    commit(project)
    with (
        pytest.raises(DiffError, match=r"leaves fleet/prod/inventory\.yaml out"),
        revision.at(project / "inventory.yaml", "HEAD"),
    ):
        pass


def test_a_smudge_filter_of_lfs_does_not_run(project: Path, tmp_path: Path) -> None:
    (project / ".gitattributes").write_text("*.yaml filter=lfs\n")
    commit(project)
    git(project, "config", "filter.lfs.smudge", f"touch {tmp_path}/ran")
    git(project, "config", "filter.lfs.required", "true")
    with revision.at(project / "inventory.yaml", "HEAD") as then:
        assert then is not None
        assert then.read_text() == "second\n"
    assert not (tmp_path / "ran").exists()


def test_a_link_inside_is_kept_and_one_that_leaves_is_refused(project: Path) -> None:
    (project / "link.yaml").symlink_to("inventory.yaml")
    commit(project)
    with revision.at(project / "link.yaml", "HEAD") as then:
        assert then is not None
        assert then.read_text() == "second\n"
    (project / "evil").symlink_to("../../outside.txt")
    commit(project)
    with (
        pytest.raises(DiffError, match="link that leaves the project"),
        revision.at(project / "inventory.yaml", "HEAD"),
    ):
        pass


def test_chained_links_that_leave_are_refused(project: Path) -> None:
    (project / "down" / "deep").mkdir(parents=True)
    (project / "down" / "deep" / "x").write_text("x")
    (project / "short").symlink_to("down/deep")
    (project / "evil").symlink_to("short/../../../../../etc")
    commit(project)
    with (
        pytest.raises(DiffError, match="link that leaves the project"),
        revision.at(project / "inventory.yaml", "HEAD"),
    ):
        pass


def unpacked(target: Path, *members: tarfile.TarInfo) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    data.seek(0)
    with tarfile.open(fileobj=data, mode="r|") as archive:
        revision._unpack(archive, target)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, 1 if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([member("../evil")], "path that leaves"),
        ([member("/evil")], "path that leaves"),
        ([member("a/../../evil")], "path that leaves"),
        ([member("a", tarfile.LNKTYPE, "/etc/passwd")], "no file"),
        ([member("a", tarfile.FIFOTYPE)], "no file"),
        ([member("a", tarfile.CHRTYPE)], "no file"),
        ([member("a", tarfile.SYMTYPE, "/etc")], "link that leaves"),
        ([member("a", tarfile.SYMTYPE, "..")], "link that leaves"),
    ],
)
def test_a_hostile_archive(tmp_path: Path, members: list[tarfile.TarInfo], words: str) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(DiffError, match=words):
        unpacked(target, *members)
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises((DiffError, OSError)):
        unpacked(target, member("a", tarfile.SYMTYPE, ".."), member("a/evil"))
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_an_archive_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revision, "MAX_BYTES", 1)
    with pytest.raises(DiffError, match="larger than"):
        unpacked(tmp_path, member("a"), member("b"))
