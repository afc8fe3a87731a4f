"""A file of the control machine: asked for by its digest, it comes in frames of some MiB."""

from __future__ import annotations

from typing import Iterator, Tuple

from . import frames
from .errors import AgentError
from .session import Session
from .wire import Silence

SILENCE = 60.0  # seconds


def size(session: Session, digest: str) -> int:
    session.wire.send({"reply": "want", "digest": digest, "at": None})
    return int(_part(session)[0]["size"])


def fetch(session: Session, digest: str, at: int = 0) -> Tuple[int, Iterator[bytes]]:
    """The file's size, and its content from `at` on in parts; the last frame says that it is the last one."""
    session.wire.send({"reply": "want", "digest": digest, "at": at})
    first, data = _part(session)

    def parts() -> Iterator[bytes]:
        message, part = first, data
        yield part
        while not message["last"]:
            message, part = _part(session)
            yield part

    return int(first["size"]), parts()


def _part(session: Session) -> frames.Frame:
    try:
        frame = session.wire.receive(SILENCE)
    except (Silence, frames.FrameError) as error:
        raise AgentError("the file did not come: %s" % error) from None
    if frame is None or frame[0].get("op") != "part":
        raise AgentError("the file did not come whole")
    return frame
