"""A file that `-o` names: tried before the work, written whole after it."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UsageError


def check(path: Path) -> None:
    """Says now, and not after minutes of work, that a file can't be written there."""
    if _special(path):
        return
    if path.is_dir():
        raise UsageError(f"{path} can't be written: it is a folder", hint=f"-o {path / 'FILE'}")
    if not path.absolute().parent.is_dir():
        raise UsageError(
            f"{path} can't be written: there is no such folder", hint="make it, or name another by -o"
        )
    beside = _beside(path)
    try:
        beside.touch()
        beside.unlink()
    except OSError as error:
        raise _refused(path, error) from error


def write(path: Path, text: str) -> None:
    """The whole new file or the one that was there; a pipe or a device is written as it is."""
    beside = path if _special(path) else _beside(path)
    try:
        beside.write_text(text, encoding="utf-8", newline="\n")
        if beside != path:
            beside.replace(path)
    except OSError as error:
        if beside != path:
            beside.unlink(missing_ok=True)
        raise _refused(path, error) from error


def _special(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _refused(path: Path, error: OSError) -> UsageError:
    why = (error.strerror or str(error)).lower()
    return UsageError(f"{path} can't be written: {why}", hint="name another place by -o")
