"""The module `get_url`: a large file from the network; what breaks off goes on where it was."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from typing import Any, Iterator, Mapping, Tuple

from .tasks_files import adjust, need_parent
from .tasks_host import Args, Failed, Host, Result, result
from .tasks_paths import Promised, Seen, Spot, walk

PART = 1 << 20
PATIENCE = 60.0  # seconds without a byte
TRIES = 5  # in a row that bring nothing
MARGIN = 256 << 20  # bytes that stay free
_RECEIVED = ".ogen-get-"  # then the checksum's first digits, and the file's name


def get_url(args: Args, host: Host) -> Result:
    """Ansible's `get_url` with a `checksum`: nothing is fetched where the file is there already."""
    wanted = args["checksum"]
    with walk(host.root, args["dest"], would=host.sight) as spot:
        found = spot.stat()
        if found is not None and not stat.S_ISREG(found.st_mode):
            raise Failed("%s is there, and is no file" % spot.path)
        before = _checksum(spot, found) if found is not None else "absent"
        if before == wanted:
            return result(adjust(spot, args, host))
        need_parent(spot)
        if host.check:
            spot.promise(Promised(stat.S_IFREG | 0o644, os.geteuid(), os.getegid(), b"", wanted))
            adjust(spot, args, host)
        else:
            with _received(spot, args["url"], wanted, host) as passing:
                adjust(passing, {"mode": "0644", **args}, host)
                os.rename(passing.name, spot.name, src_dir_fd=spot.folder, dst_dir_fd=spot.folder)
            os.fsync(spot.folder)
        return result([("checksum", before, wanted)], "got " + args["url"])


def _checksum(spot: Spot, found: Seen) -> str:
    if isinstance(found, Promised) and found.content is not None:  # fetched by an earlier step of a check
        return found.target or "sha256:" + hashlib.sha256(found.content).hexdigest()
    with os.fdopen(spot.open(os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        return _digest(reader.fileno())


def _digest(handle: int) -> str:
    total = hashlib.sha256()
    os.lseek(handle, 0, os.SEEK_SET)
    for part in iter(lambda: os.read(handle, PART), b""):
        total.update(part)
    return "sha256:" + total.hexdigest()


# ------------------------------------------------------------------------------ what is received
@contextlib.contextmanager
def _received(spot: Spot, url: str, wanted: str, host: Host) -> Iterator[Spot]:
    """The whole file under a passing name beside `spot`. A part of it stays for the next run."""
    name = "%s%s-%s" % (_RECEIVED, wanted[7:23], spot.name)
    _sweep(spot, name)
    with Spot("what was received", os.dup(spot.folder), [name]) as passing:
        handle = _part(passing)
        try:
            _lock(handle, url)
            try:
                _fill(handle, url, wanted, spot, host)
            except _Wrong as error:
                os.unlink(name, dir_fd=spot.folder)
                raise Failed(str(error)) from None
            except Failed:
                if os.fstat(handle).st_size == 0:
                    os.unlink(name, dir_fd=spot.folder)
                raise
            yield passing
        finally:
            os.close(handle)


class _Wrong(Exception):
    """It came whole, and is something else."""


def _sweep(spot: Spot, name: str) -> None:
    """Parts of what was to become this file before: another version."""
    for other in os.listdir(spot.folder):
        if other.startswith(_RECEIVED) and other.endswith("-" + spot.name) and other != name:
            os.unlink(other, dir_fd=spot.folder)


def _part(passing: Spot) -> int:
    """The part, opened. One that another user could write to, by name or through a link, is none."""

    def own(found: Seen) -> bool:
        return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1

    found = passing.stat()
    if found is not None and not own(found):
        os.unlink(passing.name, dir_fd=passing.folder)
    handle = passing.open(os.O_RDWR | os.O_CREAT | os.O_NONBLOCK)
    if not own(os.fstat(handle)):
        os.close(handle)
        raise Failed("%s was put in the way" % passing.name)
    return handle


def _lock(handle: int, url: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Failed("%s: another run fetches it" % url) from None


def _fill(handle: int, url: str, wanted: str, spot: Spot, host: Host) -> None:
    """Fetches what is missing; a part that turns out to be of something else is fetched anew, once."""
    kept = os.fstat(handle).st_size > 0
    if kept and _digest(handle) == wanted:
        return
    host.announce()
    found = _whole(handle, url, spot, host)
    if found != wanted and kept:
        os.ftruncate(handle, 0)
        found = _whole(handle, url, spot, host)
    if found != wanted:
        raise _Wrong("the checksum is %s, and should be %s" % (found, wanted))


def _whole(handle: int, url: str, spot: Spot, host: Host) -> str:
    """The checksum of what is there when the origin has sent all of it."""
    left = 1  # an origin that sends nothing at all is not asked again
    while True:
        begun = os.fstat(handle).st_size
        try:
            _download(handle, url, spot, host)
            os.fsync(handle)
            return _digest(handle)
        except _Broken as broken:
            have = os.fstat(handle).st_size
            left = TRIES if have > begun else left - 1
            if not left:
                raise Failed(broken.text(url, have)) from None
            host.machine.wait(1.0)


class _Broken(Exception):
    """The connection ended before the file did."""

    def __init__(self, why: str, size: int) -> None:
        super().__init__(why)
        self.size = size

    def text(self, url: str, have: int) -> str:
        if not have:
            return "%s: %s" % (url, self)
        of = " of %d" % self.size if self.size else ""
        return "%s broke off after %d%s bytes (%s): the next run goes on there" % (url, have, of, self)


def _download(handle: int, url: str, spot: Spot, host: Host) -> None:
    """One request for what is missing. Raises _Broken where another one may bring more."""
    have = os.lseek(handle, 0, os.SEEK_END)
    answer = _asked(url, have)
    if answer is None:
        return
    with answer:
        have, size = _begin(handle, have, answer.status, answer.headers)
        _room(url, size - have, spot)
        for part in _parts(answer, size):
            write(handle, part)
            have += len(part)
            if size:
                host.progress(100.0 * have / size)
    if have < size:
        raise _Broken("the connection ended", size)


def _asked(url: str, have: int) -> Any:
    """The answer from byte `have` on; None where nothing comes after that."""
    import http.client
    import urllib.error
    import urllib.request

    try:
        request = urllib.request.Request(url, headers={"Range": "bytes=%d-" % have} if have else {})
        return urllib.request.urlopen(request, timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # it is all there, or something else
            return None
        raise Failed("%s: HTTP %d %s" % (url, error.code, error.reason)) from None
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(str(getattr(error, "reason", None) or error), 0) from None
    except ValueError as error:
        raise Failed("%s: %s" % (url, error)) from None


def _parts(answer: Any, size: int) -> Iterator[bytes]:
    """What comes. Errors of the network are told from those of the disk."""
    import http.client

    try:
        yield from iter(lambda: answer.read(PART), b"")
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(str(error), size) from None


def _begin(handle: int, have: int, status: int, headers: Mapping[str, str]) -> Tuple[int, int]:
    """Where writing goes on, and the whole file's size; an origin without ranges begins anew."""
    length = int(headers.get("Content-Length") or 0)
    at = (headers.get("Content-Range") or "").partition("bytes ")[2].partition("-")[0]
    if status == 206 and at == str(have):
        return have, have + length if length else 0
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    return 0, length


# ------------------------------------------------------------------------------------- the disk
def free(folder: int) -> int:
    """Bytes that are free on the file system of an open folder."""
    found = os.fstatvfs(folder)
    return found.f_bavail * found.f_frsize


def room(need: int, folder: int, what: str, path: str) -> None:
    """Raises Failed where `need` bytes more would fill the disk."""
    have = free(folder)
    if need > 0 and need + MARGIN > have:
        raise Failed(
            "%s needs %s in %s, and %s are free (%d MiB of them stay free): make room there"
            % (what, _size(need), path, _size(have), MARGIN >> 20)
        )


def _room(url: str, need: int, spot: Spot) -> None:
    what = url.split("?")[0].rstrip("/").rpartition("/")[2] or url
    room(need, spot.folder, what, spot.path.rpartition("/")[0] or "/")


def _size(count: int) -> str:
    return "%.1f GiB" % (count / 2**30) if count >= 1 << 30 else "%.1f MiB" % (count / 2**20)


def write(handle: int, data: bytes) -> None:
    """All of `data`."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]
