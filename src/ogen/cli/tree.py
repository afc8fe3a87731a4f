"""A folder of rendered or exported files, which never swallows a file that ogen did not write."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import UsageError
from ..release.model import File, Release

INDEX = ".ogen-render.json"
_LARGE = ""  # in place of a digest in the index: not read again
_SECRETS = "files/hosts/*/etc/ogen/current/balancers/*/keys.conf"


def write(folder: Path, releases: Iterable[Release]) -> int:
    """Makes `folder` hold exactly the files of `releases`; returns how many there are.

    The index in the folder says which files are ogen's, and with what content: a foreign file in the
    way, or one of ogen's that was edited, is a UsageError, and then nothing has been written.
    """
    return lay(folder, {f"{r.host}{f.path}": f for r in releases for f in r.files})


def lay(folder: Path, files: Mapping[str, File], copies: Mapping[str, Path] | None = None) -> int:
    """As `write`, for any files, by their path in the folder; `copies` are files of this machine that are too
    large to be read: named by what they hold, or else of another size when they change."""
    copies = copies or {}
    known = _index(folder)
    _refuse_foreign(folder, [*files, *copies], known)
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted(known.keys() - files.keys() - copies.keys()):
        _remove(folder, folder / name)
    for name, file in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(file.mode & 0o777)
    for name, source in copies.items():
        _copy(source, folder / name)
    index = {name: file.sha256 for name, file in sorted(files.items())} | dict.fromkeys(
        sorted(copies), _LARGE
    )
    (folder / INDEX).write_text(json.dumps({"version": 1, "files": index}, indent=1) + "\n")
    return len(files) + len(copies)


def _copy(source: Path, path: Path) -> None:
    """The same file under another name where the disk can do that: it costs no room."""
    if path.exists() and path.stat().st_size == source.stat().st_size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        path.hardlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, path)


def lay_secrets(folder: Path, files: Mapping[str, File], *, write: bool) -> list[str]:
    """Files that hold secrets, for the owner alone; returns those that were written.

    They are not in the index: somebody encrypts them, and then they stay as long as they are wanted.
    """
    for path in sorted(folder.glob(_SECRETS)):
        name = path.relative_to(folder).as_posix()
        if name not in files and _inside(folder, name):
            _remove(folder, path)
    for name, file in files.items() if write else ():
        path = folder / name
        if not _inside(folder, name):
            raise UsageError(f"{path} is reached through a symlink", hint="export into another folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(file.content)
    return list(files) if write else []


def _index(folder: Path) -> Mapping[str, str]:
    path = folder / INDEX
    if not path.exists():
        return {}
    try:
        files = json.loads(path.read_text())["files"]
        return {str(name): str(sha256) for name, sha256 in files.items() if _inside(folder, str(name))}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path} is damaged", hint="render into another folder") from None


def _inside(folder: Path, name: str) -> bool:
    """Whether `name` stays in the folder, symlinks followed."""
    top = folder.resolve()
    return (top / name).parent.resolve().is_relative_to(top) and not (top / name).is_symlink()


def _refuse_foreign(folder: Path, files: Iterable[str], known: Mapping[str, str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    for name in files:
        path = folder / name
        if not _inside(folder, name):
            raise UsageError(f"{path} is reached through a symlink", hint="render into another folder")
        if path.exists() and name not in known:
            raise UsageError(
                f"{path} was not written by ogen, and would be overwritten", hint="render into another folder"
            )
    for name, sha256 in known.items():
        path = folder / name
        if sha256 and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise UsageError(f"{path} was edited since it was rendered", hint="move it away, or delete it")


def _remove(folder: Path, path: Path) -> None:
    path.unlink(missing_ok=True)
    for parent in path.parents:
        if parent == folder or not parent.is_dir() or any(parent.iterdir()):
            break
        parent.rmdir()
