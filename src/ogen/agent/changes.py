"""Operations that change the host: apply, rollback, attach, gc, remove.

`apply` and `rollback` stage under both locks and answer `prepared`; after the `commit` frame the
transaction belongs to the host (owner.py), and the session only watches. The end of the input, or 60 s
of silence, before a whole commit frame aborts: nothing has changed.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, Optional, Tuple

from . import (
    alarm,
    closing,
    gate,
    keys,
    leftover,
    links,
    owner,
    pruning,
    recovery,
    stage,
    stock,
    store,
    supply,
    transaction,
)
from .disk import above
from .errors import AgentError, plainly
from .frames import Message
from .session import Session
from .transaction import Host, Locks, Request
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
        bringing = supply.Supply(session, supply.Plan.of(message), host.machine)
        work = stage.Stage(host.disk, host.machine, manifest, contents, bringing)
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


def rollback(session: Session, message: Message, data: bytes) -> None:
    """To the release named `to`, or to the one before; with the keys that are in force now."""

    def prepare() -> Tuple[str, bool, List[str]]:
        name = _find(session.host.store, message.get("to"))
        keys.check(session.host.store, name)
        return name, False, []

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
        before = host.store.current
        _told(session, recovery.recover(host, session.wire.tell))
        transaction.check_base(host, request, before)
        owner.keep_agent(host, session.bundle)
        _stage_and_commit(session, request, prepare, held)
    finally:
        held.drop()


def _told(session: Session, result: Optional[Dict[str, Any]]) -> None:
    if result is not None:
        session.wire.tell("recover", "%s %s" % (result["status"], result.get("message", "")))
    elif alarm.heard(session.host.disk):
        session.wire.tell("stuck", alarm.heard(session.host.disk))


def _stage_and_commit(session: Session, request: Request, prepare: Prepare, held: Locks) -> None:
    host = session.host
    name, staged, skipped = prepare()
    try:
        first = transaction.begin(host, request, name, staged)
    except (AgentError, OSError):
        leftover.collect(host)
        raise
    try:
        owner.arm(host)
        links.add_links(host.disk, first["add"], after_flip=False)
        host.journal.add("PREPARED")
        asked = host.machine.now()
        session.wire.send({"reply": "prepared", "tx": first["tx"], "epoch": first["epoch"], "to": name})
        _await_commit(session, first, asked)
    except Exception as error:  # whatever it is: nothing was flipped
        raise _aborted(host, first, error) from None
    result = owner.commit(
        host,
        first["tx"],
        held,
        session.wire.tell,
        lambda line: gate.pass_on(host.disk, host.machine, session.wire, line),
    )
    closing.announce(session)
    unused = pruning.listed(host) if request.applies else {}
    session.wire.send({"reply": "result", **result, "skipped": skipped, "unused": unused})


def _aborted(host: Host, first: Dict[str, Any], error: Exception) -> AgentError:
    error = plainly(error)
    hint, log = getattr(error, "hint", None) or "apply again", getattr(error, "log", ())
    try:
        transaction.abort(host, first, str(error))
        leftover.collect(host)
    except (AgentError, OSError) as worse:
        cause = plainly(worse)
        text = "aborted before the commit (%s), but what was staged is still there: %s" % (error, cause)
        mend = getattr(cause, "hint", None) or "apply again"
        mend += "; what runs has not changed, and the next apply cleans up"
        return AgentError(text, mend, log)
    return AgentError("aborted before the commit, nothing has changed: %s" % error, hint, log)


def _await_commit(session: Session, first: Dict[str, Any], asked: float) -> None:
    """A frame that lay there while this process was stopped comes too late: its sender has given up."""
    frame = session.wire.receive(SILENCE)
    if session.host.machine.now() - asked > SILENCE + 1.0:
        raise Silence("the commit came after more than %d s" % SILENCE)
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
    closing.announce(session)
    session.wire.send({"reply": "result", **result})


def gc(session: Session, message: Message, data: bytes) -> None:
    """Removes releases that nobody needs."""
    held = Locks(session.host)
    held.take({"who": str(message.get("who", "")), "what": "gc"})
    try:
        _told(session, recovery.recover(session.host, session.wire.tell))
        session.reply(gone=leftover.collect(session.host))
    finally:
        held.drop()


def remove(session: Session, message: Message, data: bytes) -> None:
    """Removes ogen's own folders and its unit for recovery, when nothing of ogen's is in force any more; the
    stock service becomes what it was."""
    host = session.host
    held = Locks(host)
    held.take({"who": str(message.get("who", "")), "what": "remove"}, patience=10.0)
    try:
        manifest = host.store.manifest(host.store.current)
        if manifest["units"] or manifest["files"]:
            raise AgentError("a release is in force here", "`ogen retire` takes it away first")
        owner.disarm(host)
        said = stock.give_back(host) if host.live else []
        host.disk.remove_tree(store.PROGRAMS)
        host.disk.remove_tree(store.LIBRARIES)
        host.disk.remove_empty(above(store.PROGRAMS))
        host.disk.remove_tree(store.HOME)
        host.disk.remove_tree("/run/ogen")
    finally:
        held.drop()
    session.reply(stock=said)
