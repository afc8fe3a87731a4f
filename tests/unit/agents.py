"""For tests of the agent: a host in a folder, and a controller that commits at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ogen.agent import session, wire
from ogen.agent.disk import Disk, Hook
from ogen.agent.machine import Machine
from ogen.agent.transaction import Host
from ogen.release.model import File, ModelBuild, ModelView, Release, Unit

UNIT = "[Unit]\nDescription=x\n[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=ogen.target\n"


class Wire(wire.Wire):
    """Collects what the agent says; answers `prepared` with the commit."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any], data: bytes = b"") -> None:
        self.said.append(message)

    def receive(self, patience: float | None = None) -> tuple[dict[str, Any], bytes] | None:
        last = self.said[-1]
        assert last["reply"] == "prepared"
        return {"op": "commit", "tx": last["tx"], "epoch": last["epoch"]}, b""


def host(folder: Path, before: Hook | None = None) -> Host:
    return Host(Disk(str(folder), before), Machine())


def ask(one: Host, op: str, **message: Any) -> dict[str, Any]:
    """The agent's last word on a request."""
    wire = Wire()
    made = session.Session(one, wire)
    made.answer({"op": op, "who": "test", **message}, message.pop("data", b""))
    if made.leaving:
        made.leaving.drop()  # as the kernel does when a session's process ends
    return wire.said[-1]


def apply(one: Host, release: Release, **more: Any) -> dict[str, Any]:
    contents = {f.sha256: f.content for f in release.files}
    return ask(
        one,
        "apply",
        manifest=release.manifest(),
        contents=[[digest, len(data)] for digest, data in contents.items()],
        data=b"".join(contents.values()),
        **more,
    )


def release(text: str = "one", *units: str, secret: str = "s3cret") -> Release:
    """A small release: two files, a secret, units, a model's view."""
    files = [
        File("/etc/ogen/current/a.txt", text.encode()),
        File("/etc/ogen/current/sub/b.txt", b"b"),
        File("/etc/ogen/current/keys", secret.encode(), 0o600, secret=True),
        *(File(f"/etc/systemd/system/{name}", UNIT.encode()) for name in units),
    ]
    view = "/etc/ogen/current/instances/gpu0/manifests/registry.ollama.ai/library/chat/latest"
    return Release(
        "gpu1",
        tuple(sorted(files, key=lambda f: f.path)),
        units=tuple(Unit(name, "service", "0" * 16) for name in units),
        models=(ModelBuild("ogen/chat:1", "llama3", {"from": "llama3"}),),
        views=(ModelView(view, "ogen/chat:1"),),
    )
