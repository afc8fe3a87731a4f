"""A registry of models for tests: the read protocol of Ollama's, with counts of what was sent, and faults."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

STANDIN = Path(__file__).parent / "testbed" / "ollama"
PART = 1 << 20


def _standin() -> Any:
    loader = SourceFileLoader("standin_ollama", str(STANDIN))
    spec = spec_from_loader("standin_ollama", loader)
    assert spec
    made = module_from_spec(spec)
    loader.exec_module(made)
    return made


@dataclass(frozen=True)
class Blob:
    """A beginning, and spaces up to its size: nothing large lies in memory."""

    begin: bytes
    size: int

    def read(self, at: int, count: int) -> bytes:
        end = min(self.size, at + count)
        return self.begin[at:end].ljust(max(0, end - at))

    def parts(self, at: int = 0, end: int | None = None) -> Iterator[bytes]:
        end = self.size if end is None else end
        for place in range(at, end, PART):
            yield self.read(place, min(PART, end - place))

    @property
    def digest(self) -> str:
        total = hashlib.sha256()
        for part in self.parts():
            total.update(part)
        return "sha256:" + total.hexdigest()


@dataclass
class Registry:
    """What is in it, what it sent, and what it is to do wrong."""

    url: str = ""
    manifests: dict[str, bytes] = field(default_factory=dict)  # path of the URL → text
    blobs: dict[str, Blob] = field(default_factory=dict)  # digest → content
    sent: Counter[str] = field(default_factory=Counter)  # path → bytes of bodies
    asked: list[str] = field(default_factory=list)  # "GET /v2/… bytes=…"
    cut: dict[str, list[int]] = field(default_factory=dict)  # digest → after how many bytes, each once
    hold: threading.Event | None = None  # blobs wait for it after their first part
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, size: int = 4096) -> str:
        """Puts a model in that the stand-in takes for what its name says; the digest of its large blob."""
        standin = _standin()
        path, _, tag = name.partition(":")
        head = standin.pretend(f"{path}:{tag}")
        config = {
            "model_format": "gguf",
            "model_family": head["family"],
            "model_families": [head["family"]],
            "model_type": f"{head['billions']:g}B",
            "file_type": head["quantization"],
        }
        model = self._layer(standin.MEDIA + "model", Blob(json.dumps(head).encode() + b"\n", size))
        template = self._layer(standin.MEDIA + "template", Blob(b"{{ .Prompt }}", 13))
        text = json.dumps(config).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": self._layer(standin.CONFIG_MEDIA, Blob(text, len(text))),
            "layers": [model, template],
        }
        place = path if "/" in path else f"library/{path}"
        self.manifests[f"/v2/{place}/manifests/{tag or 'latest'}"] = json.dumps(manifest).encode()
        return str(model["digest"])

    def _layer(self, media: str, blob: Blob) -> dict[str, Any]:
        digest = blob.digest
        self.blobs[digest] = blob
        return {"mediaType": media, "digest": digest, "size": blob.size}

    def store(self, folder: Path) -> None:
        """All of it as a folder in the layout of Ollama's store."""
        (folder / "blobs").mkdir(parents=True)
        for digest, blob in self.blobs.items():
            with (folder / "blobs" / digest.replace(":", "-")).open("wb") as file:
                file.writelines(blob.parts())
        for path, text in self.manifests.items():
            _, _, space, model, _, tag = path.split("/")
            place = folder / "manifests" / "registry.ollama.ai" / space / model / tag
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(text)

    def of_blobs(self) -> int:
        """Bytes of blobs that went out."""
        with self.lock:
            return sum(count for path, count in self.sent.items() if "/blobs/" in path)


class _Handler(BaseHTTPRequestHandler):
    registry: Registry
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        registry = self.registry
        with registry.lock:
            registry.asked.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        found = re.fullmatch(r"/v2/.+/blobs/(sha256:[0-9a-f]{64})", self.path)
        blob = registry.blobs.get(found[1]) if found else None
        if blob is None and self.path in registry.manifests:
            text = registry.manifests[self.path]
            blob = Blob(text, len(text))
        if blob is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        at = int(ranged[1]) if ranged else 0
        end = int(ranged[2]) + 1 if ranged and ranged[2] else blob.size
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(end - at))
        if found:  # Ollama wants it, or a redirect
            self.send_header("Location", registry.url + self.path)
        if ranged:
            self.send_header("Content-Range", f"bytes {at}-{end - 1}/{blob.size}")
        self.end_headers()
        if body:
            self._send(blob, at, end, found[1] if found else "")

    def _send(self, blob: Blob, at: int, end: int, digest: str) -> None:
        registry = self.registry
        with registry.lock:
            cuts = registry.cut.get(digest, [])
            left = cuts.pop(0) if cuts else end - at
        for part in blob.parts(at, min(end, at + left)):
            try:
                self.wfile.write(part)
            except OSError:  # who asked is gone
                self.close_connection = True
                return
            with registry.lock:
                registry.sent[self.path] += len(part)
            if registry.hold and digest:
                registry.hold.wait(120)
        if left < end - at:
            self.close_connection = True  # less than was promised


@contextmanager
def serving(address: str = "127.0.0.1", registry: Registry | None = None) -> Iterator[Registry]:
    made = registry or Registry()
    handler = type("Handler", (_Handler,), {"registry": made})
    with ThreadingHTTPServer((address, 0), handler) as server:
        server.daemon_threads = True
        made.url = f"http://{address}:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield made
        finally:
            if made.hold:
                made.hold.set()
            server.shutdown()
            thread.join()
