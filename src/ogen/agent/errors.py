"""What can go wrong on the host: a message, how to mend it, and the host's own last lines."""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence


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
