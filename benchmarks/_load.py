"""An open-loop client: sends traces to balancers at their times, whatever has become of earlier requests."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from _trace import Trace

END = b"\r\n0\r\n\r\n"


@dataclass(slots=True)
class Job:
    """One trace for one balancer, and what became of it: a latency, or None for a failure."""

    port: int
    trace: Trace
    delay: float = 0.0  # seconds after the others, so that not all send in the same millisecond
    latencies: dict[int, float | None] = field(default_factory=dict)
    unfinished: int = 0


@dataclass(slots=True)
class Machine:
    """Whether the machine kept up with the benchmark."""

    busy: float  # share of all cores, whoever used them
    late: list[float]  # seconds that requests were sent after their time, sorted


def play(jobs: Sequence[Job], grace: float) -> Machine:
    """Sends everything; ends `grace` seconds after the last arrival, when all the rest counts as unfinished:
    its latency is then what it has waited so far, a lower bound."""
    return asyncio.run(_Play(jobs).run(grace))


class _Play:
    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.open: dict[tuple[int, int], asyncio.Task[None]] = {}
        self.left = sum(len(job.trace) for job in jobs)
        self.late: list[float] = []

    async def run(self, grace: float) -> Machine:
        self.loop = asyncio.get_running_loop()
        self.done = asyncio.Event()
        self.begin = self.loop.time() + 0.5
        for number, job in enumerate(self.jobs):
            for index, arrival in enumerate(job.trace.arrivals):
                self.loop.call_at(self.begin + job.delay + arrival, self._fire, number, index)
        last = max(job.delay + job.trace.arrivals[-1] for job in self.jobs)
        gc.collect()
        gc.freeze()
        gc.disable()
        before = _ticks()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.done.wait(), 0.5 + last + grace)
        busy, total = (b - a for a, b in zip(before, _ticks(), strict=True))
        gc.enable()
        await self._cut()
        return Machine(busy / max(total, 1), sorted(self.late))

    def _fire(self, number: int, index: int) -> None:
        self.late.append(self.loop.time() - self._due(number, index))
        self.open[number, index] = self.loop.create_task(self._send(number, index))

    def _due(self, number: int, index: int) -> float:
        job = self.jobs[number]
        return self.begin + job.delay + job.trace.arrivals[index]

    async def _send(self, number: int, index: int) -> None:
        job = self.jobs[number]
        client = job.trace.clients[index]
        body = json.dumps({"model": "chat", "prompt": "hello", "service": job.trace.services[index]}).encode()
        head = (
            "POST /api/generate HTTP/1.1\r\nHost: balancer\r\nContent-Type: application/json\r\n"
            f"X-Session: client-{client}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        ended: asyncio.Future[float | None] = self.loop.create_future()
        request, address = head.encode() + body, f"127.0.0.{10 + client}"  # all in one /24
        try:
            transport, _ = await self.loop.create_connection(
                lambda: _Answer(request, self.loop.time, ended),
                "127.0.0.1",
                job.port,
                local_addr=(address, 0),
            )
            try:
                end = await ended
            finally:
                transport.abort()
        except OSError:
            end = None
        job.latencies[index] = None if end is None else end - self._due(number, index)
        del self.open[number, index]
        self.left -= 1
        if not self.left:
            self.done.set()

    async def _cut(self) -> None:
        cut = self.loop.time()
        for (number, index), task in list(self.open.items()):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self.jobs[number].latencies[index] = cut - self._due(number, index)
            self.jobs[number].unfinished += 1


class _Answer(asyncio.Protocol):
    """Sends a request; its future is the time of the answer's last byte, or None if it is no whole answer."""

    def __init__(
        self, request: bytes, clock: Callable[[], float], ended: asyncio.Future[float | None]
    ) -> None:
        self.request, self.clock, self.ended = request, clock, ended
        self.head = b""
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.head = self.head or data[:12]
        self.tail = (self.tail + data)[-80:]
        if self.tail.endswith(END):
            whole = self.head == b"HTTP/1.1 200" and b'"done":true' in self.tail
            self._end(self.clock() if whole else None)
        elif self.head != b"HTTP/1.1 200":
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(None)

    def _end(self, when: float | None) -> None:
        if not self.ended.done():
            self.ended.set_result(when)


def _ticks() -> tuple[int, int]:
    """Busy and all ticks of all cores since the machine's start."""
    user, nice, system, idle, wait, *rest = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    )
    busy = user + nice + system + sum(rest)
    return busy, busy + idle + wait


def cores() -> int:
    return os.cpu_count() or 1
