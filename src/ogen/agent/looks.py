"""Operations that look at the host and change nothing: hello, compare, history, releases, stored,
connections.
"""

from __future__ import annotations

from . import compare as comparing
from . import modelstore, transaction
from .frames import Message
from .session import Session


def hello(session: Session, message: Message, data: bytes) -> None:
    from . import facts  # no other operation needs it

    session.reply(facts=facts.full(session.host) if message.get("full") else facts.brief(session.host))


def compare(session: Session, message: Message, data: bytes) -> None:
    host = session.host
    report, texts = comparing.compare(host.disk, host.machine, message["manifest"], bool(message.get("text")))
    session.wire.send({"reply": "ok", "report": report}, texts)


def history(session: Session, message: Message, data: bytes) -> None:
    session.reply(entries=transaction.history(session.host))


def releases(session: Session, message: Message, data: bytes) -> None:
    from . import facts

    session.reply(releases=facts.releases(session.host))


def stored(session: Session, message: Message, data: bytes) -> None:
    """Digest and size of each source that the host's store of models holds."""
    session.reply(models=modelstore.stored(message["models_dir"], message["sources"]))


def connections(session: Session, message: Message, data: bytes) -> None:
    """Who holds a connection to each of `ports`."""
    from . import gate

    session.reply(connections={str(port): gate.connections(int(port)) for port in message["ports"]})
