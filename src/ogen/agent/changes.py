"""Operations that change the host: apply, rollback, attach, gc.

`apply` and `rollback` stage under both locks and answer `prepared`; after the `commit` frame the
transaction belongs to the host (owner.py), and the session only watches. The end of the input, or 60 s
of silence, before a whole commit frame aborts: nothing has changed.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from . import commit, frames, owner, stage, store, transaction
from .errors import AgentError, disk_failed
from .frames import Message
from .session import Session
from .transaction import Locks, Request
from .wire import Silence

SILENCE = 60.0  # seconds

#: makes a release ready: its folder's name, whether it was written just now, what was not checked
Prepare = Callable[[], Tuple[str, bool, List[str]]]


def apply(session: Session, message: Message, data: bytes) -> None:
    """Stages, waits for the commit frame, hands over."""
    host, manifest = session.host, message["manifest"]
    contents = _contents(message, data)

    def prepare() -> Tuple[str, bool, List[str]]:
        there = host.store.whole(store.identify(manifest))
        if there is not None:
            return there, False, []
        work = stage.Stage(host.disk, host.machine, manifest, contents, lambda one: _fetch(session, one))
        name, skipped = work.run(session.wire.tell)
        return name, True, skipped

    _transact(session, Request.of(message), prepare)


def _contents(message: Message, data: bytes) -> Dict[str, bytes]:
    """The contents that came with the request: sha256 and size of each, then the bytes."""
    found, at = {}, 0
    for digest, size in message.get("contents", ()):
        found[digest] = data[at : at + size]
        at += size
    return found


def _fetch(session: Session, digest: str) -> Tuple[int, Iterator[bytes]]:
    """Asks the controller for a file; it comes in frames of some MiB, of which the last one says so."""
    session.wire.send({"reply": "want", "digest": digest})
    first, data = _part(session)

    def parts() -> Iterator[bytes]:
        message, part = first, data
        yield part
        while not message["last"]:
            message, part = _part(session)
            yield part

    return int(first["size"]), parts()


def _part(session: Session) -> frames.Frame:
    try:
        frame = session.wire.receive(SILENCE)
    except (Silence, frames.FrameError) as error:
        raise AgentError("the file did not come: %s" % error) from None
    if frame is None or frame[0].get("op") != "part":
        raise AgentError("the file did not come whole")
    return frame


def rollback(session: Session, message: Message, data: bytes) -> None:
    """To the release named `to`, or to the one before."""

    def prepare() -> Tuple[str, bool, List[str]]:
        return _find(session.host.store, message.get("to")), False, []

    _transact(session, Request.of(message), prepare)


def _find(held: store.Store, wanted: Optional[str]) -> str:
    """An undamaged release by its name or the beginning of it."""
    if wanted is None:
        if held.previous is None:
            raise AgentError("there is no earlier release on this host")
        wanted = held.previous
    found = [n for n in held.names() if n == wanted] or [n for n in held.names() if n.startswith(wanted)]
    whole = [n for n in found if not held.damage(n)]
    if not whole:
        why = "is damaged" if found else "is not on this host"
        raise AgentError("release %s %s" % (wanted, why), "see `ogen history`, or apply an older revision")
    return whole[0]


# ---------------------------------------------------------------------------- the way to the commit
def _transact(session: Session, request: Request, prepare: Prepare) -> None:
    host = session.host
    if host.live and os.geteuid() != 0:
        raise AgentError("root is needed to change this host", "set ssh.become: true")
    host.disk.folder(store.RELEASES)
    held = Locks(host)
    held.take({"who": request.who, "what": "apply"}, patience=0.5)
    try:
        _told(session, commit.recover(host, session.wire.tell))
        transaction.check_base(host, request)
        owner.keep_agent(host, session.bundle)
        _stage_and_commit(session, request, prepare, held)
    finally:
        held.drop()


def _told(session: Session, result: Optional[Dict[str, Any]]) -> None:
    if result is not None:
        session.wire.tell("recover", "%s %s" % (result["status"], result.get("message", "")))


def _stage_and_commit(session: Session, request: Request, prepare: Prepare, held: Locks) -> None:
    host = session.host
    name, staged, skipped = prepare()
    try:
        first = transaction.begin(host, request, name, staged)
    except AgentError:
        if staged:
            transaction.discard(host, name)
        raise
    try:
        owner.arm(host)
        transaction.add_links(host, first["add"], after_flip=False)
        host.journal.add("PREPARED")
        session.wire.send({"reply": "prepared", "tx": first["tx"], "epoch": first["epoch"], "to": name})
        _await_commit(session, first)
    except (Silence, AgentError, OSError, frames.FrameError) as error:
        transaction.abort(host, first, str(error))
        plain = disk_failed(error) if isinstance(error, OSError) else error
        raise AgentError(
            "aborted before the commit, nothing has changed: %s" % plain,
            getattr(plain, "hint", None) or "apply again",
        ) from None
    result = owner.commit(host, first["tx"], held, session.wire.tell)
    session.wire.send({"reply": "result", **result, "skipped": skipped})


def _await_commit(session: Session, first: Dict[str, Any]) -> None:
    frame = session.wire.receive(SILENCE)
    if frame is None:
        raise Silence("the controller is gone")
    message = frame[0]
    wanted = (first["tx"], first["epoch"])
    if message.get("op") != "commit" or (message.get("tx"), message.get("epoch")) != wanted:
        raise Silence("the controller did not commit")


# ------------------------------------------------------------------------------------- the others
def attach(session: Session, message: Message, data: bytes) -> None:
    """Watches a transaction to its end, or tells how it ended."""
    result = owner.follow(session.host, str(message["tx"]), session.wire.tell)
    session.wire.send({"reply": "result", **result})


def gc(session: Session, message: Message, data: bytes) -> None:
    """Removes releases that nobody needs."""
    held = Locks(session.host)
    held.take({"who": str(message.get("who", "")), "what": "gc"})
    try:
        session.reply(gone=transaction.collect(session.host))
    finally:
        held.drop()
