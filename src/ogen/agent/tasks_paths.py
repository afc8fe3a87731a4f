"""Paths walked by open folders, so that nobody can slip a symlink in between check and use.

A symlink on the way is followed only when root (or the agent's own user) owns it: whoever owns a folder
below /var/lib must not be able to send root elsewhere. The last name is never followed by itself.
"""

from __future__ import annotations

import os
import stat
from typing import List, Optional

from .tasks_host import Failed

MAX_LINKS = 40
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Spot:
    """An open folder and the names below it that are left: one, or more where folders are missing."""

    def __init__(self, path: str, folder: int, names: List[str]) -> None:
        self.path = path
        self.folder = folder
        self.names = names

    @property
    def name(self) -> str:
        return self.names[-1]

    def __enter__(self) -> Spot:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.folder)

    def stat(self) -> Optional[os.stat_result]:
        """Of the last name itself; None where there is nothing."""
        if len(self.names) > 1:
            return None
        try:
            return os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open(self, flags: int, mode: int = 0o600) -> int:
        return os.open(self.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=self.folder)

    def enter(self) -> None:
        """Goes down into the first of the missing folders, now that the caller has made it."""
        below = os.open(self.names[0], _FOLDER, dir_fd=self.folder)
        os.close(self.folder)
        self.folder, self.names = below, self.names[1:]


def walk(root: str, path: str, follow: bool = False) -> Spot:
    """Opens the folder of `path`; with `follow`, a last name that is a trusted symlink is resolved too."""
    if not path.startswith("/") or ".." in path.split("/"):
        raise Failed("%s: not an absolute path without '..'" % path)
    names = [name for name in path.split("/") if name and name != "."]
    if not names:
        raise Failed("the root folder itself is left alone")
    folder, links = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), 0
    try:
        while len(names) > 1 or (follow and names):
            kind = _kind(folder, names[0])
            if kind is None or (len(names) == 1 and not stat.S_ISLNK(kind.st_mode)):
                break
            if stat.S_ISLNK(kind.st_mode):
                links += 1
                target = _target(folder, names[0], path, links)
                names = [n for n in target.split("/") if n and n != "."] + names[1:]
                if target.startswith("/"):
                    folder = _instead(folder, root, None)
                continue
            if not stat.S_ISDIR(kind.st_mode):
                raise Failed("%s: %s on the way is no folder" % (path, names[0]))
            folder = _instead(folder, names.pop(0), folder)
        if not names or names[-1] == "..":
            raise Failed("%s: ends in a symlink to a folder without a name" % path)
        return Spot(path, folder, names)
    except BaseException:
        os.close(folder)
        raise


def _kind(folder: int, name: str) -> Optional[os.stat_result]:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _target(folder: int, name: str, path: str, links: int) -> str:
    """Where a symlink points, if its owner may be trusted; read from the very link that was judged."""
    if links > MAX_LINKS:
        raise Failed("%s: too many symlinks" % path)
    link = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if os.fstat(link).st_uid not in (0, os.geteuid()):
            raise Failed("%s: the symlink %s on the way does not belong to root" % (path, name))
        return os.readlink("", dir_fd=link)
    finally:
        os.close(link)


def _instead(folder: int, name: str, below: Optional[int]) -> int:
    """Opens `name` and closes `folder`."""
    opened = os.open(name, _FOLDER if below is not None else _FOLDER & ~os.O_NOFOLLOW, dir_fd=below)
    os.close(folder)
    return opened
