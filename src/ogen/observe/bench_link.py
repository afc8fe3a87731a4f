"""A connection to a balancer for load: one request on it at a time."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ..errors import UsageError
from .bench_answers import Answer, Broken


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go; `key` is shown nowhere."""

    host: str
    port: int
    tls: bool = False
    path: str = ""  # before that of the API
    key: str = field(default="", repr=False)

    @classmethod
    def of(cls, url: str, key: str = "") -> Target:
        hint = "such as http://192.0.2.10:8080"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"no URL: {error}", hint=hint) from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"no URL of a balancer: {url.rpartition('@')[2]}", hint=hint)
        if parts.username is not None or parts.query or parts.fragment:
            raise UsageError("a URL for load is scheme, host, port and path", hint="keys come from OGEN_KEY")
        tls = parts.scheme == "https"
        return cls(parts.hostname, port or (443 if tls else 80), tls, parts.path.rstrip("/"), key)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Link(asyncio.Protocol):
    """One connection, with one request on it at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self.answer: Answer | None = None
        self.waiter: asyncio.Future[Answer | None] | None = None
        self.closed = False
        self.address = ""

    async def ask(self, data: bytes, timeout: float) -> Answer | None:
        """The answer; None if the connection was closed before any of it came."""
        if self.closed or self.transport is None:
            return None
        self.answer, self.waiter = Answer(), self.loop.create_future()
        late = self.loop.call_later(timeout, self._end, asyncio.TimeoutError())
        self.transport.write(data)
        try:
            return await self.waiter
        finally:
            late.cancel()

    def abort(self) -> None:
        self.closed = True
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.address = str(transport.get_extra_info("sockname")[0])

    def data_received(self, data: bytes) -> None:
        if self.answer is None or self.waiter is None or self.waiter.done():
            self.abort()  # nobody has asked
            return
        try:
            self.answer.feed(data, self.loop.time())
        except Broken as error:
            self._end(error)
        if self.answer.done:
            self._end(self.answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.answer is None or self.waiter is None or self.waiter.done():
            return
        if not self.answer.begun:
            self._end(None)
            return
        try:
            self.answer.eof(self.loop.time())
        except Broken as error:
            self._end(error)
        else:
            self._end(self.answer)

    def _end(self, found: Answer | BaseException | None) -> None:
        if self.waiter is None or self.waiter.done():
            return
        if isinstance(found, BaseException):
            self.waiter.set_exception(found)
        else:
            self.waiter.set_result(found)


def why(error: BaseException, timeout: float) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return f"no whole answer within {timeout:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message} (SSL_CERT_FILE names your authority)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
