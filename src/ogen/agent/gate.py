"""Before an instance goes down: balancers are kept away from it, and it ends what it has begun.

The transaction asks the controller, through its session, for leases at the balancers. The controller
grants some instances or all; those are idle when nobody holds a connection to their port. A grant is
good for as long as the balancers' leases are sure to last: if that is not long enough, the transaction
asks again. When the controller is lost, nothing is restarted that still may be sent requests: what is
left keeps running with the old settings, and the next apply restarts it.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from . import locks
from .disk import Disk
from .errors import AgentError, Unproven
from .machine import Machine
from .wire import Silence, Wire

if TYPE_CHECKING:
    from .transaction import Host

GRANT = "/run/ogen/grant.json"
WORKERS = "/etc/systemd/system/ogen-queue-worker-*-%s.service"
TOLD = 60.0  # seconds without a word from the controller, which says one every 15 s
LAST = 30.0  # seconds that an instance gets to end what it has begun when it must go down unasked

Proof = Dict[str, Any]
Line = Dict[str, Any]
Say = Callable[[Line], None]  # writes a line for the session


class Lost(AgentError):
    """The controller is gone, so nobody keeps balancers away."""


class Grant(NamedTuple):
    """Instances that balancers are kept away from until a monotonic time."""

    instances: List[str]
    until: float


Ask = Callable[[Sequence[Proof], str], Grant]


class Gate:
    """What stands between a transaction and the instances that serve; open where nobody balances."""

    def __init__(self, machine: Machine, ask: Optional[Ask], patience: float) -> None:
        self.machine = machine
        self.ask = ask  # None: the gate is open
        self.patience = patience  # seconds until an instance must have ended what it has begun

    def admit(self, proofs: Sequence[Proof], why: str, must: bool = False) -> List[str]:
        """Instances (at least one) that may go down now, of those that are up; Lost if nobody answers.

        `must`: they go down even so, as soon as they have ended what they had begun; those to restart one
        after another, since the next one may still serve meanwhile.
        """
        names = [p["instance"] for p in proofs]
        if self.ask is None:
            return names
        end = self.machine.now() + self.patience
        while True:
            try:
                grant = self.ask(proofs, why)
            except (AgentError, OSError):  # no controller, a refusal, balancers that take no lease
                if not must:
                    raise
                next_ = proofs if why == "stop" else proofs[:1]
                order(self.machine, "stop", workers(next_))
                idle(self.machine, next_, min(end, self.machine.now() + LAST))
                return [p["instance"] for p in next_]
            chosen = [p for p in proofs if p["instance"] in grant.instances]
            resting = workers(chosen)
            order(self.machine, "stop", resting)
            if idle(self.machine, chosen, min(end, grant.until)):
                return [p["instance"] for p in chosen]
            if self.machine.now() >= end:
                if must:
                    return [p["instance"] for p in chosen]
                order(self.machine, "start", resting)
                raise _busy(chosen, self.patience)


def _busy(proofs: Sequence[Proof], patience: float) -> AgentError:
    held = {p["instance"]: connections(p["port"]) for p in proofs}
    told = ["%s (%s)" % (name, ", ".join(who)) for name, who in sorted(held.items()) if who]
    return Unproven(
        "after %d s there still are connections to %s" % (patience, ", ".join(told)),
        "wait for what they do, end those clients, or raise rollout.drain_timeout",
    )


# ------------------------------------------------------------------------------ workers of queues
def workers(proofs: Sequence[Proof]) -> List[str]:
    """Units that work on jobs with these instances. They take no more when they are told to stop, and end
    what they have begun; the instance's next start starts them."""
    import glob

    found = [p for proof in proofs for p in glob.glob(WORKERS % proof["instance"])]
    return sorted(os.path.basename(path) for path in found)


def order(machine: Machine, verb: str, units: Sequence[str]) -> None:
    if units:
        machine.run(["systemctl", verb, "--no-block", "--", *units])


# ----------------------------------------------------------------------------------- who is asked
def closed(proofs: Sequence[Proof], why: str) -> Grant:
    """For a recovery that no controller watches."""
    raise Lost("no controller watches")


def by_itself(host: "Host", tx: str) -> Ask:
    """For a host whose instances only its own balancers list: it needs no controller to keep them away.
    One instance after another; the one before is back first."""
    from . import leases

    def ask(proofs: Sequence[Proof], why: str) -> Grant:
        name, server = "tx-" + tx, "127.0.0.1:%d" % proofs[0]["port"]
        leases.end(host, [name], LAST)
        leases.take(host, {name: server}, 2 * LAST, "an apply on its own")
        return Grant([proofs[0]["instance"]], host.machine.now() + LAST)

    return ask


def through_session(disk: Disk, machine: Machine, say: Say) -> Ask:
    """From the commit's service: a line in its progress, and the session's answer in GRANT."""

    def ask(proofs: Sequence[Proof], why: str) -> Grant:
        number = os.urandom(4).hex()
        disk.remove(GRANT, sync=False)
        say({"ask": number, **_question(proofs, why)})
        session = locks.Lock(disk, locks.SESSION)
        while True:
            found = _read(disk)
            if found.get("ask") == number:
                return _grant(found)
            if not session.held():
                raise Lost("the controller is gone")
            machine.wait(0.1)

    return ask


def over_wire(machine: Machine, wire: Wire) -> Ask:
    """From a session's own work."""
    return lambda proofs, why: _grant(_asked(machine, wire, _question(proofs, why)))


def pass_on(disk: Disk, machine: Machine, wire: Wire, line: Line) -> None:
    """The session's part: takes the service's question to the controller, and its answer back."""
    answer = _asked(machine, wire, {"instances": line["instances"], "why": line["why"]})
    disk.replace(GRANT, json.dumps({"ask": line["ask"], **answer}).encode())


def _question(proofs: Sequence[Proof], why: str) -> Line:
    return {"instances": [[p["instance"], p["port"]] for p in proofs], "why": why}


def _asked(machine: Machine, wire: Wire, question: Line) -> Line:
    """The controller's answer; Silence without one."""
    wire.send({"reply": "ask", **question})
    while True:
        frame = wire.receive(TOLD)
        if frame is None:
            raise Silence("the controller is gone")
        message = frame[0]
        if message.get("op") == "grant":
            return {
                "instances": list(message.get("instances") or ()),
                "until": machine.now() + float(message.get("seconds") or 0.0),
                "refused": message.get("refused"),
                "hint": message.get("hint"),
            }


def _grant(answer: Line) -> Grant:
    if answer.get("refused"):
        raise Unproven(str(answer["refused"]), answer.get("hint"))
    return Grant(list(answer["instances"]), float(answer["until"]))


def _read(disk: Disk) -> Line:
    try:
        found = json.loads(disk.read_or(GRANT).decode() or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


# ----------------------------------------------------------------------------------- who is served
def idle(machine: Machine, proofs: Sequence[Proof], end: float) -> bool:
    """Whether nobody held a connection to any of the ports for a second, before the time `end`.

    For a second: a balancer may have chosen an instance just before it took the lease.
    """
    quiet = 0
    while quiet < 5:
        quiet = 0 if any(connections(p["port"]) for p in proofs) else quiet + 1
        if machine.now() >= end:
            return False
        machine.wait(0.2)
    return True


def connections(port: int) -> List[str]:
    """Addresses that hold an established connection to a port of this machine."""
    found = []
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(path, encoding="ascii") as file:
                found += established(file.read(), port)
        except OSError:
            continue
    return sorted(set(found))


def established(table: str, port: int) -> List[str]:
    """Remote ends of a /proc/net/tcp table's established connections to the local `port`."""
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and fields[3] == "01" and int(fields[1].rpartition(":")[2], 16) == port:
            found.append(_address(fields[2].rpartition(":")[0]))
    return found


def _address(text: str) -> str:
    """The kernel writes each 32 bits of an address as a number of the machine's own byte order."""
    import socket
    import struct

    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    packed = b"".join(struct.pack("=I", word) for word in words)
    if len(packed) == 4:
        return socket.inet_ntop(socket.AF_INET, packed)
    if packed[:12] == b"\0" * 10 + b"\xff\xff":
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)
