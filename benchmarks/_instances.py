"""Stand-ins for Ollama instances: one request at a time, first come, first served, answers in NDJSON pieces.

    python benchmarks/_instances.py COUNT

A process of its own, so that it does not share the client's time. It writes the ports that it listens on as
a JSON line, and, when its standard input ends, how late its answers were. A request says in its body how long
it takes; a service begins at the end of the one before, not when that was noticed, so that delays of timers
do not add up.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType

PIECE = 0.05  # seconds of generation in each piece of an answer
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b'{"model":"chat","done":true}\n'
TOKEN = b'{"model":"chat","response":" token","done":false}\n'


def _piece(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@dataclass(slots=True, eq=False)
class _Request:
    connection: _Connection
    arrival: float
    service: float


@dataclass(slots=True, eq=False)
class Instance:
    """The queue of one instance."""

    loop: asyncio.AbstractEventLoop
    late: list[float]
    waiting: deque[_Request] = field(default_factory=deque)
    now: _Request | None = None
    begun: float = 0.0
    pieces: int = 0
    timer: asyncio.TimerHandle | None = None
    served: int = 0

    def submit(self, request: _Request) -> None:
        self.waiting.append(request)
        if self.now is None:
            self._begin(request.arrival)

    def leave(self, connection: _Connection) -> None:
        """A client that goes away frees the instance, as it does Ollama's."""
        self.waiting = deque(r for r in self.waiting if r.connection is not connection)
        if self.now is not None and self.now.connection is connection:
            assert self.timer is not None
            self.timer.cancel()
            self._begin(self.loop.time())

    def _begin(self, free: float) -> None:
        self.now = self.waiting.popleft() if self.waiting else None
        if self.now is not None:
            self.begun = max(free, self.now.arrival)
            self.pieces = 0
            self._wait()

    def _wait(self) -> None:
        assert self.now is not None
        due = min((self.pieces + 1) * PIECE, self.now.service)
        self.timer = self.loop.call_at(self.begun + due, self._step)

    def _step(self) -> None:
        assert self.now is not None
        data = b"" if self.pieces else HEAD
        end = self.begun + self.now.service
        if self.loop.time() < end:
            self.pieces += 1
            self.now.connection.write(data + _piece(TOKEN))
            self._wait()
        else:
            self.now.connection.write(data + _piece(LAST) + b"0\r\n\r\n")
            self.late.append(self.loop.time() - end)
            self.served += 1
            self._begin(end)


class _Connection(asyncio.Protocol):
    """HTTP as far as nginx speaks it to an upstream: one request after the other, with Content-Length."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.buffer = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0] or 0)
        if len(rest) >= length:
            self.buffer = rest[length:]
            service = float(json.loads(rest[:length])["service"])
            self.instance.submit(_Request(self, self.instance.loop.time(), service))

    def connection_lost(self, exc: Exception | None) -> None:
        self.instance.leave(self)

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)


async def _serve(count: int) -> None:
    loop = asyncio.get_running_loop()
    late: list[float] = []
    instances = [Instance(loop, late) for _ in range(count)]
    servers = [
        await loop.create_server(partial(_Connection, one), "127.0.0.1", 0, backlog=1024) for one in instances
    ]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    gc.freeze()
    gc.disable()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()
    print(json.dumps({"late": sorted(late), "served": [i.served for i in instances]}), flush=True)


class Instances:
    """The process, for the time of a `with`; afterwards `late` and `served` tell of it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.late: list[float] = []
        self.served: list[int] = []

    def __enter__(self) -> Instances:
        command = [sys.executable, str(Path(__file__)), str(self.count)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.ports: list[int] = json.loads(self.process.stdout.readline())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        told, _ = self.process.communicate(timeout=60)
        if kind is None:
            found = json.loads(told)
            self.late, self.served = found["late"], found["served"]


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
