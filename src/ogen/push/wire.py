"""What an SSH transport reads from and writes to: at once, with an end to every wait, and with a memory."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from ..errors import OfflineError
from .access import Access

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux only
#: until unacknowledged data means that the peer is gone: Linux in milliseconds, macOS in seconds
_GIVE_UP = (
    (getattr(socket, "TCP_USER_TIMEOUT", None), 60_000),
    (getattr(socket, "TCP_RXT_CONNDROPTIME", None), 60),
)


class Wire:
    """A socket, or a channel through a jump, for paramiko's transport.

    Nagle's algorithm against delayed acknowledgement costs 40 ms twice per connection; QUICKACK is no
    lasting option of the kernel's, so it is renewed around each read. Some of paramiko's waits have no
    end: within `limit` a read that comes too late ends the transport, and with it whatever waits for it.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._end: float | None = None
        self._quick = _QUICKACK is not None and isinstance(inner, socket.socket)
        self.heard = b""  # the first bytes
        self.ended = False  # by the other side
        self.late = False

    def recv(self, count: int) -> bytes:
        end = self._end  # `limit` may end it meanwhile, in another thread
        if end is not None and time.monotonic() > end:
            self.late = True
            # not ETIMEDOUT: that is what paramiko takes for a pause
            raise OSError(errno.ECONNABORTED, "no answer in time")
        self._acknowledge()
        try:
            data: bytes = self._inner.recv(count)
        except ConnectionError:
            self.ended = True
            raise
        self._acknowledge()
        if len(self.heard) < 256:
            self.heard += data[:256]
        self.ended = self.ended or not data
        return data

    def _acknowledge(self) -> None:
        if self._quick:
            with contextlib.suppress(OSError):
                self._inner.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """What is done meanwhile must be through in `seconds`."""
        self._end = time.monotonic() + seconds
        try:
            yield
        finally:
            self._end = None

    def wake(self) -> None:
        """Ends both directions, so that whoever reads stops at once, not at paramiko's next look."""
        with contextlib.suppress(Exception):
            if isinstance(self._inner, socket.socket):
                self._inner.shutdown(socket.SHUT_RDWR)
            else:
                self._inner.close()

    def shut(self) -> None:
        self.wake()
        with contextlib.suppress(Exception):
            self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


_AHEAD = 4  # at one sshd, which takes ten that are not logged in
_lock = threading.Lock()
_ahead: dict[tuple[str, int], list[Future[socket.socket]]] = {}


@contextmanager
def ahead(access: Access) -> Iterator[None]:
    """Connects before paramiko is imported for the first time: sshd begins its work meanwhile.

    What comes of it goes to the next `dial` to this place; a connection that nobody took is closed.
    """
    place, mine = (access.address, access.port), Future[socket.socket]()
    with _lock:
        waiting = _ahead.setdefault(place, [])
        wanted = not _imported() and len(waiting) < _AHEAD
        if wanted:
            waiting.append(mine)
    if wanted:
        try:
            mine.set_result(socket.create_connection(place, access.timeout))
        except OSError as error:
            mine.set_exception(error)
    try:
        yield
    finally:
        with _lock:
            left = mine in waiting
            if left:
                waiting.remove(mine)
        if left and not mine.exception():
            mine.result().close()


def _imported() -> bool:
    return hasattr(sys.modules.get(f"{__package__}.lean"), "Transport")


def _connected(access: Access) -> socket.socket:
    place = (access.address, access.port)
    with _lock:
        waiting = _ahead.get(place)
        found = waiting.pop(0) if waiting else None
    return found.result() if found else socket.create_connection(place, access.timeout)


def dial(access: Access, host: str) -> Wire:
    """A TCP connection."""
    place = f"{access.address}:{access.port}"
    try:
        sock = _connected(access)
    except OSError as error:
        why = error.strerror or str(error) or "no answer"
        raise OfflineError(f"{place}: {why.lower()}", host=host, hint=_advice(error)) from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in _GIVE_UP:
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return Wire(sock)


def _advice(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "that name is not known here: check `address`, or the name's entry in DNS or ssh_config"
    if isinstance(error, ConnectionRefusedError):
        return "is sshd running there, and ssh.port right?"
    return (
        "is the host on, its address right, and no firewall in between? ssh.connect_timeout is the patience"
    )
