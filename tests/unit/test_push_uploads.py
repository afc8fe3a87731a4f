"""Models from files of the control machine: named by digest, sent when the host asks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from ogen import push
from ogen.agent import frames
from ogen.errors import RemoteError, UsageError
from ogen.inventory import load
from ogen.inventory.model import Host
from ogen.plan import plan
from ogen.push.contact import PART
from ogen.push.pipes import Pipe
from ogen.render import render

INVENTORY = """\
version: 1
ollama: {version: 0.32.15}
models:
  own: {from: {Q4_K_M: ./own.gguf}, card: llama3.1-8b, context: 4096, replicas: fill}
hosts:
  solo: {address: 192.0.2.1, gpus: [{model: RTX 3090}]}
"""


def targets(folder: Path) -> tuple[push.Target, ...]:
    (folder / "inventory.yaml").write_text(INVENTORY)
    made = plan(load(folder / "inventory.yaml"))
    return push.targets(made, render(made))


def test_a_file_stands_in_the_release_by_its_digest(tmp_path: Path) -> None:
    (tmp_path / "own.gguf").write_bytes(b"weights")
    digest = "sha256:" + hashlib.sha256(b"weights").hexdigest()
    (target,) = targets(tmp_path)
    assert target.uploads == {digest: str(tmp_path / "own.gguf")}
    assert target.release.models[0].source == digest
    assert target.release.models[0].request["files"] == {"own.gguf": digest}


def test_another_content_is_another_release(tmp_path: Path) -> None:
    (tmp_path / "own.gguf").write_bytes(b"one")
    first = targets(tmp_path)[0].release.id
    (tmp_path / "own.gguf").write_bytes(b"another")
    assert targets(tmp_path)[0].release.id != first


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"own\.gguf: no such file") as caught:
        targets(tmp_path)
    assert caught.value.where
    assert caught.value.where.line == 4


class Recorder(Pipe):
    """An agent that asks for a file and is content."""

    def __init__(self, *replies: dict[str, Any]) -> None:
        super().__init__("h")
        self.out += b"".join(frames.pack(r) for r in replies)
        self.sent = bytearray()

    def send(self, data: bytes) -> None:
        self.sent += data

    def wait(self, seconds: float) -> bool:
        self.ended = True
        return True

    def status(self) -> int | None:
        return 0

    def close(self) -> None:
        pass

    def parts(self) -> list[frames.Frame]:
        def take(count: int) -> bytes:
            taken = bytes(self.sent[:count])
            del self.sent[:count]
            return taken

        found = []
        while (frame := frames.read(take)) is not None:
            found.append(frame)
        return found


def contact(pipe: Pipe, uploads: dict[str, str]) -> push.Contact:
    made = push.Contact(Host("h", "h"), pipe, push.Options(), push.ignore)
    made.uploads = uploads
    return made


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1])
def test_a_file_is_sent_in_parts(tmp_path: Path, size: int) -> None:
    path = tmp_path / "own.gguf"
    path.write_bytes(b"x" * size)
    pipe = Recorder({"reply": "want", "digest": "sha256:aa"}, {"reply": "ok"})
    contact(pipe, {"sha256:aa": str(path)}).ask({"op": "apply"})
    _, *parts = pipe.parts()
    assert b"".join(data for _, data in parts) == b"x" * size
    assert [message["last"] for message, _ in parts] == [False] * (len(parts) - 1) + [True]
    assert {message["size"] for message, _ in parts} == {size}


def test_a_host_gets_no_other_file(tmp_path: Path) -> None:
    pipe = Recorder({"reply": "want", "digest": "sha256:bb"})
    with pytest.raises(RemoteError, match="no file of ours"):
        contact(pipe, {"sha256:aa": "/etc/shadow"}).ask({"op": "apply"})
