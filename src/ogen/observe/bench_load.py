"""Sends load: so many requests at once, each place the next one when it has its answer. One thread, one loop.

It also watches itself: how late its own loop was, and how much of a core it took, since a client that can't
keep up would call a fleet slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .bench_answers import Answer, Asked, Broken, request
from .bench_figures import Record, percentile
from .bench_link import Link, Target, why

T = TypeVar("T")
TICK = 0.02  # seconds between two looks at how late the loop is
TELL = 0.5  # between two words about progress
PAUSE = 0.2  # after a failure, so that what refuses at once is not asked a thousand times a second
HOPELESS = 20  # failures, and no answer at all: nothing is to be measured here


@dataclass(frozen=True, slots=True)
class Bounds:
    """When a run ends: after `requests`, or when `seconds` are over; a request may take `timeout`."""

    requests: int | None = None
    seconds: float | None = None
    timeout: float = 300.0


@dataclass(slots=True)
class Load:
    """What came of it."""

    records: list[Record] = field(default_factory=list)
    interrupted: bool = False
    hopeless: bool = False
    addresses: set[str] = field(default_factory=set)  # where requests came from
    late: float = 0.0  # seconds: 99 % of the time the client was less late than that
    cpu: float = 0.0  # of one core


Tell = Callable[[float, int, int], None]  # seconds so far, answered, failed


def load(
    target: Target,
    asked: Asked,
    concurrency: int,
    bounds: Bounds,
    *,
    first: int = 1,
    tell: Tell = lambda *_: None,
) -> Load:
    """Runs to its bounds; Ctrl-C ends it early, with what was measured. `first` numbers the first prompt."""
    run = _Run(target, asked, concurrency, bounds, first, tell)
    began = time.process_time(), time.monotonic()
    with _interruptible(run.interrupt):
        asyncio.run(run.all())
    run.found.cpu = (time.process_time() - began[0]) / max(1e-9, time.monotonic() - began[1])
    return run.found


@contextlib.contextmanager
def _interruptible(interrupt: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C calls `interrupt`. From before the loop is there: an exception may come in the middle of what
    asyncio does then, and be lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: interrupt())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _nothing() -> None:
    pass


class _Run:
    def __init__(
        self, target: Target, asked: Asked, concurrency: int, bounds: Bounds, first: int, tell: Tell
    ) -> None:
        self.target, self.asked, self.bounds, self.tell = target, asked, bounds, tell
        self.concurrency = concurrency
        self.number = first
        self.sent = 0
        self.good = 0
        self.found = Load()
        self.wake: Callable[[], object] = _nothing
        self.tls = ssl.create_default_context() if target.tls else None
        headers = {"Authorization": f"Bearer {target.key}"} if target.key else {}
        self.headers = {"Accept": "*/*", "User-Agent": "ogen-bench", **headers}

    def interrupt(self) -> None:
        self.found.interrupted = True
        self.wake()

    async def all(self) -> None:
        self.stop = asyncio.Event()
        self.loop = loop = asyncio.get_running_loop()
        self.wake = lambda: loop.call_soon_threadsafe(self.stop.set)
        if self.found.interrupted:
            self.stop.set()
        stopping = loop.create_task(self._stopped())
        tasks: list[asyncio.Task[None]] = [stopping]
        try:
            links = await self._unless(stopping, self._connected())
            if links is None:
                return
            self.begin = loop.time()
            places = [loop.create_task(self._place(link)) for link in links]
            tasks += [loop.create_task(self._watch()), *places]
            await self._unless(stopping, asyncio.wait(places, return_when=asyncio.FIRST_EXCEPTION))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.wake = _nothing
        for place in places:
            if not place.cancelled() and (error := place.exception()):
                raise error

    async def _unless(self, stopping: asyncio.Task[None], work: Coroutine[Any, Any, T]) -> T | None:
        """What it returns; None where it is told to stop before."""
        task = asyncio.ensure_future(work)
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return None

    async def _connected(self) -> list[Link | None]:
        """A connection for each place, before the first request; one that fails is tried again then."""
        most = self.concurrency if self.bounds.requests is None else self.bounds.requests
        count = min(self.concurrency, most)
        made = await asyncio.gather(*(self._connect() for _ in range(count)), return_exceptions=True)
        return [link if isinstance(link, Link) else None for link in made]

    async def _stopped(self) -> None:
        await self.stop.wait()

    # ------------------------------------------------------------------------------- one place
    async def _place(self, link: Link | None) -> None:
        try:
            while (number := self._next()) is not None:
                link, record = await self._one(link, number)
                self.found.records.append(record)
                if record.error:
                    self._hope()
                    await asyncio.sleep(PAUSE)
                else:
                    self.good += 1
        finally:
            if link is not None:
                link.abort()

    def _next(self) -> int | None:
        """The number of the next request; None at the end."""
        bounds = self.bounds
        if self.stop.is_set() or (bounds.requests is not None and self.sent >= bounds.requests):
            return None
        if bounds.seconds is not None and self.loop.time() - self.begin >= bounds.seconds:
            return None
        self.sent += 1
        self.number += 1
        return self.number - 1

    def _hope(self) -> None:
        if not self.good and len(self.found.records) >= max(HOPELESS, self.concurrency):
            self.found.hopeless = True
            self.stop.set()

    async def _one(self, link: Link | None, number: int) -> tuple[Link | None, Record]:
        data = request(
            self.target.path + self.asked.path, self.target.authority, self.asked.body(number), self.headers
        )
        start = self.loop.time()
        try:
            if link is not None and (answer := await link.ask(data, self.bounds.timeout)) is not None:
                return _kept(link, answer), self._record(start, answer)
            # it is new, or the server has closed it between two requests
            link = await self._connect()
            answer = await link.ask(data, self.bounds.timeout)
            if answer is None:
                raise Broken("the connection was closed instead of an answer")
            return _kept(link, answer), self._record(start, answer)
        except (OSError, Broken, asyncio.TimeoutError) as error:
            if link is not None:
                link.abort()
            return None, self._record(start, None, why(error, self.bounds.timeout))

    async def _connect(self) -> Link:
        _, link = await asyncio.wait_for(
            self.loop.create_connection(
                lambda: Link(self.loop), self.target.host, self.target.port, ssl=self.tls
            ),
            self.bounds.timeout,
        )
        self.found.addresses.add(link.address)
        return link

    def _record(self, start: float, answer: Answer | None, error: str = "") -> Record:
        now, begin = self.loop.time(), self.begin
        if answer is None:
            return Record(start - begin, now - begin, error=error)
        first = None if answer.first is None else answer.first - begin
        return Record(
            start - begin,
            answer.last - begin,
            first,
            answer.counted(),
            answer.prompt_tokens,
            answer.generated,
            answer.error,
        )

    # ------------------------------------------------------------------------------ beside it
    async def _watch(self) -> None:
        """How late the loop is, and words about progress."""
        late: list[float] = []
        told = self.begin
        try:
            while True:
                due = self.loop.time() + TICK
                await asyncio.sleep(TICK)
                late.append(self.loop.time() - due)
                if self.loop.time() - told >= TELL:
                    told = self.loop.time()
                    self.tell(told - self.begin, self.good, len(self.found.records) - self.good)
        finally:
            self.found.late = percentile(sorted(late), 0.99) if late else 0.0


def _kept(link: Link, answer: Answer) -> Link | None:
    """The connection, if it can be used again."""
    if answer.keep:
        return link
    link.abort()
    return None
