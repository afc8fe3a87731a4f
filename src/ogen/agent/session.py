"""A session with the controller: requests in, events and replies out, over the pipes of one exec.

Each operation is a function of a module that is imported when it is asked for: what only looks at the
host starts without the code that changes it.
"""

from __future__ import annotations

import importlib
from typing import Any, Callable, Dict, Optional

from . import frames
from .errors import AgentError, disk_failed
from .frames import Message
from .locks import Lock
from .transaction import Host
from .wire import Silence, Wire

#: operation → module with a function of that name
OPERATIONS = {
    "hello": "looks",
    "compare": "looks",
    "history": "looks",
    "releases": "looks",
    "stored": "looks",
    "look": "look",
    "logs": "look_log",
    "past": "look_past",
    "apply": "changes",
    "rollback": "changes",
    "attach": "changes",
    "gc": "changes",
    "remove": "changes",
    "restart": "restarts",
    "close": "closing",
    "connections": "looks",
    "queue": "queues",
    "lease": "leases",
    "unlease": "leases",
    "leases": "leases",
    "steps": "playbook",
    "ansible_facts": "playbook",
    "stat": "playbook",
    "driver": "look_driver",
    "prune": "pruning",
    "unused": "pruning",
    "mirror": "mirroring",
    "unmirror": "mirroring",
    "mirror_room": "mirroring",
}


class Session:
    """Answers requests until the input ends; `bundle` is the agent's own zip, kept at the first apply."""

    def __init__(self, host: Host, wire: Wire, bundle: bytes = b"") -> None:
        self.host = host
        self.wire = wire
        self.bundle = bundle
        self.mirror: Optional[Lock] = None  # while this host gives models to others (mirroring.py)
        self.promised: Dict[str, Any] = {}  # what the checks of this session found that steps would make
        self.would: Dict[str, Any] = {}  # and the paths, as they would leave them
        self.leaving: Optional[Lock] = None  # while this rollout is to close what it left open (admission.py)

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
            try:
                self.answer(*frame)
            except Silence:  # a controller that does not answer is gone; the host ends its own transaction
                return

    def answer(self, message: Message, data: bytes) -> None:
        try:
            operation(str(message.get("op")))(self, message, data)
        except AgentError as error:
            self.wire.send({"reply": "error", **error.plain()})
        except OSError as error:
            self.wire.send({"reply": "error", **disk_failed(error).plain()})
        except Exception as error:  # a mistake of ours is no answer to a controller
            import traceback

            traceback.print_exc()
            self.wire.send({"reply": "error", **AgentError("the agent failed: %r" % error).plain()})


Operation = Callable[[Session, Message, bytes], None]


def operation(name: str) -> Operation:
    if name not in OPERATIONS:
        raise AgentError("the agent does not know %r" % name)
    module = importlib.import_module("." + OPERATIONS[name], __package__)
    found: Operation = getattr(module, name)
    return found
