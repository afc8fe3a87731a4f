"""The module `unarchive`: archives of the host or from the controller, unpacked aside and put in place."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from typing import Iterable, Iterator, Optional

from .errors import AgentError
from .tasks_files import wanted_ids
from .tasks_host import Args, Failed, Host, Result, result
from .tasks_paths import Spot, walk
from .tasks_urls import room

BLOCK = 4096  # bytes, in which a disk is given out
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASSING = ".ogen-part-"  # and the process that writes it


def _counted(parts: Iterable[bytes], size: int, host: Host) -> Iterator[bytes]:
    done = 0
    for part in parts:
        yield part
        done += len(part)
        if size:
            host.progress(100.0 * done / size)


@contextlib.contextmanager
def _received(folder: int, parts: Iterable[bytes], wanted: str) -> Iterator[Spot]:
    """A file in `folder` for as long as it is needed, whole and with the right checksum."""
    _sweep(folder)
    passing = Spot("what was received", os.dup(folder), [_PASSING + str(os.getpid())])
    total = hashlib.sha256()
    with passing:
        handle = passing.open(os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            with os.fdopen(handle, "wb") as writer:
                for part in parts:
                    total.update(part)
                    writer.write(part)
                writer.flush()
                os.fsync(writer.fileno())
            if "sha256:" + total.hexdigest() != wanted:
                raise Failed("the checksum is sha256:%s, and should be %s" % (total.hexdigest(), wanted))
            yield passing
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(passing.name, dir_fd=folder)


def _sweep(folder: int) -> None:
    """What a killed run has left half received."""
    for name in os.listdir(folder):
        if name.startswith(_PASSING) and not os.path.exists("/proc/" + name[len(_PASSING) :]):
            os.unlink(name, dir_fd=folder)


# ------------------------------------------------------------------------------------- unarchive
def unarchive(args: Args, host: Host) -> Result:
    """Ansible's `unarchive` with `creates`. `src` is a path of the host with `remote_src`, else the digest
    of a file of `size` bytes that the controller sends. It is unpacked aside; then each file takes its
    place by a rename."""
    if host.exists(args["creates"]):
        return result([], "did not run: %s exists" % args["creates"])
    wanted_ids(args, host)  # an unknown owner is found now rather than later
    if host.check and not host.exists(args["dest"]):
        raise Failed("%s: no such folder" % args["dest"])
    if host.check and args.get("remote_src") and not host.exists(args["src"]):
        raise Failed("%s: no such file" % args["src"])
    if not host.check:
        with walk(host.root, args["dest"], follow=True) as spot:
            folder = _folder(spot)
        try:
            with _archive(args, folder, host) as path:
                room(_unpacked(path, host), folder, "what is in the archive", args["dest"])
                _unpack(path, folder, args, host)
        finally:
            os.close(folder)
    else:
        host.makes(args["creates"])
    return result([("creates", "absent", args["creates"])], "unpacked into " + args["dest"])


def _folder(spot: Spot) -> int:
    try:
        return spot.open(os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        raise Failed("%s: no such folder" % spot.path) from None


@contextlib.contextmanager
def _archive(args: Args, folder: int, host: Host) -> Iterator[str]:
    """A path by which tar finds the archive, whatever happens to its name meanwhile."""
    if args.get("remote_src"):
        with walk(host.root, args["src"], follow=True) as spot, _opened(spot) as path:
            yield path
        return
    room(args.get("size", 0), folder, "the archive", args["dest"])  # before it is asked for: then it comes
    host.announce()
    try:
        size, parts = host.fetch(args["src"])
        with _received(folder, _counted(parts, size, host), args["src"]) as passing, _opened(passing) as path:
            yield path
    except AgentError as error:
        raise Failed(error.message) from None


@contextlib.contextmanager
def _opened(spot: Spot) -> Iterator[str]:
    try:
        handle = spot.open(os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise Failed("%s: no such file" % spot.path) from None
    try:
        yield "/proc/%d/fd/%d" % (os.getpid(), handle)
    finally:
        os.close(handle)


def _unpacked(archive: str, host: Host) -> int:
    """Bytes that its files take. What tar can't read, it will say when it is to unpack it."""
    listed = host.ask("tar", "--list", "--verbose", "--numeric-owner", "--file", archive)
    cells = [line.split(None, 3) for line in listed.lines] if not listed.code else []
    sizes = [int(cell[2]) for cell in cells if len(cell) == 4 and cell[2].isdigit()]
    return sum(-(-size // BLOCK) * BLOCK for size in sizes)


def _unpack(archive: str, folder: int, args: Args, host: Host) -> None:
    """tar tells the compression by the archive's first bytes, and lets nothing out of its folder."""
    place = "/proc/%d/fd/%d" % (os.getpid(), folder)
    aside = place + "/.ogen-unpack"
    shutil.rmtree(aside, ignore_errors=True)
    os.mkdir(aside, 0o700)
    try:
        host.do("tar", "--extract", "--file", archive, "--directory", aside)
        for tool, key in (("chown", "owner"), ("chgrp", "group")):
            if args.get(key):
                host.do(tool, "--recursive", "--no-dereference", args[key], aside)
        _move(aside, folder)
        host.do("sync", "--file-system", place + "/.")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _move(source: str, folder: int) -> None:
    """All that is in `source` to `folder`: folders are made or kept, files take their places at once."""
    inner = os.open(source, _FOLDER)
    try:
        for name in os.listdir(inner):
            found, there = _stat(name, inner), _stat(name, folder)
            if there is None or found is None or not stat.S_ISDIR(found.st_mode):
                os.rename(name, name, src_dir_fd=inner, dst_dir_fd=folder)
                continue
            if not stat.S_ISDIR(there.st_mode):
                raise Failed("%s is there, and is no folder" % name)
            below = os.open(name, _FOLDER, dir_fd=folder)
            try:
                _move("%s/%s" % (source, name), below)
            finally:
                os.close(below)
    finally:
        os.close(inner)


def _stat(name: str, folder: int) -> Optional[os.stat_result]:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
