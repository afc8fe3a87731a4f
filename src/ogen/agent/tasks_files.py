"""The modules `file` and `copy`: folders, links, small texts, with mode and owner."""

from __future__ import annotations

import os
import stat
from typing import List, Optional, Tuple

from .disk import group_name, user_name
from .tasks_host import Args, Change, Failed, Host, Result, result
from .tasks_paths import Promised, Seen, Spot, walk

MAX_BYTES = 4 * 1024 * 1024  # of a file that `copy` compares


def file(args: Args, host: Host) -> Result:
    """Ansible's `file`; `absent` leaves a folder alone that still holds something."""
    state = args.get("state", "file")
    follow = state in ("directory", "file", "touch")
    with walk(host.root, args["path"], follow, host.sight) as spot:
        return _STATES[state](spot, args, host)


def _directory(spot: Spot, args: Args, host: Host) -> Result:
    found = spot.stat()
    if found is not None and not stat.S_ISDIR(found.st_mode):
        raise Failed("%s is there, and is no folder" % spot.path)
    if found is None and host.check:
        spot.promise(_new(stat.S_IFDIR, {"mode": "0755", **args}, host))
        return result([("state", "absent", "directory")])
    changes: List[Change] = [] if found else [("state", "absent", "directory")]
    while len(spot.names) > 1:  # folders above it get the same mode and owner, as in Ansible
        _make_folder(spot, spot.names[0], args, host)
        spot.enter()
    if found is None:
        _make_folder(spot, spot.name, args, host)
        return result(changes)
    return result(adjust(spot, args, host))


def _make_folder(spot: Spot, name: str, args: Args, host: Host) -> None:
    os.mkdir(name, 0o700, dir_fd=spot.folder)
    made = Spot(spot.path, os.dup(spot.folder), [name])
    with made:
        adjust(made, {"mode": "0755", **args}, host)


def _absent(spot: Spot, args: Args, host: Host) -> Result:
    found = spot.stat()
    if found is None:
        return result([])
    is_folder = stat.S_ISDIR(found.st_mode)
    if is_folder and spot.holds():
        raise Failed("%s is a folder that still holds something" % spot.path)
    if host.check:
        spot.promise(None)
    else:
        (os.rmdir if is_folder else os.unlink)(spot.name, dir_fd=spot.folder)
    return result([("state", "directory" if is_folder else "file", "absent")])


def _link(spot: Spot, args: Args, host: Host) -> Result:
    target = args.get("src")
    if not target:
        raise Failed("%s: a link needs `src`" % spot.path)
    found = spot.stat()
    if found is not None and not stat.S_ISLNK(found.st_mode):
        raise Failed("%s is there, and is no symlink" % spot.path)
    before = spot.target() if found else "absent"
    if before == target:
        return result([])
    need_parent(spot)
    if host.check:
        spot.promise(Promised(stat.S_IFLNK | 0o777, os.geteuid(), os.getegid(), target=target))
    else:
        passing = ".ogen-%d" % os.getpid()
        os.symlink(target, passing, dir_fd=spot.folder)
        os.rename(passing, spot.name, src_dir_fd=spot.folder, dst_dir_fd=spot.folder)
    return result([("src", before, target)])


def _touch(spot: Spot, args: Args, host: Host) -> Result:
    """As in Ansible, a touch is a change every time."""
    found = spot.stat()
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise Failed("%s is there, and is no file" % spot.path)
    need_parent(spot)
    if host.check:
        if found is None:
            spot.promise(_new(stat.S_IFREG, {"mode": "0644", **args}, host, b""))
    else:
        handle = spot.open(os.O_WRONLY | os.O_NONBLOCK | (0 if found else os.O_CREAT | os.O_EXCL), 0o644)
        try:
            os.utime(handle)
        finally:
            os.close(handle)
    adjust(spot, args, host)
    return result([("state", "file" if found else "absent", "touch")])


def _file(spot: Spot, args: Args, host: Host) -> Result:
    found = spot.stat()
    if found is None:
        raise Failed("%s is not there" % spot.path)
    return result(adjust(spot, args, host))


def copy(args: Args, host: Host) -> Result:
    """Ansible's `copy` with `content`: written beside, then renamed over what was there; without `force`
    a file that is there keeps its content."""
    wanted = args["content"].encode()
    with walk(host.root, args["dest"], would=host.sight) as spot:
        found = spot.stat()
        if found is not None and stat.S_ISDIR(found.st_mode):
            raise Failed("%s is a folder" % spot.path)
        if found is not None and not args.get("force", True):
            return result(adjust(spot, args, host), "%s is left as it is" % spot.path)
        before = _read(spot) if found is not None and stat.S_ISREG(found.st_mode) else None
        if before == wanted:
            return result(adjust(spot, args, host))
        need_parent(spot)
        args = {"mode": _mode_of(found), **args}
        if host.check:
            spot.promise(_new(stat.S_IFREG, args, host, wanted))
        else:
            _write(spot, wanted, args, host)
        done = result([("content", "absent" if before is None else "older", "as wanted")], "content")
        done["diff"] = {"before": (before or b"").decode("utf-8", "replace"), "after": args["content"]}
        return done


def _mode_of(found: Optional[Seen]) -> str:
    regular = found is not None and stat.S_ISREG(found.st_mode)
    return "%04o" % stat.S_IMODE(found.st_mode) if found is not None and regular else "0644"


def _new(kind: int, args: Args, host: Host, content: Optional[bytes] = None) -> Promised:
    """What a step would make; an unknown owner is found now rather than later."""
    mode, uid, gid = wanted_ids(args, host)
    uid = uid if args.get("owner") else os.geteuid()
    gid = gid if args.get("group") else os.getegid()
    return Promised(kind | (mode or 0), uid, gid, content)


def _read(spot: Spot) -> bytes:
    found = spot.stat()
    if isinstance(found, Promised) and found.content is not None:
        return found.content
    handle = spot.open(os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as reader:
        if os.fstat(handle).st_size > MAX_BYTES:
            raise Failed("%s is larger than a file that ogen compares" % spot.path)
        return reader.read(MAX_BYTES)


def _write(spot: Spot, content: bytes, args: Args, host: Host) -> None:
    passing = Spot(spot.path, os.dup(spot.folder), [".ogen-%d" % os.getpid()])
    with passing:
        handle = passing.open(os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as writer:
                writer.write(content)
                writer.flush()
                os.fsync(writer.fileno())
            adjust(passing, args, host)
            os.rename(passing.name, spot.name, src_dir_fd=spot.folder, dst_dir_fd=spot.folder)
        except BaseException:
            os.unlink(passing.name, dir_fd=spot.folder)
            raise
    os.fsync(spot.folder)


def need_parent(spot: Spot) -> None:
    if len(spot.names) > 1:
        raise Failed("%s: the folder above it is missing" % spot.path)


# ---------------------------------------------------------------------------- mode and owner
def wanted_ids(args: Args, host: Host) -> Tuple[Optional[int], int, int]:
    """Mode, uid and gid as numbers; None and -1 for those that nobody asked for."""
    mode = int(args["mode"], 8) if args.get("mode") else None
    uid = host.uid(args["owner"]) if args.get("owner") else -1
    gid = host.gid(args["group"]) if args.get("group") else -1
    return mode, uid, gid


def adjust(spot: Spot, args: Args, host: Host) -> List[Change]:
    """Makes mode and owner as wanted, through an open handle; says what differed."""
    mode, uid, gid = wanted_ids(args, host)
    promised = spot.stat() if host.check else None
    if isinstance(promised, Promised):
        return _promised(spot, promised, args, host)
    handle = spot.open(os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = os.fstat(handle)
        changes, moded = _differs(found, args, host)
        if changes and not stat.S_ISDIR(found.st_mode) and found.st_nlink > 1:
            raise Failed("%s has other names (hard links): its owner and mode stay" % spot.path)
        if changes and host.check:
            _promised(spot, Promised(found.st_mode, found.st_uid, found.st_gid), args, host)
        elif changes:
            if len(changes) > moded:
                os.fchown(handle, uid, gid)
            if mode is not None:
                os.fchmod(handle, mode)  # after chown, which drops set-id bits
        return changes
    finally:
        os.close(handle)


def _differs(found: Seen, args: Args, host: Host) -> Tuple[List[Change], bool]:
    """What differs, and whether the mode does."""
    mode, uid, gid = wanted_ids(args, host)
    changes: List[Change] = []
    if args.get("owner") and found.st_uid != uid:
        changes.append(("owner", user_name(found.st_uid), args["owner"]))
    if args.get("group") and found.st_gid != gid:
        changes.append(("group", group_name(found.st_gid), args["group"]))
    moded = mode is not None and stat.S_IMODE(found.st_mode) != mode
    if mode is not None and moded:
        changes.append(("mode", "%04o" % stat.S_IMODE(found.st_mode), "%04o" % mode))
    return changes, moded


def _promised(spot: Spot, found: Promised, args: Args, host: Host) -> List[Change]:
    """What would differ at a path as a check has promised it, which is noted."""
    if stat.S_ISLNK(found.st_mode):
        raise Failed("%s: Too many levels of symbolic links" % spot.name)
    mode, uid, gid = wanted_ids(args, host)
    changes, _ = _differs(found, args, host)
    kind = stat.S_IFMT(found.st_mode)
    new = kind | (stat.S_IMODE(found.st_mode) if mode is None else mode)
    uid, gid = uid if args.get("owner") else found.st_uid, gid if args.get("group") else found.st_gid
    if changes:
        spot.promise(Promised(new, uid, gid, found.content))
    return changes


_STATES = {"directory": _directory, "absent": _absent, "link": _link, "touch": _touch, "file": _file}
