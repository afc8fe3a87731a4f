"""A session with the controller: requests in, events and replies out, over the pipes of one exec.

Reading the host needs no lock. `apply` and `rollback` stage under both locks and answer `prepared`;
after the `commit` frame the transaction belongs to the host (owner.py), and the session only watches.
The end of the input, or 60 s of silence, before a whole commit frame aborts: nothing has changed.
"""

from __future__ import annotations

import os
import select
import signal
from typing import Any, Callable, Dict, List, Optional, Tuple

from . import commit, compare, facts, frames, locks, owner, stage, store, tasks, tasks_facts, transaction
from .errors import AgentError
from .frames import Message
from .transaction import Host, Locks, Request

SILENCE = 60.0  # seconds


class Silence(Exception):
    """The controller said nothing for too long, or is gone."""


class Wire:
    """The two pipes."""

    def __init__(self, source: int = 0, sink: int = 1) -> None:
        self.source = source
        self.sink = sink
        self.dead = False  # the controller does not read any more

    def take(self, count: int, patience: Optional[float]) -> bytes:
        parts: List[bytes] = []
        while count > 0:
            if patience is not None and not select.select([self.source], [], [], patience)[0]:
                raise Silence("no frame for %d s" % patience)
            data = os.read(self.source, min(count, 1 << 20))
            if not data:
                break
            parts.append(data)
            count -= len(data)
        return b"".join(parts)

    def receive(self, patience: Optional[float] = None) -> Optional[Tuple[Message, bytes]]:
        return frames.read(lambda count: self.take(count, patience))

    def send(self, message: Message, data: bytes = b"") -> None:
        """A controller that is gone is no reason to stop."""
        if self.dead:
            return
        view = memoryview(frames.pack(message, data))
        try:
            while view:
                view = view[os.write(self.sink, view) :]
        except OSError:
            self.dead = True

    def tell(self, phase: str, text: str, percent: Optional[float] = None) -> None:
        self.send({"event": phase, "text": text, "percent": percent})


class Session:
    """Answers requests until the input ends."""

    def __init__(self, host: Host, wire: Wire, bundle: bytes = b"") -> None:
        self.host = host
        self.wire = wire
        self.bundle = bundle  # the agent's own zip, to be stored at the first apply
        self.requests: Dict[str, Callable[[Message, bytes], None]] = {
            "hello": self.hello,
            "compare": self.compare,
            "apply": self.apply,
            "rollback": self.rollback,
            "attach": self.attach,
            "history": lambda message, data: self.reply(entries=transaction.history(self.host)),
            "releases": lambda message, data: self.reply(releases=facts.releases(self.host)),
            "gc": self.collect,
            "ansible_facts": lambda message, data: self.reply(uid=os.geteuid(), facts=tasks_facts.facts()),
            "steps": self.steps,
        }

    def reply(self, **values: Any) -> None:
        self.wire.send({"reply": "ok", **values})

    def serve(self) -> None:
        while True:
            try:
                frame = self.wire.receive()
            except frames.FrameError as error:
                self.wire.send({"reply": "error", **AgentError(str(error)).plain()})
                return
            if frame is None:
                return
            self.answer(*frame)

    def answer(self, message: Message, data: bytes) -> None:
        try:
            work = self.requests.get(str(message.get("op")))
            if work is None:
                raise AgentError("the agent does not know %r" % message.get("op"))
            work(message, data)
        except AgentError as error:
            self.wire.send({"reply": "error", **error.plain()})
        except OSError as error:
            plain = AgentError(
                "%s: %s" % (error.filename or "the host's disk", error.strerror or error)
            ).plain()
            self.wire.send({"reply": "error", **plain})

    # ------------------------------------------------------------------------------ looking
    def hello(self, message: Message, data: bytes) -> None:
        self.reply(facts=facts.full(self.host) if message.get("full") else facts.brief(self.host))

    def compare(self, message: Message, data: bytes) -> None:
        report, texts = compare.compare(
            self.host.disk, self.host.machine, message["manifest"], bool(message.get("text"))
        )
        self.wire.send({"reply": "ok", "report": report}, texts)

    # ----------------------------------------------------------------------------- changing
    def apply(self, message: Message, data: bytes) -> None:
        """Stages, waits for the commit frame, hands over."""
        request, manifest = Request.of(message), message["manifest"]
        contents = _contents(message, data)

        def prepare() -> Tuple[str, bool, List[str]]:
            held = self.host.store
            there = held.whole(store.identify(manifest))
            if there is not None:
                return there, False, []
            work = stage.Stage(self.host.disk, self.host.machine, manifest, contents)
            name, skipped = work.run(self.wire.tell)
            return name, True, skipped

        self.transact(request, prepare)

    def rollback(self, message: Message, data: bytes) -> None:
        """To the release named `to`, or to the one before."""

        def prepare() -> Tuple[str, bool, List[str]]:
            return self.find(message.get("to")), False, []

        self.transact(Request.of(message), prepare)

    def find(self, wanted: Optional[str]) -> str:
        held = self.host.store
        if wanted is None:
            if held.previous is None:
                raise AgentError("there is no earlier release on this host")
            wanted = held.previous
        found = [n for n in held.names() if n == wanted] or [n for n in held.names() if n.startswith(wanted)]
        whole = [n for n in found if not held.damage(n)]
        if not whole:
            why = "is damaged" if found else "is not on this host"
            raise AgentError(
                "release %s %s" % (wanted, why), "see `ogen history`, or apply an older revision"
            )
        return whole[0]

    def transact(self, request: Request, prepare: Callable[[], Tuple[str, bool, List[str]]]) -> None:
        host = self.host
        if host.live and os.geteuid() != 0:
            raise AgentError("root is needed to change this host", "set ssh.become: true")
        host.disk.folder(store.RELEASES)
        held = Locks(host)
        held.take({"who": request.who, "what": "apply"}, patience=0.5)
        try:
            self.recovered(commit.recover(host, self.wire.tell))
            transaction.check_base(host, request)
            owner.keep_agent(host, self.bundle)
            self.stage_and_commit(request, prepare, held)
        finally:
            held.drop()

    def recovered(self, result: Optional[Dict[str, Any]]) -> None:
        if result is not None:
            self.wire.tell("recover", "%s %s" % (result["status"], result.get("message", "")))

    def stage_and_commit(
        self, request: Request, prepare: Callable[[], Tuple[str, bool, List[str]]], held: Locks
    ) -> None:
        host = self.host
        name, staged, skipped = prepare()
        try:
            first = transaction.begin(host, request, name, staged)
        except AgentError:
            if staged:
                transaction.discard(host, name)
            raise
        try:
            owner.arm(host)
            transaction.add_links(host, first["add"], late=False)
            host.journal.add("PREPARED")
            self.wire.send({"reply": "prepared", "tx": first["tx"], "epoch": first["epoch"], "to": name})
            self.await_commit(first)
        except (Silence, AgentError, OSError, frames.FrameError) as error:
            transaction.abort(host, first, str(error))
            raise AgentError("aborted before the commit, nothing has changed: %s" % error) from None
        result = owner.commit(host, first["tx"], held, self.wire.tell)
        self.wire.send({"reply": "result", **result, "skipped": skipped})

    def await_commit(self, first: Dict[str, Any]) -> None:
        frame = self.wire.receive(SILENCE)
        if frame is None:
            raise Silence("the controller is gone")
        message = frame[0]
        wanted = (first["tx"], first["epoch"])
        if message.get("op") != "commit" or (message.get("tx"), message.get("epoch")) != wanted:
            raise Silence("the controller did not commit")

    def attach(self, message: Message, data: bytes) -> None:
        """Watches a transaction to its end, or tells how it ended."""
        self.wire.send({"reply": "result", **owner.follow(self.host, str(message["tx"]), self.wire.tell)})

    def collect(self, message: Message, data: bytes) -> None:
        held = Locks(self.host)
        held.take({"who": str(message.get("who", "")), "what": "gc"})
        try:
            self.reply(gone=transaction.collect(self.host))
        finally:
            held.drop()

    def steps(self, message: Message, data: bytes) -> None:
        """The steps of a playbook; a host that was never applied to has no locks to take yet."""
        held = Locks(self.host)
        document = message["document"]
        if not document["check"]:
            if self.host.disk.lstat(locks.SESSION):
                held.take({"who": str(document.get("who", "")), "what": "provision"})
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a package half installed is worse than a late end
        try:
            self.reply(whole=tasks.run(document, self.wire.tell))
        finally:
            held.drop()


def _contents(message: Message, data: bytes) -> Dict[str, bytes]:
    """The contents that came with the request: sha256 and size of each, then the bytes."""
    found, at = {}, 0
    for digest, size in message.get("contents", ()):
        found[digest] = data[at : at + size]
        at += size
    return found
