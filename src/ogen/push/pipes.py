"""The two ends of a program on a host, whatever carries them: bytes out, bytes in, errors aside.

Every wait has an end: a host that accepts a connection and then says nothing is a ConnectError.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from ..errors import ConnectError, HostError

CHUNK = 1 << 18
MOVE = 60.0  # seconds in which a write must move
AGAIN = "what was committed goes on there by itself; run the same command again"


class Pipe(ABC):
    """What the program wrote is collected in `out` and `err` until somebody takes it."""

    def __init__(self, host: str, user: str = "") -> None:
        self.host = host
        self.user = user  # who the program runs as
        self.out = bytearray()
        self.err = bytearray()
        self.ended = False
        self.patience = 0.0  # seconds that the way to the host may take once it runs

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

    def failure(self) -> HostError | None:
        """Why the carrier itself failed, after the end; None if it did not, or can't tell."""
        return None

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

    def __init__(
        self,
        host: str,
        command: Sequence[str],
        *,
        user: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(host, user)
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=env,
                bufsize=0,
                start_new_session=True,  # no terminal to ask at, and Ctrl-C is not for it
            )
        except OSError as error:
            hint = f"is {command[0]} installed on this machine?"
            why = (error.strerror or "").lower()
            raise ConnectError(f"{command[0]}: {why}", host=host, hint=hint) from None
        assert self.process.stdin
        assert self.process.stdout
        assert self.process.stderr
        os.set_blocking(self.process.stdin.fileno(), False)
        self.streams = {self.process.stdout.fileno(): self.out, self.process.stderr.fileno(): self.err}

    def send(self, data: bytes) -> None:
        assert self.process.stdin
        number, left = self.process.stdin.fileno(), memoryview(data)
        room = select.poll()
        room.register(number, select.POLLOUT)
        try:
            while left:
                if not room.poll(MOVE * 1000):
                    raise ConnectError("the connection does not move", host=self.host, hint=AGAIN)
                with contextlib.suppress(BlockingIOError):
                    left = left[os.write(number, left[:CHUNK]) :]
        except OSError:
            raise ConnectError("the connection broke", host=self.host, hint=AGAIN) from None

    def wait(self, seconds: float) -> bool:
        there = select.poll()
        for number in self.streams:
            there.register(number, select.POLLIN)
        ready = [number for number, _ in there.poll(seconds * 1000)]
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
        for number in (0, signal.SIGTERM, signal.SIGKILL):
            if number:
                self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(2)
                return
