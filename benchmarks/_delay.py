"""A line with a delay, in user space, that counts round trips.

    python benchmarks/_delay.py MILLISECONDS PORT FROM=TO...     addresses; a line read is a line of counts

Every byte arrives half a round trip after it was sent. What comes first on a connection waits for one
round trip more: that stands for TCP's own handshake, which ends here, on loopback.

Counted are a client's flights: whatever it sends until it has heard something new. A flight that the
server answers is a round trip; TCP's handshake is one more.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path


class Line:
    """One connection: its bytes in both directions, and its count."""

    def __init__(self, delay: float) -> None:
        self.delay = delay  # seconds, there and back
        self.trips = 1  # TCP's own
        self.heard = True  # the client has heard something since it last spoke
        self.open_flight = False
        self.ready = asyncio.get_running_loop().time() + delay

    def sent(self) -> None:
        """The client speaks."""
        if self.heard:
            self.open_flight, self.heard = True, False

    def answered(self) -> None:
        """The client hears."""
        self.trips += self.open_flight
        self.open_flight, self.heard = False, True


class End(asyncio.Protocol):
    """One end of a line; what comes in here goes out at the `other`, later."""

    def __init__(self, line: Line, *, client: bool) -> None:
        self.line = line
        self.client = client
        self.other: End | None = None
        self.transport: asyncio.Transport | None = None
        self.early: list[bytes] = []
        self.on_the_way: deque[bytes] = deque()  # timers of one moment fire in any order

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        for data in self.early:
            transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self.client:
            self.line.sent()
        self._later(data)

    def eof_received(self) -> bool:
        self._later(b"")
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._later(b"")

    def _later(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.on_the_way.append(data)
        loop.call_at(max(loop.time(), self.line.ready) + self.line.delay / 2, self._deliver)

    def _deliver(self) -> None:
        data = self.on_the_way.popleft()
        assert self.other
        out = self.other.transport
        if out is None:  # the server has not taken the connection yet; what came first stays first
            self.other.early.append(data)
            return
        if out.is_closing():
            return
        if not data:
            out.close()
            return
        if not self.client:
            self.line.answered()
        out.write(data)


async def serve(delay: float, port: int, ways: Sequence[tuple[str, str]]) -> None:
    """Runs until the input ends; a line of it is answered with the trips of the connections since."""
    loop = asyncio.get_running_loop()
    lines: list[Line] = []

    def accept(target: str) -> End:
        line = Line(delay)
        lines.append(line)
        near, far = End(line, client=True), End(line, client=False)
        near.other, far.other = far, near
        waiting.add(task := loop.create_task(_connect(far, target, port)))
        task.add_done_callback(waiting.discard)
        return near

    waiting: set[asyncio.Task[None]] = set()
    for near, far in ways:
        await loop.create_server(lambda target=far: accept(target), near, port, backlog=500)  # type: ignore[misc]
    print("ready", flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps([line.trips for line in lines]), flush=True)
        lines.clear()


async def _connect(far: End, target: str, port: int) -> None:
    await asyncio.get_running_loop().create_connection(lambda: far, target, port)


class Delay:
    """The program above, as a process of its own."""

    def __init__(self, seconds: float, port: int, ways: Sequence[tuple[str, str]]) -> None:
        pairs = [f"{near}={far}" for near, far in ways]
        command = [sys.executable, str(Path(__file__)), str(seconds * 1000), str(port), *pairs]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def trips(self) -> list[int]:
        """Round trips of each connection since the last call."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: list[int] = json.loads(self._line())
        return found

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)


def main() -> None:
    delay, port, *ways = sys.argv[1:]
    pairs = [(near, far) for near, _, far in (way.partition("=") for way in ways)]
    asyncio.run(serve(float(delay) / 1000, int(port), pairs))


if __name__ == "__main__":
    main()
