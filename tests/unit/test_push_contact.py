"""A conversation that breaks off: what is known of the host then, and what the person is told to do."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ogen.agent import frames
from ogen.errors import ConnectError, LockedError
from ogen.inventory.model import Host
from ogen.push.contact import Contact
from ogen.push.pipes import Pipe
from ogen.push.results import Event, Options, ignore

HOST = Host("box", "192.0.2.1")
PREPARED = {"reply": "prepared", "tx": "t1", "epoch": 1, "to": "new"}
APPLIED = {"reply": "result", "status": "applied", "from": "old", "to": "new"}


class Ending(Pipe):
    """Says what it was given, and ends."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        super().__init__("box")
        self.out += b"".join(frames.pack(message, b"") for message in messages)
        self.ended = True

    def send(self, data: bytes) -> None: ...

    def wait(self, seconds: float) -> bool:
        return True

    def status(self) -> int | None:
        return None

    def close(self) -> None: ...


def transact(pipe: Pipe, **options: Any) -> Any:
    return Contact(HOST, pipe, Options(**options), ignore).transact({"op": "apply"})


def after(monkeypatch: pytest.MonkeyPatch, *tries: Pipe | Exception) -> list[Host]:
    """What the connections after the first one bring."""
    left, made = list(tries), list[Host]()

    @contextmanager
    def connect(host: Host, options: Options, on_event: Any) -> Iterator[Contact]:
        made.append(host)
        found = left.pop(0) if left else ConnectError("no answer", host=host.name)
        if isinstance(found, Exception):
            raise found
        yield Contact(host, found, options, on_event)

    monkeypatch.setattr(sys.modules[Contact.__module__], "contact", connect)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return made


def test_lost_before_the_commit_nothing_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = after(monkeypatch)
    with pytest.raises(ConnectError) as lost:
        transact(Ending())
    assert "as it was: apply again" in str(lost.value)
    assert not made


def test_lost_after_the_commit_the_host_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    locked = LockedError("another rollout holds this host", host="box")
    made = after(monkeypatch, ConnectError("no answer", host="box"), locked, Ending(APPLIED))
    assert transact(Ending(PREPARED)) == APPLIED
    assert len(made) == 3


def test_a_host_that_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Event] = []
    made = after(monkeypatch)
    with pytest.raises(ConnectError) as lost:
        Contact(HOST, Ending(PREPARED), Options(reconnect=0.0), told.append).transact({"op": "apply"})
    assert "by itself: apply again to see how it ended" in str(lost.value)
    assert len(made) == 1
    assert [event.phase for event in told] == ["connect"]
