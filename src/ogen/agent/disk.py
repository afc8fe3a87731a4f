"""Every change of a file or folder that the agent makes, but those of models, which are modelstore.py's.

Paths are logical: absolute, as on the host; `root` relocates all of them. A path is walked folder by
folder with O_NOFOLLOW, so that a symlink slipped into it leads nowhere, and must lie under ROOTS.
What a function returns from is on the disk (fsync), except where it says otherwise or is told so
(`sync=False`: the caller syncs the folder once, when all of its names are made).
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
from typing import Callable, Iterator, List, NamedTuple, Optional, Tuple

from .errors import AgentError

ROOTS = (
    "/etc/ogen",
    "/etc/systemd/system",
    "/etc/nginx/conf.d",
    "/etc/logrotate.d",
    "/etc/tmpfiles.d",
    "/opt/ogen",
    "/run/ogen",
    "/run/systemd/system",
)
NEW = ".new"  # what a file or symlink is called until it takes its place
_OPEN = 64  # files that wait for their sync at once
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Change(NamedTuple):
    """One change of the file system: a system call, told to an observer just before it is made."""

    operation: str  # mkdir create write chown chmod fsync fdatasync rename symlink unlink rmdir
    path: str
    other: str = ""  # where a symlink leads; the name that a rename takes away
    data: bytes = b""  # of a write, which goes to the file's end
    mode: int = 0  # of mkdir, create and chmod


Hook = Callable[[Change], None]


def split(path: str) -> List[str]:
    """The parts of an allowed path; AgentError for any other."""
    parts = path.split("/")[1:]
    if not path.startswith("/") or any(p in ("", ".", "..") or "\0" in p for p in parts):
        raise AgentError("%r is not a plain absolute path" % path)
    if not any(path == r or path.startswith(r + "/") for r in ROOTS):
        raise AgentError("%s lies outside of the folders that ogen may write" % path)
    return parts


class Disk:
    """The host's files; `before` is told of every change ahead of it, and stops it by raising."""

    def __init__(self, root: str = "/", before: Optional[Hook] = None) -> None:
        self.root = os.path.realpath(root)
        self.relocated = self.root != "/"
        self._before = before
        self._written: List[Tuple[int, str]] = []  # files that are to be synced, and still open
        self._inside: Optional[Tuple[str, int]] = None  # of a set of files: the folder of the last one

    # ------------------------------------------------------------------------------ looking
    def real(self, path: str) -> str:
        """Where a logical path lies."""
        return self.root.rstrip("/") + path

    def read(self, path: str, limit: int = -1) -> bytes:
        with open(self.real(path), "rb") as file:
            return file.read(limit)

    def read_or(self, path: str, default: bytes = b"") -> bytes:
        try:
            return self.read(path)
        except OSError:
            return default

    def lstat(self, path: str) -> Optional[os.stat_result]:
        try:
            return os.lstat(self.real(path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def link(self, path: str) -> Optional[str]:
        """A symlink's target; None for anything else."""
        try:
            return os.readlink(self.real(path))
        except OSError:
            return None

    def names(self, path: str) -> List[str]:
        try:
            return sorted(os.listdir(self.real(path)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    # ----------------------------------------------------------------------------- changing
    def _step(self, operation: str, path: str, other: str = "", data: bytes = b"", mode: int = 0) -> None:
        if self._before:
            self._before(Change(operation, path, other, data, mode))

    def _sync(self, handle: int, path: str) -> None:
        self._step("fsync", path)
        os.fsync(handle)

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[Tuple[int, str]]:
        """A descriptor of the folder that holds `path`, and the last part of it."""
        parts = split(path)
        folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts[:-1]:
                inner = self._enter(part, folder, path)
                os.close(folder)
                folder = inner
            yield folder, parts[-1]
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def _same_parent(self, path: str) -> Iterator[Tuple[int, str]]:
        """As `_parent`, for the next file of a set: the way to its folder is walked once."""
        if self._inside is None or self._inside[0] != above(path):
            self._leave()
            with self._parent(path) as (folder, _):
                self._inside = above(path), os.dup(folder)
        yield self._inside[1], split(path)[-1]

    def _leave(self) -> None:
        if self._inside is not None:
            os.close(self._inside[1])
            self._inside = None

    @staticmethod
    def _enter(part: str, folder: int, path: str) -> int:
        try:
            return os.open(part, _FOLDER, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise AgentError("%s: %r on the way is not a folder" % (path, part)) from None
            raise

    def folder(self, path: str, mode: int = 0o755, sync: bool = True) -> None:
        """Makes a folder, and those above it; one that exists is left as it is."""
        parts = split(path)
        if self.relocated:  # the folder that stands for a host may be new
            os.makedirs(self.root, exist_ok=True)
        for depth in range(1, len(parts) + 1):
            self._one_folder("/" + "/".join(parts[:depth]), mode, sync)

    def _one_folder(self, path: str, mode: int, sync: bool) -> None:
        found = self.lstat(path)
        if found and stat.S_ISDIR(found.st_mode):
            return
        inside = any(path == r or path.startswith(r + "/") for r in ROOTS)
        if not inside:  # /etc in a folder that stands for a host
            os.mkdir(self.real(path), mode)
            return
        with self._parent(path) as (folder, name):
            self._step("mkdir", path, mode=mode)
            os.mkdir(name, mode, dir_fd=folder)
            if sync:
                self._sync(folder, above(path))

    def create(
        self,
        path: str,
        data: bytes,
        mode: int = 0o644,
        owner: str = "root",
        group: str = "root",
        sync: bool = True,
    ) -> None:
        """A new file with its content, owner and mode; the folder itself is not synced.

        With `sync=False` it is on its way to the disk, and is there when `together` ends.
        """
        with self._parent(path) if sync else self._same_parent(path) as (folder, name):
            self._step("create", path, mode=0o600)
            handle = os.open(name, _NEW, 0o600, dir_fd=folder)
            try:
                self._write(handle, path, data)
                if not self.relocated and os.geteuid() == 0:
                    self._step("chown", path)
                    os.fchown(handle, uid(owner), gid(group))
                if mode != 0o600:
                    self._step("chmod", path, mode=mode)
                    os.fchmod(handle, mode)
                if sync:
                    self._sync(handle, path)
                else:  # starts the writing, and waits for nothing
                    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                    self._written.append((os.dup(handle), path))
            finally:
                os.close(handle)
        if len(self._written) >= _OPEN:
            self._settle(sync=True)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """For the files of one set: when it ends, those made with `sync=False` are on the disk.

        Each is synced, but after all are on their way: thirty cost two turns of the disk, not thirty.
        """
        try:
            yield
            self._settle(sync=True)
        finally:
            self._settle(sync=False)

    def _settle(self, sync: bool) -> None:
        """Lets go of the files that wait, synced or given up."""
        self._leave()
        while self._written:
            handle, path = self._written.pop(0)
            try:
                if sync:
                    self._sync(handle, path)
            finally:
                os.close(handle)

    def _write(self, handle: int, path: str, data: bytes) -> None:
        self._step("write", path, data=data)
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]

    def replace(self, path: str, data: bytes, mode: int = 0o600, sync: bool = True) -> None:
        """The file is the old one or the new one at any time."""
        new = path + NEW
        self.remove(new, sync=False)
        self.create(new, data, mode)
        self.rename(new, path, sync)

    def symlink(self, target: str, path: str, sync: bool = True) -> None:
        """Makes or replaces a symlink; readers see the old one or the new one."""
        new = path + NEW
        self.remove(new, sync=False)
        with self._parent(new) as (folder, name):
            self._step("symlink", new, target)
            os.symlink(target, name, dir_fd=folder)
        self.rename(new, path, sync)

    def rename(self, old: str, new: str, sync: bool = True) -> None:
        """Within one folder."""
        with self._parent(new) as (folder, name):
            self._step("rename", new, old)
            os.rename(old.rsplit("/", 1)[1], name, src_dir_fd=folder, dst_dir_fd=folder)
            if sync:
                self._sync(folder, above(new))

    def remove(self, path: str, sync: bool = True) -> None:
        """Removes a file or symlink; that there is none is fine."""
        if self.lstat(path) is None:
            return
        with self._parent(path) as (folder, name):
            self._step("unlink", path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            if sync:
                self._sync(folder, above(path))

    def remove_tree(self, path: str) -> None:
        """Removes a folder with all that is in it, never through a symlink; not synced."""
        found = self.lstat(path)
        if found is None:
            return
        if not stat.S_ISDIR(found.st_mode):
            self.remove(path, sync=False)
            return
        for name in self.names(path):
            self.remove_tree(path + "/" + name)
        with self._parent(path) as (folder, name):
            self._step("rmdir", path)
            os.rmdir(name, dir_fd=folder)

    def remove_empty(self, path: str) -> bool:
        """Removes a folder when nothing is left in it, and says whether it did; not synced."""
        found = self.lstat(path)
        if found is None or not stat.S_ISDIR(found.st_mode) or self.names(path):
            return False
        with self._parent(path) as (folder, name):
            self._step("rmdir", path)
            try:
                os.rmdir(name, dir_fd=folder)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                    return False
                raise
        return True

    def sync_folder(self, path: str) -> None:
        with self._parent(path) as (parent, name):
            folder = self._enter(name, parent, path)
        try:
            self._sync(folder, path)
        finally:
            os.close(folder)

    def append(self, path: str, data: bytes, mode: int = 0o600, sync: bool = True) -> None:
        """Adds to a file's end, making it if needed."""
        with self._parent(path) as (folder, name):
            made = self.lstat(path) is None
            if made:
                self._step("create", path, mode=mode)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(name, flags, mode, dir_fd=folder)
            try:
                self._write(handle, path, data)
                if sync:
                    self._step("fdatasync", path)
                    os.fdatasync(handle)
            finally:
                os.close(handle)
            if made and sync:
                self._sync(folder, above(path))

    def open_lock(self, path: str) -> int:
        """A descriptor for flock; the file is made if needed, and never synced: it only says who holds it."""
        with self._parent(path) as (folder, name):
            if self.lstat(path) is None:
                self._step("create", path, mode=0o600)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(name, flags, 0o600, dir_fd=folder)

    @staticmethod
    def note(handle: int, data: bytes) -> None:
        """The text of a lock: for people, and of no consequence when it is lost."""
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, data, 0)


def above(path: str) -> str:
    """The folder that holds `path`."""
    return path.rpartition("/")[0]


def uid(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise AgentError("there is no user %r on this host" % name, "run `ogen provision` first") from None


def gid(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise AgentError("there is no group %r on this host" % name, "run `ogen provision` first") from None


def user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
