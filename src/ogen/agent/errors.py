"""What can go wrong on the host: a message, how to mend it, and the host's own last lines."""

from __future__ import annotations

import errno
from typing import Any, Dict, Optional, Sequence

_NO_ROOM = "free space or inodes on the file system of /etc/ogen (df -h, df -i), then apply again"
_READ_ONLY = "mount it writable again (the kernel's log says why it is not), then apply again"
_MEND = {errno.ENOSPC: _NO_ROOM, errno.EDQUOT: _NO_ROOM, errno.EROFS: _READ_ONLY}


class AgentError(Exception):
    """The base; `kind` tells the controller which of its errors to raise."""

    kind = "failed"

    def __init__(self, message: str, hint: Optional[str] = None, log: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log = tuple(log)

    def plain(self) -> Dict[str, Any]:
        return {"kind": self.kind, "message": self.message, "hint": self.hint, "log": list(self.log)}


class Locked(AgentError):
    """Another rollout holds the host."""

    kind = "locked"


class Changed(AgentError):
    """Another release came into force since the controller looked."""

    kind = "changed"


class Refused(AgentError):
    """A checker on the host does not take the release; nothing has changed."""

    kind = "refused"


class Unproven(AgentError):
    """Something that was started does not do what the release says."""

    kind = "unproven"


class Broken(AgentError):
    """The journal can't be read: a line other than the last one is damaged."""

    kind = "stuck"


def disk_failed(error: OSError) -> AgentError:
    """An operation of the system that failed: what, where as far as it is known, and how to mend it."""
    where = "%s: " % error.filename if isinstance(error.filename, str) else ""
    why = (error.strerror or str(error)).lower()
    return AgentError("the host's disk failed: %s%s" % (where, why), _MEND.get(error.errno or 0))


def plainly(error: Exception) -> Exception:
    """What the system refused, as `disk_failed` tells it; anything else as it is."""
    return disk_failed(error) if isinstance(error, OSError) else error
