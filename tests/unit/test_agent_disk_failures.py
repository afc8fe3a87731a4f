"""A disk that can't be written from some operation on: the answer says so, the host is whole afterwards."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from agents import apply, host, release

from ogen.agent import journal, links, owner, recovery, transaction
from ogen.agent.disk import Change
from ogen.agent.errors import disk_failed

OLD = release("old", "ogen-a.service", "ogen-b.service")
NEW = release("new", "ogen-b.service", "ogen-c.service")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_deaf", lambda: None)
    monkeypatch.setattr(owner, "DISK", 0.0)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(os, "fdatasync", lambda handle: None)


def refusing(number: int, first: int) -> Callable[[Change], None]:
    """Every operation from the `first` on fails; what only makes sure of what is there does not."""
    seen = 0

    def before(change: Change) -> None:
        nonlocal seen
        seen += 1
        if seen > first and change.operation != "fsync":
            raise OSError(number, os.strerror(number), change.path)

    return before


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_from_every_operation_on(tmp_path: Path, number: int) -> None:
    ends = set()
    for first in range(400):
        folder = tmp_path / str(first)
        assert apply(host(folder), OLD)["status"] == "applied"
        said = apply(host(folder, refusing(number, first)), NEW)
        again = host(folder)
        records = again.journal.records()
        if said.get("status") != "applied":
            assert said.get("hint"), said
            # what the service does when systemd starts it again, as often as it takes
            if not journal.idle(records):
                assert owner.run_commit(host(folder, refusing(number, 0)), records[0]["tx"]) == 1
                assert owner.run_commit(again, records[0]["tx"]) == 0
        assert journal.idle(again.journal.records())
        wanted = {OLD.id: OLD, NEW.id: NEW}[str(again.store.current)]
        assert not again.store.damage(wanted.id)
        made = again.store.links(wanted.id)
        assert all(again.disk.link(path) == target for path, target in made.items())
        ends.add("new" if wanted is NEW else "old")
        assert recovery.recover(again) is None
        assert apply(again, NEW)["status"] == "applied"
        if said.get("status") == "applied":
            break
    else:
        raise AssertionError("the apply never went through")
    assert ends == {"old", "new"}


def test_a_way_back_where_nothing_was_changed_needs_no_room(tmp_path: Path) -> None:
    """Neither the flip nor a link is written anew where it is right already."""
    one = host(tmp_path)
    apply(one, OLD)
    steps: list[str] = []
    again = host(tmp_path, lambda change: steps.append(change.operation))
    transaction.flip(again, OLD.id)
    links.add_links(again.disk, again.store.links(OLD.id), after_flip=False)
    assert set(steps) == {"fsync"}


def test_the_interrupted_way_back_tells_the_first_reason(tmp_path: Path) -> None:
    one = host(tmp_path)
    apply(one, OLD)
    apply(one, NEW)
    first = {"from": OLD.id, "to": NEW.id, "tx": "1", "epoch": 9, "add": {}, "remove": {}, "active": []}
    first |= {"edited": [], "boot": one.machine.boot(), "patience": {}, "who": "", "git": "", "staged": False}
    one.journal.begin(first)
    one.journal.add("FLIP")
    one.journal.add("REVERTING", why="gpu1 has no card")
    result = recovery.recover(one)
    assert result is not None
    assert (result["status"], result["message"]) == ("rolled_back", "gpu1 has no card")


def test_a_failure_of_the_disk_says_where_and_how_to_mend_it() -> None:
    found = disk_failed(OSError(errno.EROFS, "Read-only file system", "/etc/ogen/journal"))
    assert found.message == "the host's disk failed: /etc/ogen/journal: read-only file system"
    assert "writable" in str(found.hint)
    assert disk_failed(OSError(errno.EIO, "Input/output error")).hint is None
