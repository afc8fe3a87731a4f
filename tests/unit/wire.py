"""HTTP byte by byte: what no client library would send, and an instance that writes down what it got."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

MODELS = ("chat:latest", "coder:latest")


@dataclass(frozen=True)
class Message:
    """A request or an answer: its first line's words, headers in lower case, body."""

    first: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def status(self) -> int:
        return int(self.first[1])

    @property
    def path(self) -> str:
        return self.first[1]

    def header(self, name: str) -> str:
        return ", ".join(value for key, value in self.headers if key == name)

    def json(self) -> Any:
        return json.loads(self.body)


class Broken(Exception):
    """Bytes that are no HTTP/1.1 message."""


async def read_message(reader: asyncio.StreamReader, bodiless: bool = False) -> Message | None:
    """The next message; None at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as end:
        if end.partial:
            raise Broken(end.partial[:200]) from None
        return None
    lines = head.decode("latin-1").split("\r\n")
    first = tuple(lines[0].split(" ", 2))
    if len(first) < 2 or not (first[0].startswith("HTTP/1.") or first[-1].startswith("HTTP/1.")):
        raise Broken(lines[0])
    pairs = [line.partition(":") for line in lines[1:] if line]
    headers = tuple((name.lower(), value.strip()) for name, _, value in pairs)
    message = Message(first, headers, b"")
    answer = first[0].startswith("HTTP/")
    if bodiless or (answer and (message.status < 200 or message.status in (204, 304))):
        return message
    if message.header("transfer-encoding") == "chunked":
        return Message(first, headers, await _chunks(reader))
    length = message.header("content-length")
    if answer and not length:
        return Message(first, headers, await reader.read(-1))
    return Message(first, headers, await reader.readexactly(int(length or 0)))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        parts.append(await reader.readexactly(size))
        await reader.readuntil(b"\r\n")
        if not size:
            return b"".join(parts)


@dataclass
class Recorder:
    """An instance that answers everything and keeps what came, byte for byte."""

    models: tuple[str, ...] = MODELS
    seen: list[Message] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> Recorder:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        start = asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 26, backlog=1000)
        self.server = asyncio.run_coroutine_threadsafe(start, self.loop).result(10)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    async def _end(self) -> None:
        self.server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                while request := await read_message(reader):
                    self.seen.append(request)
                    writer.write(self._answer(request))
                    await writer.drain()
            except (Broken, ValueError) as error:
                self.broken.append(str(error))
        writer.close()

    def _answer(self, request: Message) -> bytes:
        path = request.path.split("?")[0]
        if path in ("/api/tags", "/api/ps"):
            value: Any = {"models": [{"name": name} for name in self.models]}
        elif path == "/v1/models":
            value = {"object": "list", "data": [{"id": name} for name in self.models]}
        else:
            value = {"version": "0.32.15", "path": path}
        data = b"" if request.first[0] == "HEAD" else json.dumps(value).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        return head.encode() + data


async def _exchange(
    port: int, parts: tuple[bytes, ...], idle: float, most: int
) -> tuple[list[Message], bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
    found: list[Message] = []
    rest = b""
    try:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
        bodiless = parts[0].startswith(b"HEAD ")
        while len(found) < most and (message := await asyncio.wait_for(read_message(reader, bodiless), idle)):
            found += [message] if message.status >= 200 else []
    except Broken as error:
        rest = error.args[0] if isinstance(error.args[0], bytes) else str(error).encode()
    except (ConnectionError, asyncio.IncompleteReadError, TimeoutError, asyncio.TimeoutError):
        pass
    finally:
        writer.close()
    return found, rest


def exchange(port: int, *parts: bytes, idle: float = 1.0, most: int = 9) -> tuple[list[Message], bytes]:
    """Sends bytes; the answers until the connection is closed or silent, and what was no answer."""
    return asyncio.run(_exchange(port, parts, idle, most))


def request(
    path: str, body: bytes | None = None, method: str = "", version: str = "1.1", **headers: str
) -> bytes:
    """One well-formed request, after which the connection is to be closed."""
    lines = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/{version}", "Host: balancer"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [] if body is None else [f"Content-Length: {len(body)}"]
    return ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode("latin-1") + (body or b"")


@contextlib.contextmanager
def connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Open connections that say nothing yet."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), 30)) for _ in range(count)]
