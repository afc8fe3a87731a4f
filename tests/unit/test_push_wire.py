"""A connection made ahead of paramiko's import: taken once, closed if nobody took it, its error told once."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator

import pytest

from ogen.errors import OfflineError
from ogen.inventory.model import Host
from ogen.push import wire
from ogen.push.access import Access, Keyring, resolve


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setattr(wire, "_imported", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(5)
        yield listening
    assert not any(wire._ahead.values())


@pytest.fixture
def access(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Access:
    monkeypatch.setenv("OGEN_SSH_CONFIG", "none")
    here = resolve(Host("a", "127.0.0.1"), Keyring())
    return dataclasses.replace(here, port=server.getsockname()[1])


def test_the_next_dial_takes_it(server: socket.socket, access: Access) -> None:
    with wire.ahead(access):
        there, _ = server.accept()
        taken = wire.dial(access, "a")
        assert taken.getsockname() == there.getpeername()
        second = wire.dial(access, "a")
        assert second.getsockname() != there.getpeername()
    there.sendall(b"x")
    assert taken.recv(1) == b"x"
    for one in (taken, second):
        one.shut()
    there.close()


def test_one_that_nobody_took_is_closed(server: socket.socket, access: Access) -> None:
    with wire.ahead(access):
        there, _ = server.accept()
    there.settimeout(5)
    assert there.recv(1) == b""
    there.close()


def test_no_more_than_a_few_at_one_sshd(server: socket.socket, access: Access) -> None:
    server.listen(50)
    with wire.ahead(access), wire.ahead(access), wire.ahead(access), wire.ahead(access), wire.ahead(access):
        assert len(wire._ahead[(access.address, access.port)]) == wire._AHEAD


def test_none_when_paramiko_is_there(
    server: socket.socket, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_imported", lambda: True)
    with wire.ahead(access):
        assert not wire._ahead[(access.address, access.port)]


def test_who_is_not_there_is_asked_once(
    server: socket.socket, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is off costs one timeout, not two."""
    asked = []

    def refuse(place: object, timeout: float) -> socket.socket:
        asked.append(place)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with wire.ahead(access), pytest.raises(OfflineError, match="timed out"):
        wire.dial(access, "a")
    assert len(asked) == 1


def test_a_limit_may_end_while_a_read_looks_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """paramiko reads in a thread of its own: this happened on a busy machine, as a TypeError."""
    here, there = socket.socketpair()
    one = wire.Wire(here)
    with one.limit(60):

        def ended() -> float:
            one._end = None
            return 0.0

        monkeypatch.setattr(wire.time, "monotonic", ended)
        there.sendall(b"x")
        assert one.recv(1) == b"x"
        monkeypatch.undo()
    here.close()
    there.close()
