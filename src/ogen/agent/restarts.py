"""The operation `restart`: instances of the release in force, one after another, each proven."""

from __future__ import annotations

import os
from typing import Any, Dict, List

from . import gate, prove, recovery
from .errors import AgentError
from .frames import Message
from .prove import Patience
from .session import Session
from .systemd import Systemd
from .transaction import Host, Locks, Request


def restart(session: Session, message: Message, data: bytes) -> None:
    """Restarts `instances` (names) as the controller grants them."""
    host, request = session.host, Request.of(message)
    if not host.live:
        raise AgentError("there is no systemd in a folder that stands for a host")
    if os.geteuid() != 0:
        raise AgentError("root is needed to restart an instance", "set ssh.become: true")
    proofs = _proofs(host, [str(n) for n in message["instances"]])
    held = Locks(host)
    held.take({"who": request.who, "what": "restart"}, patience=0.5)
    try:
        recovery.recover(host, session.wire.tell)
        _each(session, proofs, request)
    finally:
        held.drop()
    session.reply(restarted=[p["unit"] for p in proofs])


def _proofs(host: Host, names: List[str]) -> List[Dict[str, Any]]:
    known = {p["instance"]: p for p in host.store.manifest(host.store.current)["instances"]}
    for name in names:
        if name not in known:
            raise AgentError(
                "there is no instance %s in force here" % name,
                "there are: %s" % (", ".join(sorted(known)) or "none"),
            )
    return [known[name] for name in names]


def _each(session: Session, proofs: List[Dict[str, Any]], request: Request) -> None:
    machine, patience = session.host.machine, request.patience
    ask = gate.over_wire(machine, session.wire) if request.gated else None
    door = gate.Gate(machine, ask, patience.drain)
    left = list(proofs)
    while left:
        ready = door.admit(left, "restart")
        for proof in [p for p in left if p["instance"] in ready]:
            _one(session, proof, patience)
        left = [p for p in left if p["instance"] not in ready]


def _one(session: Session, proof: Dict[str, Any], patience: Patience) -> None:
    machine = session.host.machine
    session.wire.tell("restart", proof["unit"], None)
    Systemd(machine).do("restart", [proof["unit"]])
    session.wire.tell("prove", proof["instance"], None)
    prove.instance(machine, proof, patience)
