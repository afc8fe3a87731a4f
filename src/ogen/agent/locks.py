"""Locks that the kernel frees when their holder dies: `lock` for a session, `tx.lock` for the journal."""

from __future__ import annotations

import fcntl
import json
import os
import time
from typing import Any, Dict, Optional

from .disk import Disk
from .errors import Locked

GRACE = 0.2  # seconds that a lock is tried at least: who merely looks holds it for a moment
SESSION = "/etc/ogen/lock"
JOURNAL = "/etc/ogen/tx.lock"


class Lock:
    """One lock file; its text is a note about who holds it."""

    def __init__(self, disk: Disk, path: str) -> None:
        self.disk = disk
        self.path = path
        self.handle: Optional[int] = None

    def take(self, note: Dict[str, Any], patience: float = 0.0) -> None:
        """Raises Locked with the holder's note when it is held for longer than `patience` seconds."""
        if self.handle is not None:
            return
        handle = self.disk.open_lock(self.path)
        end = time.monotonic() + max(patience, GRACE)
        while not _try(handle, fcntl.LOCK_EX):
            if time.monotonic() >= end:
                os.close(handle)
                raise Locked("another rollout holds this host: %s" % self.note(), self._hint())
            time.sleep(0.05)
        self.disk.note(handle, json.dumps({**note, "pid": os.getpid()}).encode())
        self.handle = handle

    def drop(self) -> None:
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None

    def _note(self) -> Dict[str, Any]:
        try:
            note = json.loads(self.disk.read_or(self.path).decode() or "{}")
        except ValueError:
            return {}
        return note if isinstance(note, dict) else {}

    def _hint(self) -> Optional[str]:
        """A stopped process keeps its locks, and hears neither the end of its input nor a clock."""
        pid = str(self._note().get("pid") or 0)
        try:
            with open("/proc/%d/stat" % int(pid), encoding="utf-8", errors="replace") as file:
                stopped = file.read().rpartition(")")[2].split()[0] in ("T", "t")
        except (OSError, ValueError, IndexError):
            return None
        text = "process %s is stopped: there, `kill -CONT %s` lets it end, `kill -KILL %s` frees the host"
        return text % (pid, pid, pid) if stopped else None

    def note(self) -> str:
        """What the holder wrote, for people."""
        note = self._note()
        shown = [str(note[k]) for k in ("who", "what", "pid") if note.get(k)]
        return ", ".join(shown) or "it left no note"

    def held(self) -> bool:
        """Whether some process holds it. Asking /proc/locks instead would stop all locks of the machine
        for ten milliseconds."""
        path = self.disk.real(self.path)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return not _try(handle, fcntl.LOCK_SH)
        finally:
            os.close(handle)


def _try(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
