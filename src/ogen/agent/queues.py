"""The operation `queue`: a question to the front of a queue that runs here, over its socket."""

from __future__ import annotations

import glob
import json
import os
import re
from typing import Any, Dict

from .errors import AgentError
from .frames import Message
from .machine import Answer, Machine
from .session import Session

SOCKET = "/run/ogen-queue-front-%s/front.sock"
CLIENT = "root"  # whose jobs an operator's are
WAIT = 10.0  # seconds for an answer of a front


def queue(session: Session, message: Message, data: bytes) -> None:
    """`name`, `method`, `path`, and `body` and `headers` where there are any: `status` and `answer`."""
    name = str(message["name"])
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,39}", name):
        raise AgentError("%r is not the name of a queue" % name)
    if not os.path.exists(SOCKET % name):
        raise AgentError(
            "no front of queue %s runs here" % name,
            "`systemctl status ogen-queue-front-%s` there says why; `ogen apply` brings it" % name,
        )
    answer = ask(
        name, str(message["method"]), str(message["path"]), message.get("body"), message.get("headers")
    )
    if not answer.status:
        raise AgentError("the front of queue %s does not answer: %s" % (name, answer.text))
    session.reply(status=answer.status, answer=answer.json())


def ask(name: str, method: str, path: str, body: Any = None, headers: Any = None) -> Answer:
    import http.client
    import socket

    link = http.client.HTTPConnection("localhost", timeout=WAIT)
    try:
        link.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.sock.settimeout(WAIT)
        link.sock.connect(SOCKET % name)
        data = None if body is None else json.dumps(body).encode()
        link.request(method, path, data, {**dict(headers or {}), "X-Ogen-Client": CLIENT})
        response = link.getresponse()
        return Answer(response.status, response.read().decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, str(error) or type(error).__name__)
    finally:
        link.close()


def fronts(machine: Machine) -> Dict[str, Any]:
    """What the fronts that run here say of their queues; `error` says why one does not."""
    found: Dict[str, Any] = {}
    for path in sorted(glob.glob(SOCKET % "*")):
        name = os.path.basename(os.path.dirname(path))[len("ogen-queue-front-") :]
        answer = ask(name, "GET", "/admin/status")
        said = answer.json()
        found[name] = said if answer.status == 200 else {"error": str(said.get("error") or answer.text)[:200]}
    return found
