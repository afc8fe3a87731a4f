"""A host that becomes the mirror: what it lays out, what keeps it from it, and how it ends."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from agents import Wire
from registry import Registry

from ogen.agent import mirroring, modelstore, session
from ogen.agent.disk import Disk
from ogen.agent.locks import Lock
from ogen.agent.machine import Answer, Done, Machine
from ogen.agent.transaction import Host

SOURCE, OTHER = "llama3:8b", "hf.co/someone/model-GGUF:Q4_K_M"

ALLOWED = ["IPAddressAllow=192.0.2.11", "IPAddressAllow=192.0.2.12"]
SERVICE = "\n".join(["[Service]", "ExecStart=/usr/sbin/nginx", *ALLOWED]) + "\n"


class Recorder(Machine):
    """Writes down what is started, and answers for nginx."""

    def __init__(self) -> None:
        self.ran: list[list[str]] = []
        self.status = 200
        self.clock = 0.0

    def run(self, command: Sequence[str], timeout: float = 60.0, stdin: str = "") -> Done:
        self.ran.append(list(command))
        return Done(0, "")

    def ask(self, *args: Any, **more: Any) -> Answer:
        return Answer(self.status, "")

    def now(self) -> float:
        self.clock += 1.0
        return self.clock

    def wait(self, seconds: float) -> None:
        pass

    @property
    def started(self) -> list[str]:
        return [word[7:] for line in self.ran for word in line if word.startswith("--unit=")]


class Site:
    def __init__(self, folder: Path) -> None:
        (folder / "root/etc/ogen").mkdir(parents=True)
        (folder / "root/run").mkdir()
        disk = Disk(str(folder / "root"))
        disk.relocated = False
        self.machine = Recorder()
        self.host = Host(disk, self.machine)
        self.store = folder / "models"
        self.session = session.Session(self.host, Wire())

    def ask(self, op: str, sources: dict[str, int] | None = None) -> dict[str, Any]:
        librarian = {"models_dir": str(self.store), "user": "root", "group": "root", "port": 1}
        message = {
            "op": op,
            "who": "test",
            "sources": sources or {},
            "librarian": librarian,
            "unit": "[Service]\nExecStart=/usr/bin/ollama serve\n",
            "service": SERVICE,
            "conf": "# conf\n",
            "port": 11432,
        }
        self.session.answer(message, b"")
        return self.session.wire.said[-1]  # type: ignore[attr-defined,no-any-return]

    @property
    def tree(self) -> Path:
        return Path(self.host.disk.real(mirroring.FOLDER)) / "tree"

    def served(self) -> dict[str, Path]:
        return {str(p.relative_to(self.tree)): p for p in self.tree.rglob("*") if not p.is_dir()}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    registry = Registry()
    registry.add(SOURCE, 5000)
    registry.add("mistral:7b", 6000)
    registry.store(made.store)
    return made


def test_what_was_asked_for_is_served_and_nothing_else(site: Site) -> None:
    reply = site.ask("mirror", {SOURCE: 5000})
    assert reply["reply"] == "ok", reply
    manifest = site.store / "manifests/registry.ollama.ai/library/llama3/8b"
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert reply["manifests"] == [[SOURCE, f"sha256:{digest}"]]
    served = site.served()
    blobs = modelstore.blobs_of(manifest.read_bytes())
    names = {f"v2/library/llama3/blobs/{blob.digest}" for blob in blobs}
    assert set(served) == {"v2/library/llama3/manifests/8b", *names}
    for name in names:
        blob = Path(name).name.replace(":", "-")
        assert served[name].readlink() == site.store / "blobs" / blob
    assert site.machine.started == ["ogen-mirror-guard", "ogen-mirror"], "no librarian: it is there"
    words = next(line for line in site.machine.ran if "--unit=ogen-mirror" in line)
    assert [w for w in words if w.startswith("IPAddressAllow")] == ALLOWED


def test_what_was_served_before_is_not_any_more(site: Site) -> None:
    site.ask("mirror", {SOURCE: 0})
    assert site.session.mirror
    site.session.mirror.drop()  # that session was killed
    site.ask("mirror", {"mistral:7b": 0})
    assert "v2/library/llama3/manifests/8b" not in site.served()
    assert "v2/library/mistral/manifests/7b" in site.served()


def test_it_ends_when_told(site: Site) -> None:
    site.ask("mirror", {SOURCE: 0})
    assert site.ask("unmirror")["reply"] == "ok"
    assert site.machine.ran[-1] == ["systemctl", "stop", "ogen-mirror.service", "ogen-mirror-guard.service"]
    assert not site.tree.exists()
    Lock(site.host.disk, mirroring.LOCK).take({}, 0.0)


def test_another_rollouts_mirror_is_left_alone(site: Site) -> None:
    other = Lock(site.host.disk, mirroring.LOCK)
    site.host.disk.folder("/run/ogen", sync=False)
    other.take({"who": "somebody", "what": "mirror"})
    reply = site.ask("mirror", {SOURCE: 0})
    assert (reply["kind"], "somebody, mirror" in reply["message"]) == ("locked", True)
    assert site.machine.started == []


def test_no_lock_of_the_host_is_held_while_it_serves(site: Site) -> None:
    site.ask("mirror", {SOURCE: 0})
    for path in ("/etc/ogen/lock", "/etc/ogen/tx.lock"):
        assert not Lock(site.host.disk, path).held()
    assert Lock(site.host.disk, mirroring.LOCK).held()


def test_room_is_looked_for_before_anything_is_loaded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ogen.agent.machine.free_bytes", lambda path: 8 << 30)
    reply = site.ask("mirror", {OTHER: 40 << 30})
    assert (reply["kind"], "need 40.0 GiB" in reply["message"]) == ("refused", True)
    assert site.machine.started == []


def test_the_room_for_it_can_be_asked_before(site: Site) -> None:
    message = {"op": "mirror_room", "models_dir": str(site.store), "sources": {SOURCE: 5, OTHER: 7}}
    site.session.answer(message, b"")
    room = site.session.wire.said[-1]["room"]  # type: ignore[attr-defined]
    assert (room["need"], room["sources"]) == (7, [OTHER])
    assert site.machine.ran == []


def test_an_nginx_that_does_not_answer_is_an_error(site: Site) -> None:
    site.machine.status = 0
    reply = site.ask("mirror", {SOURCE: 0})
    assert "the mirror does not answer on port 11432" in reply["message"]
