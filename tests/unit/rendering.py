"""What the tests of `ogen.render` share: plans made by hand, files on disk, the real checkers."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ogen.fit import Account
from ogen.inventory.model import (
    Balancer,
    Context,
    Gpu,
    Host,
    Inventory,
    Lock,
    Model,
    Ollama,
    Rollout,
    Source,
)
from ogen.plan.model import (
    Entry,
    HostPlan,
    Instance,
    Member,
    ModelSettings,
    Placement,
    Plan,
    Pool,
    ServerSettings,
)
from ogen.release.model import Release

ACCOUNT = Account(4 << 30, 1 << 30, 300 << 20, 1480 << 20, 0, 0, 33, 33)
SERVER = ServerSettings(2, 8192, None, None, 1, "-1")
CHAT = Model(
    "chat",
    (Source(None, "llama3.1:8b-instruct-q4_K_M"),),
    Context(8192, 4096),
    aliases=("gpt-4o-mini", "llama3.1:8b"),
)


# ------------------------------------------------------------------------------------- plans
def card(index: int = 0, vendor: str = "nvidia", **values: Any) -> Gpu:
    return Gpu(index, "RTX 3090" if vendor == "nvidia" else "RX 7900 XTX", vendor, 24 << 30, **values)  # type: ignore[arg-type]


def placement(model: Model = CHAT, **settings: Any) -> Placement:
    chosen = ModelSettings(**{"context": model.context.want, "batch": None, "num_gpu": None, **settings})
    return Placement(model, model.sources[0], chosen, ACCOUNT, "full")


def instance(
    gpus: tuple[Gpu, ...] = (card(),),
    models: Iterable[Placement] = (placement(),),
    host: str = "gpu1",
    **values: Any,
) -> Instance:
    name = "gpu" + "-".join(str(gpu.index) for gpu in gpus) if gpus else "cpu"
    port = 11434 + (gpus[0].index if gpus else 90)
    return Instance(host, name, gpus, port, values.pop("server", SERVER), tuple(models), **values)


def pool(name: str, members: Iterable[Member], names: Iterable[str] = (), context: int = 8192) -> Pool:
    return Pool(name, tuple(names) or (f"{name}:latest",), context, tuple(members))


def make_plan(
    instances: Sequence[Instance] = (),
    balancers: Sequence[tuple[Balancer, Sequence[Pool]]] = (),
    *,
    host: Host | None = None,
    edge: Host | None = None,
    folder: str = "/nonexistent",
    lock: Lock | None = None,
) -> Plan:
    """A plan of one GPU host and one balancer host."""
    host = host or Host("gpu1", "192.0.2.11")
    host = replace(host, gpus=host.gpus or tuple(gpu for one in instances for gpu in one.gpus))
    edge = edge or Host("edge", "192.0.2.10")
    entries = tuple(
        Entry(
            balancer, (edge.name,), tuple(pools), {p.name: balancer.listen + i for i, p in enumerate(pools)}
        )
        for balancer, pools in balancers
    )
    models = tuple({p.model.name: p.model for one in instances for p in one.placements}.values())
    inventory = Inventory(
        (host,) if host.name == edge.name else (host, edge),
        models,
        tuple(balancer for balancer, _ in balancers),
        {},
        Rollout(),
        folder,
        "inventory.yaml",
        lock,
    )
    if host.name == edge.name:
        return Plan(inventory, (HostPlan(host, tuple(instances), entries),), entries)
    return Plan(inventory, (HostPlan(host, tuple(instances), ()), HostPlan(edge, (), entries)), entries)


def host_of(version: str = "0.32.15", **values: Any) -> Host:
    return Host("gpu1", "192.0.2.11", ollama=Ollama(version=version, **values))


# ------------------------------------------------------------------------------------- files
def text_of(release: Release, path: str) -> str:
    return next(file.content.decode() for file in release.files if file.path == path)


def paths_of(release: Release) -> list[str]:
    return [file.path for file in release.files]


def lay(release: Release, folder: Path) -> Path:
    """Writes the release's files under `folder`, at the paths where people look for them."""
    for file in release.files:
        target = folder / file.path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.content)
        target.chmod(file.mode)
    return folder


# ---------------------------------------------------------------------------------- checkers
def run(*command: str, cwd: Path | None = None) -> tuple[int, str]:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


def systemd_root(folder: Path) -> Path:
    """A root file system with the programs that units start and systemd's own units."""
    for program in (
        "usr/local/bin/ollama",
        "usr/bin/python3",
        "usr/sbin/nginx",
        "usr/bin/redis-server",
        "bin/kill",
    ):
        stub = folder / program
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text("#!/bin/sh\n")
        stub.chmod(0o755)
    for source in ("/usr/lib/systemd/system", "/lib/systemd/system"):
        if Path(source).is_dir():
            shutil.copytree(source, folder / "usr/lib/systemd/system", symlinks=True)
            break
    return folder


def check_units(release: Release, root: Path) -> None:
    """systemd-analyze verify on every unit: any output is a failure."""
    lay(release, root)
    units = [p for p in paths_of(release) if p.startswith("/etc/systemd/system/") and p.count("/") == 4]
    for path in paths_of(release):
        if path.endswith(
            ("/ogen-librarian.service", "/ogen-mirror.service")
        ):  # transient: not among the others
            (root / "etc/systemd/system").mkdir(parents=True, exist_ok=True)
            shutil.copy(root / path.lstrip("/"), root / "etc/systemd/system")
            units.append(f"/etc/systemd/system/{Path(path).name}")
    if not units:
        return
    code, output = run("systemd-analyze", "verify", "--man=no", f"--root={root}", *units)
    assert (code, output) == (0, ""), f"exit {code}\n{output}"


def localised(text: str, folder: Path) -> str:
    """An nginx file with its runtime and log folders moved under `folder`."""
    return text.replace("/run/ogen-", f"{folder}/run-").replace("/var/log/", f"{folder}/log-")


def sandbox(release: Release, folder: Path) -> list[Path]:
    """The balancers of a release, ready to be started from `folder`; their nginx.conf files."""
    configs = []
    for file in release.files:
        parts = file.path.split("/balancers/")
        if len(parts) == 2:
            target = folder / parts[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(localised(file.content.decode(), folder))
            (folder / f"run-balancer-{target.parent.name}").mkdir(exist_ok=True)
            if target.name == "nginx.conf":
                configs.append(target)
    (folder / "log-ogen").mkdir(exist_ok=True)
    (folder / "log-nginx").mkdir(exist_ok=True)
    return configs


def check_nginx(release: Release, folder: Path, nginx: str) -> None:
    """`nginx -t` on every balancer, conf.d files inside of a minimal one; any remark is a failure."""
    configs = sandbox(release, folder)
    for file in release.files:
        if file.path.startswith("/etc/nginx/conf.d/"):
            part = folder / Path(file.path).name
            text = localised(file.content.decode(), folder)
            part.write_text(re.sub(r"/etc/ogen/keys/(\S+)\.conf", rf"{folder}/\1/keys.conf", text))
            whole = folder / f"{part.name}.main"
            temp = "".join(
                f"{name}_temp_path {folder}/{name};"
                for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            whole.write_text(
                f"pid {folder}/pid; error_log stderr; events {{}}\n"
                f"http {{ access_log off; {temp} include {part}; }}\n"
            )
            configs.append(whole)
    for config in configs:
        code, output = run(nginx, "-t", "-e", "stderr", "-c", str(config))
        remarks = [
            line for line in output.splitlines() if "syntax is ok" not in line and "is successful" not in line
        ]
        assert (code, remarks) == (0, []), f"exit {code}\n{remarks}"


# --------------------------------------------------------------------- a balancer that runs
@dataclass
class Backend:
    """A stand-in instance: answers with its name, the path and what it was sent."""

    name: str
    models: tuple[str, ...] = ("chat:latest",)
    status: int = 200
    chunks: int = 0  # of a streamed answer
    hang: float = 0.0
    seen: list[dict[str, Any]] = field(default_factory=list)
    server: ThreadingHTTPServer | None = None

    @property
    def port(self) -> int:
        assert self.server is not None
        return int(self.server.server_address[1])

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(length).decode()
        said = {"path": request.path, "headers": dict(request.headers), "body": body}
        self.seen.append(said)
        time.sleep(self.hang)
        if request.path == "/api/tags":
            self.send(request, {"models": [{"name": m, "by": self.name} for m in self.models]})
        elif request.path == "/api/ps":
            self.send(request, {"models": [{"name": m, "size_vram": 1} for m in self.models[:1]]})
        elif request.path == "/v1/models":
            self.send(request, {"object": "list", "data": [{"id": m} for m in self.models]})
        elif request.path == "/api/version":
            self.send(request, {"version": "0.32.15"})
        elif self.chunks:
            self.stream(request)
        else:
            self.send(request, {"by": self.name, "path": request.path})

    def send(self, request: BaseHTTPRequestHandler, value: object) -> None:
        data = json.dumps(value).encode()
        request.send_response(self.status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def stream(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "application/x-ndjson")
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for number in range(self.chunks):
            data = json.dumps({"n": number, "by": self.name}).encode() + b"\n"
            request.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            request.wfile.flush()
            time.sleep(0.1)
        request.wfile.write(b"0\r\n\r\n")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: object) -> None:
        """A client that left is part of some tests."""


@contextmanager
def backends(*wanted: Backend) -> Iterator[tuple[Backend, ...]]:
    """Starts the stand-ins on free ports of loopback."""
    for backend in wanted:
        backend.server = _Server(("127.0.0.1", 0), _handler(backend.answer))
        threading.Thread(target=backend.server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield wanted
    finally:
        for backend in wanted:
            assert backend.server is not None
            backend.server.shutdown()
            backend.server.server_close()


def _handler(answer: Callable[[BaseHTTPRequestHandler], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        def do_POST(self) -> None:
            answer(self)

        def do_DELETE(self) -> None:
            answer(self)

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@contextmanager
def running(release: Release, folder: Path, nginx: str, ports: Iterable[int]) -> Iterator[Path]:
    """The one balancer of a release as a process; yields its folder."""
    (config,) = sandbox(release, folder)
    log = (folder / "stderr").open("wb")
    # workers reach the sockets in pytest's folder, which is closed to others
    more = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
    process = subprocess.Popen([nginx, "-e", "stderr", "-c", str(config), "-g", more], stdout=log, stderr=log)
    try:
        _await(process, ports, folder)
        yield folder
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def _await(process: subprocess.Popen[bytes], ports: Iterable[int], folder: Path) -> None:
    end = time.monotonic() + 10
    for port in ports:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise AssertionError((folder / "stderr").read_text()) from None
                time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def refresh_golden() -> bool:
    return os.environ.get("OGEN_UPDATE_GOLDEN") == "1"
