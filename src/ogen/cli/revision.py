"""The inventory's folder as it was at a git revision, in a temporary folder.

Only `git rev-parse`, `ls-tree` and `archive` run: the user's tree, index and refs are never touched,
and nothing is fetched. What comes out of the archive is written by hand, so that no name in it and no
link leaves the temporary folder.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..errors import DiffError
from ..release.plaintext import one_line

MAX_BYTES = 512 * 1024 * 1024
# a smudge filter could start programs or fetch; git's own settings stay as they are otherwise
_GIT = ("git", "-c", "filter.lfs.process=", "-c", "filter.lfs.smudge=", "-c", "filter.lfs.required=false")
_QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}


@contextlib.contextmanager
def at(inventory: Path, revision: str) -> Iterator[Path | None]:
    """The path of `inventory` as of `revision`; None if it did not exist then. Raises DiffError."""
    folder = inventory if inventory.is_dir() else inventory.parent
    top, prefix = _place(folder)
    commit = _commit(folder, revision)
    name = "" if inventory.is_dir() else inventory.name
    if not _exists(top, commit, prefix + name):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="ogen-base-") as made:
        target = Path(made).resolve()
        _extract(top, f"{commit}:{prefix}", target)
        if not (target / name).exists():
            raise DiffError(
                f"`git archive` leaves {prefix}{name} out at {revision}",
                hint="look for `export-ignore` in .gitattributes",
            )
        yield target / name


def head(folder: Path) -> str:
    """The revision that is checked out, with "+" where the work tree differs; empty if there is none."""
    try:
        done = _git(folder, "rev-parse", "--short=12", "HEAD")
        if done.returncode != 0:
            return ""
        dirty = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".").stdout
    except DiffError:
        return ""
    return done.stdout.strip() + ("+" if dirty.strip() else "")


def _place(folder: Path) -> tuple[Path, str]:
    """The top of the work tree, and the folder's path below it ("" or "x/y/")."""
    done = _git(folder, "rev-parse", "--show-toplevel", "--show-prefix")
    if done.returncode != 0:
        said = one_line(done.stderr)
        hint = "`git init`, or run without --base to compare with the hosts"
        if "dubious ownership" in said:
            hint = "`git config --global --add safe.directory DIR` tells git to trust the folder"
        raise DiffError(f"{folder} is not in a git work tree: {said}", hint=hint)
    top, prefix = [*done.stdout.split("\n"), ""][:2]
    return Path(top), prefix


def _commit(folder: Path, revision: str) -> str:
    if not revision or revision.startswith("-") or not revision.isprintable():
        raise DiffError(f"not a git revision: {one_line(revision)!r}", hint="such as main, v1.2 or HEAD~1")
    done = _git(folder, "rev-parse", "--verify", "--quiet", revision + "^{commit}")
    if done.returncode != 0:
        raise DiffError(f"git knows no commit `{revision}` here", hint=_how_to_fetch(folder, revision))
    return done.stdout.strip()


def _how_to_fetch(folder: Path, revision: str) -> str:
    shallow = _git(folder, "rev-parse", "--is-shallow-repository").stdout.strip() == "true"
    if revision.startswith("origin/"):
        branch = revision.removeprefix("origin/")
        return f"`git fetch --depth=1 origin {branch}:refs/remotes/{revision}` brings it"
    if any(sign in revision for sign in "~^@"):
        return "`git fetch --deepen=50` brings older commits" if shallow else "`git log` shows what there is"
    depth = "--depth=1 " if shallow else ""
    return f"`git fetch {depth}origin {revision}`, then `--base FETCH_HEAD`"


def _exists(top: Path, commit: str, path: str) -> bool:
    if not path:
        return True
    done = _git(top, "ls-tree", "--full-tree", "--name-only", "-z", commit, "--", path.rstrip("/"))
    if done.returncode != 0:
        raise DiffError(
            f"git can't read {commit[:12]}: {one_line(done.stderr)}",
            hint="in a partial clone, `git fetch --refetch origin` brings what is missing",
        )
    return bool(done.stdout)


def _extract(top: Path, tree: str, target: Path) -> None:
    command = [*_GIT, "-C", str(top), "archive", "--format=tar", tree]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **_QUIET}
        )
        assert process.stdout is not None
        try:
            with process.stdout, tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                _unpack(archive, target)
        except tarfile.TarError:
            pass  # git died; its exit status and words say why
        finally:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.kill()
            code = process.wait()
        errors.seek(0)
        if code not in (0, -9):
            raise DiffError(f"`git archive` failed: {one_line(errors.read().decode('utf-8', 'replace'))}")


def _unpack(archive: tarfile.TarFile, target: Path) -> None:
    """Folders and files first, links last: so nothing is ever written through a link."""
    links: list[tuple[Path, str]] = []
    room = MAX_BYTES
    for member in archive:
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts:
            raise DiffError(f"the base holds a path that leaves it: {one_line(member.name)}")
        path = target.joinpath(*name.parts)
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True)
        elif member.issym():
            links.append((path, member.linkname))
        elif member.isfile():
            room -= member.size
            if room < 0:
                raise DiffError(f"the base is larger than {MAX_BYTES} bytes")
            _write(archive, member, path)
        else:
            raise DiffError(f"the base holds something that is no file: {one_line(member.name)}")
    for path, to in links:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(to)
    for path, to in links:
        if not path.resolve().is_relative_to(target):
            raise DiffError(
                f"the base holds a link that leaves the project: {path.relative_to(target)} → {one_line(to)}"
            )


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    content = archive.extractfile(member)
    assert content is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.read())


def _git(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [*_GIT, "-C", str(folder), *args],
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, **_QUIET},
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        raise DiffError("`--base` needs git, which is not installed") from None
