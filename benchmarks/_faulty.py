"""Instances that stream answers until something is wrong with them; all of them in one thread."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, Literal

Mode = Literal["well", "unreachable", "refusing", "closing", "hanging", "500", "503", "busy"]
PIECES, PACE = 4, 0.02  # of an answer


class Instance:
    """What a balancer sees of one; `mode` may change while it runs."""

    def __init__(self, mode: Mode) -> None:
        self.mode, self.asked, self.port = mode, 0, 0
        self.connections: set[asyncio.StreamWriter] = set()
        self.streaming: set[asyncio.StreamWriter] = set()  # those to which an answer has begun
        self.server: asyncio.Server | None = None
        self.open: list[socket.socket] = []
        self.idle = asyncio.Event()  # of a busy one: set when it has become free

    async def start(self) -> None:
        if self.mode == "unreachable":
            self._fill()
            return
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
        self.port = self.server.sockets[0].getsockname()[1]
        if self.mode == "refusing":
            self.server.close()

    def _fill(self) -> None:
        """A listener whose queue is full: further connections get no answer, as from a host that is gone."""
        door = socket.socket()
        door.bind(("127.0.0.1", 0))
        door.listen(0)
        self.port, self.open = door.getsockname()[1], [door]
        for _ in range(4):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(door.getsockname())
            self.open.append(waiting)

    async def kill(self) -> int:
        """As by SIGKILL: every connection breaks, no other is taken. How many answers were under way."""
        assert self.server
        self.server.close()
        self.mode = "closing"
        under_way = len(self.streaming)
        for writer in self.connections:
            writer.transport.abort()
        return under_way

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = head.partition("content-length:")[2].partition("\r\n")[0].strip()
                await reader.readexactly(int(length or 0))
                self.asked += 1
                if self.mode == "closing":
                    break
                await self._answer(writer)
        self.connections.discard(writer)
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        if self.mode == "hanging":
            await asyncio.sleep(3600)
        if self.mode == "busy":
            await self.idle.wait()
        if self.mode in ("500", "503"):
            body = json.dumps({"error": "out of memory"}).encode()
            writer.write(
                b"HTTP/1.1 %s x\r\nContent-Length: %d\r\n\r\n" % (self.mode.encode(), len(body)) + body
            )
            await writer.drain()
            return
        await asyncio.sleep(PACE)
        self.streaming.add(writer)
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for number in range(PIECES):
            data = json.dumps({"response": "x", "done": number == PIECES - 1}).encode() + b"\n"
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()
            await asyncio.sleep(PACE)
        writer.write(b"0\r\n\r\n")
        self.streaming.discard(writer)
        await writer.drain()


class Farm:
    """Instances of these modes, from entry to exit."""

    def __init__(self, modes: Sequence[Mode]) -> None:
        self.instances = [Instance(mode) for mode in modes]
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def free(self) -> None:
        """Those that are busy become free."""
        for one in self.instances:
            self.loop.call_soon_threadsafe(one.idle.set)

    def __enter__(self) -> Farm:
        self.thread.start()
        for one in self.instances:
            self.do(one.start())
        return self

    def __exit__(self, *_: object) -> None:
        self.do(self._end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    async def _end(self) -> None:
        for one in self.instances:
            if one.server:
                one.server.close()
            for link in one.open:
                link.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
