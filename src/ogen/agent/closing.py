"""The end of a rollout: instances let in the balancers of the release in force, and nobody else any more."""

from __future__ import annotations

from typing import Collection, Sequence

from . import admission, gate, locks, recovery, systemd
from .admission import UNDER_WAY, Leaving
from .disk import above
from .errors import AgentError, Locked
from .frames import Message
from .machine import Machine
from .session import Session
from .transaction import Host, Locks


def announce(session: Session) -> None:
    """While this session lasts, what is left open is the business of its rollout."""
    if session.leaving is not None or not admission.leaving(session.host.disk):
        return
    session.host.disk.folder(above(UNDER_WAY), sync=False)
    lock = locks.Lock(session.host.disk, UNDER_WAY)
    try:
        lock.take({"what": "rollout"})
    except Locked:  # two at once: who came first closes
        return
    session.leaving = lock


def close(session: Session, message: Message, data: bytes) -> None:
    """Ends what is admitted beside the release in force, but for the addresses in `keep`: `open` is what
    is left. What such a balancer has begun may end within half a minute."""
    host, keep = session.host, {str(address) for address in message["keep"]}
    if session.leaving is None and locks.Lock(host.disk, UNDER_WAY).held():
        raise AgentError("another rollout is under way, and keeps them admitted")
    held = Locks(host)
    held.take({"who": str(message.get("who", "")), "what": "close"}, patience=10.0)
    try:
        recovery.recover(host, session.wire.tell)
        left = _close(host, keep)
    finally:
        held.drop()
    if session.leaving is not None and not left:
        session.leaving.drop()
    session.reply(open=sorted({address for some in left.values() for address in some}))


def _close(host: Host, keep: Collection[str]) -> Leaving:
    now = admission.leaving(host.disk)
    left = {unit: [a for a in some if a in keep] for unit, some in now.items()}
    left = {unit: some for unit, some in left.items() if some}
    going = {unit: [a for a in some if a not in keep] for unit, some in now.items()}
    if not host.live:
        admission.put(host.disk, left)
        return left
    manifest = host.store.manifest(host.store.current)
    _ended(host.machine, [p["port"] for p in manifest["instances"]], {a for s in going.values() for a in s})
    admission.put(host.disk, left)
    systemd.Systemd(host.machine).reload_files()
    seen = systemd.states(host.machine, sorted(going))
    for unit, addresses in sorted(going.items()):
        still = [a for a in addresses if seen[unit].admits is not None and admission.lets_in(seen[unit], a)]
        if still:
            raise AgentError(
                "%s admits %s even so" % (unit, ", ".join(still)),
                "look for a drop-in of somebody else's: `systemctl cat %s`" % unit,
            )
    return left


def _ended(machine: Machine, ports: Sequence[int], addresses: Collection[str]) -> None:
    """Waits until none of the addresses holds a connection; no longer than for an instance that must stop."""
    end = machine.now() + gate.LAST
    while machine.now() < end and any(set(addresses) & set(gate.connections(port)) for port in ports):
        machine.wait(0.2)
