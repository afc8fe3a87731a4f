"""Operations of playbooks: the facts that they may ask for, and their compiled steps."""

from __future__ import annotations

import os
import signal

from . import locks, parts, tasks, tasks_facts
from .frames import Message
from .session import Session
from .tasks_host import Host
from .transaction import Locks


def ansible_facts(session: Session, message: Message, data: bytes) -> None:
    session.reply(uid=os.geteuid(), facts=tasks_facts.facts())


def stat(session: Session, message: Message, data: bytes) -> None:
    """What a playbook's `stat` tells of a path, before the first step."""
    session.reply(stat=tasks_facts.look(session.host.disk.real(str(message["path"]))))


def steps(session: Session, message: Message, data: bytes) -> None:
    """The steps of a playbook; a host that was never applied to has no locks to take yet."""
    held = Locks(session.host)
    document = message["document"]
    disk = session.host.disk
    host = Host(check=bool(document["check"]), root=disk.real("/"))
    host.folder = disk.relocated
    host.promised, host.would = session.promised, session.would
    host.promised.update(document.get("promised", {}))
    host.fetch = lambda digest: parts.fetch(session, digest)
    if not document["check"]:
        if disk.lstat(locks.SESSION):
            # after a commit its service may still be about to let go
            patience = float(document.get("patience", 0.0))
            held.take({"who": str(document.get("who", "")), "what": "tasks"}, patience)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a package half installed is worse than a late end
    try:
        session.reply(whole=tasks.run(document, session.wire.tell, host))
    finally:
        held.drop()
