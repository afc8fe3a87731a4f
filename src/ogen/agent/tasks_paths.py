"""Paths walked by open folders, so that nobody can slip a symlink in between check and use.

A symlink on the way is followed only when root (or the agent's own user) owns it: whoever owns a folder
below /var/lib must not be able to send root elsewhere. The last name is never followed by itself.
"""

from __future__ import annotations

import os
import stat
from typing import Dict, List, Optional, Set, Union

from .tasks_host import Failed

MAX_LINKS = 40
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Promised:
    """What a step of a check would leave at a path; shaped like os.stat_result. Where `content` is None it
    is what is there now."""

    st_nlink = 1

    def __init__(
        self, mode: int, uid: int, gid: int, content: Optional[bytes] = None, target: str = ""
    ) -> None:
        self.st_mode, self.st_uid, self.st_gid = mode, uid, gid
        self.content, self.target = content, target


Seen = Union[os.stat_result, Promised]
#: a check's changes by resolved path; None where something would be gone
Would = Dict[str, Optional[Promised]]


class Spot:
    """An open folder and the names below it that are left: one, or more where folders are missing.

    In a check, `would` holds what earlier steps have promised, and `above` the resolved names of the folder
    (which may be promised too: `folder` is then the last one that is really there)."""

    def __init__(
        self,
        path: str,
        folder: int,
        names: List[str],
        above: Optional[List[str]] = None,
        would: Optional[Would] = None,
        real: bool = True,
    ) -> None:
        self.path = path
        self.folder = folder
        self.names = names
        self.above = above or []
        self.would = would
        self.real = real  # the folder is there

    @property
    def name(self) -> str:
        return self.names[-1]

    @property
    def key(self) -> str:
        return _key(self.above + self.names)

    def __enter__(self) -> Spot:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.folder)

    def stat(self) -> Optional[Seen]:
        """Of the last name itself; None where there is nothing."""
        if self.would is not None and self.key in self.would:
            return self.would[self.key]
        if len(self.names) > 1 or not self.real:
            return None
        try:
            return os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def promise(self, found: Optional[Promised]) -> None:
        """Notes what a step would leave here; folders above it that are missing are made like it."""
        assert self.would is not None
        self.would[self.key] = found
        if found is not None:
            for number in range(1, len(self.names)):
                self.would[_key(self.above + self.names[:number])] = found

    def holds(self) -> List[str]:
        """The names in it, if it is a folder."""
        found: Set[str] = set()
        seen = self._real()
        if seen is not None and stat.S_ISDIR(seen.st_mode):
            handle = self.open(os.O_RDONLY | os.O_DIRECTORY)
            try:
                found = set(os.listdir(handle))
            finally:
                os.close(handle)
        for key, promised in (self.would or {}).items():
            above, _, name = key.rpartition("/")
            if above == self.key:
                (found.discard if promised is None else found.add)(name)
        return sorted(found)

    def _real(self) -> Optional[os.stat_result]:
        if len(self.names) > 1 or not self.real:
            return None
        return _kind(self.folder, self.name)

    def target(self) -> str:
        """Of a symlink."""
        found = self.stat()
        return found.target if isinstance(found, Promised) else os.readlink(self.name, dir_fd=self.folder)

    def open(self, flags: int, mode: int = 0o600) -> int:
        return os.open(self.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=self.folder)

    def enter(self) -> None:
        """Goes down into the first of the missing folders, now that the caller has made it."""
        below = os.open(self.names[0], _FOLDER, dir_fd=self.folder)
        os.close(self.folder)
        self.folder, self.names = below, self.names[1:]


def walk(root: str, path: str, follow: bool = False, would: Optional[Would] = None) -> Spot:
    """Opens the folder of `path`; with `follow`, a last name that is a trusted symlink is resolved too. With
    `would`, the way leads through what a check has promised."""
    if not path.startswith("/") or ".." in path.split("/"):
        raise Failed("%s: not an absolute path without '..'" % path)
    names = [name for name in path.split("/") if name and name != "."]
    if not names:
        raise Failed("the root folder itself is left alone")
    way = _Way(root, would)
    links = 0
    try:
        while len(names) > 1 or (follow and names):
            kind = way.kind(names[0])
            if kind is None or (len(names) == 1 and not stat.S_ISLNK(kind.st_mode)):
                break
            if stat.S_ISLNK(kind.st_mode):
                links += 1
                target = way.target(names[0], kind, path, links)
                names = [n for n in target.split("/") if n and n != "."] + names[1:]
                if target.startswith("/"):
                    way.again()
                continue
            if not stat.S_ISDIR(kind.st_mode):
                raise Failed("%s: %s on the way is no folder" % (path, names[0]))
            way.down(names.pop(0), kind)
        if not names or names[-1] == "..":
            raise Failed("%s: ends in a symlink to a folder without a name" % path)
        return Spot(path, way.folder, names, way.above, would, way.real)
    except BaseException:
        os.close(way.folder)
        raise


class _Way:
    """Where a walk is: an open folder, its resolved names, and whether it is really there."""

    def __init__(self, root: str, would: Optional[Would]) -> None:
        self.root, self.would = root, would
        self.folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.above: List[str] = []
        self.real = True

    def kind(self, name: str) -> Optional[Seen]:
        key = _key([*self.above, name])
        if self.would is not None and key in self.would:
            return self.would[key]
        return _kind(self.folder, name) if self.real else None

    def target(self, name: str, kind: Seen, path: str, links: int) -> str:
        if links > MAX_LINKS:
            raise Failed("%s: too many symlinks" % path)
        return kind.target if isinstance(kind, Promised) else _target(self.folder, name, path)

    def again(self) -> None:
        self.folder, self.above, self.real = _instead(self.folder, self.root, None), [], True

    def down(self, name: str, kind: Seen) -> None:
        self.above = self.above[:-1] if name == ".." else [*self.above, name]
        there = None if not isinstance(kind, Promised) else _kind(self.folder, name) if self.real else None
        if isinstance(kind, Promised) and (there is None or not stat.S_ISDIR(there.st_mode)):
            self.real = False
        elif self.real:
            self.folder = _instead(self.folder, name, self.folder)


def _key(names: List[str]) -> str:
    return "/" + "/".join(names)


def _kind(folder: int, name: str) -> Optional[os.stat_result]:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _target(folder: int, name: str, path: str) -> str:
    """Where a symlink points, if its owner may be trusted; read from the very link that was judged."""
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
