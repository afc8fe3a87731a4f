"""A backend whose service times are known: a process of its own that answers like Ollama and keeps the truth.

    python known_backend.py '{"services": [0.1, …], "slots": 4, …}'

It writes its port, and, when its standard input ends, a JSON line with a row for each request: when it came,
when its first token went, when its last one went. One queue for all slots, first come first served; the n-th
request that came takes `services[n]` seconds, and a service begins at the end of the one before.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import ssl
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from functools import partial
from types import TracebackType
from typing import Any


@dataclass
class Plan:
    """What the backend does; `fail` requests (by number) get 500, `cut` ones end in the middle."""

    services: list[float]
    slots: int = 1
    tokens: int = 20  # of each answer
    first: float = 0.5  # share of a service before the first token
    openai: bool = False
    fail: list[int] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    close: bool = False  # the connection after each answer
    key: str = ""  # that is asked for
    tls: list[str] = field(default_factory=list)  # files: certificate, key


class _Backend:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.loop = asyncio.get_running_loop()
        self.free = [0.0] * plan.slots
        self.rows: list[dict[str, Any]] = []

    def submit(self, link: _Connection, head: bytes, body: dict[str, Any]) -> None:
        number, now = len(self.rows), self.loop.time()
        row: dict[str, Any] = {"came": now, "body": body, "head": head.decode()}
        self.rows.append(row)
        if self.plan.key and f"Bearer {self.plan.key}".encode() not in head:
            return link.refuse(401, {"error": "no key, or not a good one"})
        if number in self.plan.fail:
            return link.refuse(500, {"error": "CUDA out of memory"})
        service = self.plan.services[number % len(self.plan.services)]
        begin = max(now, heapq.heappop(self.free))
        heapq.heappush(self.free, begin + service)
        early = begin + service * self.plan.first
        self.loop.call_at(early, self._first, link, row)
        self.loop.call_at(begin + service, self._last, link, row, number in self.plan.cut)
        return None

    def _first(self, link: _Connection, row: dict[str, Any]) -> None:
        row["first"] = self.loop.time()
        kind = "text/event-stream" if self.plan.openai else "application/x-ndjson"
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n"
        link.write(head.encode() + (b"Connection: close\r\n" if self.plan.close else b"") + b"\r\n")
        link.piece(self._token())

    def _last(self, link: _Connection, row: dict[str, Any], cut: bool) -> None:
        if cut:
            return link.close()
        for _ in range(self.plan.tokens - 1):
            link.piece(self._token())
        link.piece(self._end())
        row["last"] = self.loop.time()
        link.write(b"0\r\n\r\n")
        return link.close() if self.plan.close else None

    def _token(self) -> bytes:
        if self.plan.openai:
            return _event({"choices": [{"delta": {"content": " so"}}]})
        return b'{"response":" so","done":false}\n'

    def _end(self) -> bytes:
        tokens = self.plan.tokens
        if self.plan.openai:
            usage = {"prompt_tokens": 7, "completion_tokens": tokens}
            return _event({"choices": [], "usage": usage}) + b"data: [DONE]\n\n"
        counts = {"eval_count": tokens, "eval_duration": tokens * 10_000_000, "prompt_eval_count": 7}
        return json.dumps({"response": "", "done": True, **counts}).encode() + b"\n"


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


class _Connection(asyncio.Protocol):
    def __init__(self, backend: _Backend) -> None:
        self.backend = backend
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0] or 0)
        if found and len(rest) >= length:
            self.buffer = rest[length:]
            self.backend.submit(self, head, json.loads(rest[:length]))

    def refuse(self, status: int, said: dict[str, str]) -> None:
        body = json.dumps(said).encode()
        self.write(f"HTTP/1.1 {status} No\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    def piece(self, data: bytes) -> None:
        self.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        self.transport.close()


async def _serve(plan: Plan) -> None:
    backend = _Backend(plan)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if plan.tls else None
    if context:
        context.load_cert_chain(*plan.tls)
    made = partial(_Connection, backend)
    server = await backend.loop.create_server(made, "127.0.0.1", 0, backlog=1024, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    backend.loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()
    print(json.dumps(backend.rows), flush=True)


class Backend:
    """The process, for the time of a `with`; afterwards `rows` is the truth."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rows: list[dict[str, Any]] = []

    def __enter__(self) -> Backend:
        command = [sys.executable, __file__, json.dumps(asdict(self.plan))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        told, _ = self.process.communicate(timeout=60)
        self.rows = json.loads(told) if kind is None else []

    @property
    def url(self) -> str:
        return f"http{'s' if self.plan.tls else ''}://127.0.0.1:{self.port}"


if __name__ == "__main__":
    asyncio.run(_serve(Plan(**json.loads(sys.argv[1]))))
