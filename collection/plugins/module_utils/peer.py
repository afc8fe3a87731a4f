"""The agent in this very process, and the controller's side of its protocol, played on the host itself."""

from __future__ import annotations

import hashlib
import os
import tarfile
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from ansible.module_utils.basic import AnsibleModule

# All that the agent imports by name when it is asked for something: Ansible sends what it finds here.
from ansible_collections.ogen.fleet.plugins.module_utils.agent import (
    changes,
    closing,
    errors,
    gate,
    leases,
    ledger,
    librarian,
    looks,
    parts,
    store,
    supply,
)
from ansible_collections.ogen.fleet.plugins.module_utils.agent.disk import Disk
from ansible_collections.ogen.fleet.plugins.module_utils.agent.machine import Machine
from ansible_collections.ogen.fleet.plugins.module_utils.agent.session import Session
from ansible_collections.ogen.fleet.plugins.module_utils.agent.transaction import Host, Locks

__all__ = [
    "Failure",
    "Locks",
    "Module",
    "Peer",
    "agents",
    "changes",
    "closing",
    "gate",
    "leases",
    "ledger",
    "librarian",
    "looks",
    "parts",
    "store",
    "supply",
]

PART = 4 * 1024 * 1024  # bytes of a file in one frame
LAST = 30.0  # seconds that an instance gets to end what it has begun, where nobody is sent to it any more

Message = Dict[str, Any]


class Failure(Exception):
    """An error reply of the agent."""

    def __init__(self, reply: Message) -> None:
        super().__init__(reply["message"])
        self.reply = reply


class Module(AnsibleModule):
    """Ansible's, but what the action plugin tells (whole manifests) stays out of the host's log."""

    def _log_invocation(self) -> None:
        shown = {key: value for key, value in self.params.items() if key != "told"}
        self.log("Invoked with %s" % shown)

    def work(self, work: Any) -> None:
        """Ends the module with what `work` returns; errors of the agent in Ansible's form."""
        if self.params["told"] is None:
            self.fail_json(msg="this module works through its action plugin of the same name")
        os.umask(0o022)
        try:
            self.exit_json(**work(self.params["told"], self.check_mode))
        except errors.AgentError as error:
            self._failed(error.plain())
        except Failure as error:
            self._failed(error.reply)
        except OSError as error:
            self._failed({"message": "%s: %s" % (error.filename, error.strerror or error)})

    def _failed(self, reply: Message) -> None:
        hint, log = reply.get("hint"), list(reply.get("log") or ())
        message = "%s; %s" % (reply["message"], hint) if hint else reply["message"]
        rolled = reply.get("status") == "rolled_back"
        more = {"busy": reply["busy"]} if "busy" in reply else {}
        self.fail_json(msg=message, hint=hint or "", log=log, rolled_back=rolled, **more)


class Peer:
    """In the place of the agent's wire: commits what is prepared, and hands over files that were sent."""

    def __init__(self, told: Message, root: str = "/") -> None:
        self.archive = told.get("archive")
        # opened now: the agent asks for a model's file while it has only the rights of the store's owner
        files: Dict[str, str] = told.get("files") or {}  # digest → path on this host
        self.files = {digest: os.open(path, os.O_RDONLY | os.O_CLOEXEC) for digest, path in files.items()}
        self.about = {key: told[key] for key in ("who", "git", "patience") if key in told}
        digest = str(told.get("agent") or "")
        self.host = Host(Disk(root), Machine(), digest)
        self.session = Session(self.host, self, self._bundle(digest))
        self.answer: Iterator[Tuple[Message, bytes]] = iter(())  # what the agent receives next
        self.reply: Message = {}
        self.data = b""

    # ------------------------------------------------------------------- what a module asks for
    def ask(self, message: Message, data: bytes = b"") -> Message:
        """The agent's reply; Failure for an error."""
        self.session.answer({**self.about, **message}, data)
        if self.reply.get("reply") == "error":
            raise Failure(self.reply)
        return self.reply

    def transact(self, message: Message, data: bytes = b"") -> Message:
        """The result of a transaction that came to a good end; Failure for any other."""
        result = self.ask({"gated": False, "local": False, **message}, data)
        if result["status"] != "applied":
            raise Failure({"message": str(result.get("message") or result["status"]), **result})
        if result["leaving"]:  # nobody else is going to close it
            self.ask({"op": "close", "keep": []})
        return result

    def contents(self, wanted: Set[str]) -> Dict[str, bytes]:
        """Those of the archive that are wanted, by their digests."""
        return {name: data for name, data in self._members() if name in wanted}

    # ------------------------------------------------------------------- what the agent uses
    def send(self, message: Message, data: bytes = b"") -> None:
        kind = message.get("reply")
        if kind == "prepared":
            self.answer = iter([({"op": "commit", "tx": message["tx"], "epoch": message["epoch"]}, b"")])
        elif kind == "want":
            self.answer = self._parts(str(message["digest"]), message.get("at", 0))
        elif kind == "turn":  # how many hosts load at once is Ansible's matter: serial, throttle
            self.answer = iter([({"op": "turn"}, b"")])
        elif kind == "ask":
            names = [name for name, _port in message["instances"]]
            self.answer = iter([({"op": "grant", "instances": names, "seconds": LAST}, b"")])
        elif kind is not None:
            self.reply, self.data = message, data

    def receive(self, patience: Any = None) -> Any:
        return next(self.answer, None)

    def tell(self, phase: str, text: str, percent: Any = None) -> None:
        """Ansible shows nothing of a task before its end."""

    # ------------------------------------------------------------------- what was sent
    def _bundle(self, digest: str) -> bytes:
        found = next((data for name, data in self._members() if name == "agent"), b"")
        return found if hashlib.sha256(found).hexdigest() == digest else b""

    def _members(self) -> Iterator[Tuple[str, bytes]]:
        if self.archive:
            with tarfile.open(self.archive) as archive:
                for member in archive:
                    opened = archive.extractfile(member)
                    if opened is not None:
                        yield member.name, opened.read()

    def _parts(self, digest: str, at: Optional[int]) -> Iterator[Tuple[Message, bytes]]:
        """From `at` on (None: only the size). Each part is read when it is received: a model is too much for
        the memory."""
        handle = self.files[digest]
        size = os.fstat(handle).st_size
        done = size if at is None else at
        while True:
            data = os.pread(handle, PART, done)
            done += len(data)
            last = done >= size or not data
            yield {"op": "part", "size": size, "last": last}, data
            if last:
                return


def agents(disk: Disk) -> List[str]:
    """Agents that are on the host, whole, by their digests."""
    found = []
    for name in disk.names(store.AGENTS):
        data = disk.read_or("%s/%s" % (store.AGENTS, name))
        if name == hashlib.sha256(data).hexdigest() + ".pyz":
            found.append(name[:-4])
    return found
