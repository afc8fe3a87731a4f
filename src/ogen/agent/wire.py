"""The two pipes to the controller: whole frames in, replies and events out."""

from __future__ import annotations

import os
import select
from typing import List, Optional, Tuple

from . import frames
from .frames import Message

PATIENCE = 60.0  # seconds that a frame may wait for its reader
ROOM = 4096  # bytes that a pipe takes at once when it takes any


class Silence(Exception):
    """The controller said nothing for too long, or is gone."""


class Wire:
    """The two pipes."""

    def __init__(self, source: int = 0, sink: int = 1) -> None:
        self.source = source
        self.sink = sink
        self.dead = False  # the controller does not read any more

    def take(self, count: int, patience: Optional[float]) -> bytes:
        parts: List[bytes] = []
        while count > 0:
            if patience is not None and not select.select([self.source], [], [], patience)[0]:
                raise Silence("no frame for %d s" % patience)
            data = os.read(self.source, min(count, 1 << 20))
            if not data:
                break
            parts.append(data)
            count -= len(data)
        return b"".join(parts)

    def receive(self, patience: Optional[float] = None) -> Optional[Tuple[Message, bytes]]:
        return frames.read(lambda count: self.take(count, patience))

    def send(self, message: Message, data: bytes = b"") -> None:
        """A controller that is gone, or does not read for a minute, is no reason to stop."""
        if self.dead:
            return
        view = memoryview(frames.pack(message, data))
        try:
            while view:
                if not select.select([], [self.sink], [], PATIENCE)[1]:
                    raise OSError("nobody reads")
                view = view[os.write(self.sink, view[:ROOM]) :]
        except OSError:
            self.dead = True

    def tell(self, phase: str, text: str, percent: Optional[float] = None) -> None:
        self.send({"event": phase, "text": text, "percent": percent})
