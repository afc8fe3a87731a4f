"""A host in a folder with a systemd as far as the agent talks to it: units that run with a hash, a boot id.

What is tested is the agent's way through its files; that the real systemd does its part is shown on boxes.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ogen.agent import owner, session, store, transaction, wire
from ogen.agent.disk import Disk, Hook
from ogen.agent.frames import Message
from ogen.agent.machine import Done, Machine
from ogen.agent.systemd import HASH
from ogen.agent.wire import Silence
from ogen.release.model import Release

BUNDLE = b"the agent's zip"
DIGEST = hashlib.sha256(BUNDLE).hexdigest()


class Host(transaction.Host):
    """A folder that has a systemd."""

    @property
    def live(self) -> bool:
        return True


class Systemd(Machine):
    """Units by name, with the hash that each was started with; `dying` ones do not come up."""

    def __init__(self, folder: Path, boot: str = "boot-1") -> None:
        self.folder = folder
        self.boot_id = boot
        self.running: dict[str, str] = {}
        self.dying: set[str] = set()
        self.alarms: list[str] = []
        self.clock = 0.0
        self.commit: Callable[[str], int] = lambda tx: 1

    def boot(self) -> str:
        return self.boot_id

    def now(self) -> float:
        self.clock += 1.0
        return self.clock

    def wait(self, seconds: float) -> None:
        self.clock += seconds

    def environment(self, pid: int) -> dict[str, str]:
        return {HASH: list(self.running.values())[pid - 1]}

    def mounts(self, pid: int) -> str:
        return ""

    def run(self, command: Sequence[str], timeout: float = 60.0, stdin: str = "") -> Done:
        program, *rest = command
        if program == "systemd-run":
            return Done(self.commit(rest[-1]), "")
        if program == "logger":
            self.alarms.append(rest[-1])
        if program != "systemctl":
            return Done(0, "")
        verb, names = rest[0], rest[rest.index("--") + 1 :] if "--" in rest else []
        if verb == "show":
            return Done(0, self._show(rest[1], names))
        for name in names:
            if verb == "stop":
                self.running.pop(name, None)
            elif verb in ("start", "restart") and not self._start(name) and "--no-block" not in rest:
                return Done(1, f"{name} does not start")
        return Done(0, "")

    def _show(self, properties: str, names: Sequence[str]) -> str:
        pids = {name: number for number, name in enumerate(self.running, 1)}
        if properties == "--property=MainPID":
            found = [pid for name, pid in pids.items() if any(fnmatch.fnmatch(name, n) for n in names)]
            return "\n".join(map(str, found))
        active = {True: "active", False: "inactive"}
        return "\n\n".join(
            f"Id={n}\nLoadState=loaded\nActiveState={active[n in pids]}\nMainPID={pids.get(n, 0)}"
            for n in names
        )

    def _start(self, name: str) -> bool:
        """From the text that its link leads to."""
        text = follow(self.folder, f"{store.UNITS}/{name}")
        found = re.search(f"{HASH}=(\\w+)", text or "")
        if found is None or "/bin/false" in str(text) or name in self.dying:
            self.running.pop(name, None)
            return False
        self.running[name] = found.group(1)
        return True

    def bring_up(self) -> None:
        """What systemd starts by itself at boot."""
        for link in sorted((self.folder / store.UNITS[1:]).glob("*.wants/*.service")):
            if link.name != "ogen-recover.service":
                self._start(link.name)


def follow(folder: Path, path: str) -> str | None:
    """A file's text as the host sees it: absolute symlinks stay in the folder."""
    parts, at = path.strip("/").split("/"), folder
    for number, part in enumerate(parts):
        at = at / part
        if at.is_symlink():
            target, rest = str(at.readlink()), "/".join(parts[number + 1 :])
            above = "" if target.startswith("/") else "/" + str(at.parent.relative_to(folder))
            return follow(folder, re.sub(r"[^/]+/\.\./", "", f"{above}/{target}/{rest}".rstrip("/")))
    return at.read_text() if at.is_file() else None


def host(folder: Path, before: Hook | None = None, machine: Systemd | None = None) -> Host:
    machine = machine or Systemd(folder)
    one = Host(Disk(str(folder), before), machine, DIGEST)
    machine.folder = folder

    def started(tx: str) -> int:
        """systemd-run ends when the service has started, whatever becomes of it."""
        owner.run_commit(one, tx)
        return 0

    machine.commit = started
    return one


class Controller(wire.Wire):
    """Hears what the agent says, and answers `prepared` with the commit, or says nothing."""

    def __init__(self, commits: bool = True, hear: Callable[[Message], None] = lambda message: None) -> None:
        super().__init__()
        self.commits = commits
        self.hear = hear
        self.last: dict[str, Any] = {}

    def send(self, message: Message, data: bytes = b"") -> None:
        self.hear(message)
        if "reply" in message:
            self.last = message

    def receive(self, patience: float | None = None) -> tuple[Message, bytes] | None:
        if not self.commits:
            raise Silence("no frame")
        return {"op": "commit", "tx": self.last["tx"], "epoch": self.last["epoch"]}, b""


def ask(one: transaction.Host, controller: Controller, op: str, **message: Any) -> dict[str, Any]:
    data = message.pop("data", b"")
    session.Session(one, controller, BUNDLE).answer({"op": op, "who": "test", **message}, data)
    return controller.last


def apply(one: transaction.Host, release: Release, controller: Controller | None = None) -> dict[str, Any]:
    """As the controller does it: compare, then only what is missing there."""
    compared = ask(one, Controller(), "compare", manifest=release.manifest(), text=False)
    if "report" not in compared:
        return compared
    seen = compared["report"]
    contents = {f.sha256: f.content for f in release.files if f.sha256 in seen["missing"]}
    return ask(
        one,
        controller or Controller(),
        "apply",
        manifest=release.manifest(),
        contents=[[digest, len(data)] for digest, data in contents.items()],
        data=b"".join(contents.values()),
        base=seen["current"],
    )
