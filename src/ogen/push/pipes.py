"""The two ends of a program on a host, whatever carries them: bytes out, bytes in, errors aside.

Every wait has an end: a host that accepts a connection and then says nothing is a ConnectError.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

from ..errors import ConnectError

CHUNK = 1 << 18


class Pipe(ABC):
    """What the program wrote is collected in `out` and `err` until somebody takes it."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.out = bytearray()
        self.err = bytearray()
        self.ended = False

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Writes all of it; ConnectError if the program is gone."""

    @abstractmethod
    def wait(self, seconds: float) -> bool:
        """Waits until something came or the program ended; False if neither happened in time."""

    @abstractmethod
    def status(self) -> int | None:
        """The exit status after the end, if it is known."""

    @abstractmethod
    def close(self) -> None:
        """Ends the program's input and lets go of everything."""

    def pump(self, end: float, what: str) -> None:
        """Waits for more until the monotonic time `end`."""
        if not self.wait(max(0.0, end - time.monotonic())):
            raise ConnectError(
                f"no {what} in time", host=self.host, hint="is the host overloaded, or the network gone?"
            )

    def take(self, count: int, seconds: float, what: str = "answer") -> bytes:
        """`count` bytes, or fewer at the end; `seconds` of silence are too many."""
        while len(self.out) < count and not self.ended:
            self.pump(time.monotonic() + seconds, what)
        taken = bytes(self.out[:count])
        del self.out[:count]
        return taken

    def said(self) -> str:
        """What the program wrote to its standard error."""
        return self.err.decode("utf-8", "replace").strip()


class ProcessPipe(Pipe):
    """A process on this machine: `connection: local`, or the system's own ssh client."""

    def __init__(self, host: str, command: Sequence[str], cwd: str | None = None) -> None:
        super().__init__(host)
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            raise ConnectError(f"{command[0]}: {(error.strerror or '').lower()}", host=host) from None
        assert self.process.stdout
        assert self.process.stderr
        self.streams = {self.process.stdout.fileno(): self.out, self.process.stderr.fileno(): self.err}

    def send(self, data: bytes) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.write(data)
            self.process.stdin.flush()
        except OSError:
            raise ConnectError("the connection broke", host=self.host) from None

    def wait(self, seconds: float) -> bool:
        ready = select.select(list(self.streams), [], [], seconds)[0]
        for number in ready:
            data = os.read(number, CHUNK)
            if data:
                self.streams[number] += data
            else:
                del self.streams[number]
        self.ended = not self.streams
        return bool(ready) or self.ended

    def status(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(5)
        return None

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                assert stream
                stream.close()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait(5)
