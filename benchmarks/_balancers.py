"""nginx before stand-in instances: configurations that ogen renders, and the usual one written by hand."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ogen.inventory.model import Balancer, Gate, Host, Inventory, Rollout
from ogen.plan.model import Entry, HostPlan, Member, Plan, Pool
from ogen.render import render

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
WORKERS = 4  # as `auto` gives on four cores: a strategy must do what its name says with several


@dataclass(frozen=True, slots=True)
class Strategy:
    """One contender; `write` puts a configuration for these instances into a folder and returns its file."""

    name: str
    label: str
    write: Callable[[Path, int, Sequence[int]], Path]

    def lacking(self, folder: Path) -> str:
        """Why it can't run here; empty if it can."""
        if NGINX is None:
            return "nginx is not installed (Debian: nginx-light)"
        folder.mkdir()
        text = self.write(folder, 1, [2]).read_text()
        gone = [m for m in re.findall(r"^load_module (\S+);", text, re.MULTILINE) if not Path(m).exists()]
        return f"nginx lacks {', '.join(gone)} (Debian: libnginx-mod-http-js, -lua)" if gone else ""


# ------------------------------------------------------------------------------ what ogen renders
def _rendered(balancer: Balancer, slots: int) -> Callable[[Path, int, Sequence[int]], Path]:
    def write(folder: Path, listen: int, ports: Sequence[int]) -> Path:
        return written(replace(balancer, listen=listen, address="127.0.0.1"), ports, slots, folder)

    return write


def written(balancer: Balancer, ports: Sequence[int], slots: int, folder: Path) -> Path:
    """The rendered balancer with its run and log folders moved into `folder`; its nginx.conf."""
    (release,) = render(_plan(balancer, ports, slots), host="edge")
    for file in release.files:
        _, found, name = file.path.partition(f"/balancers/{balancer.name}/")
        if found:
            text = file.content.decode().replace("/var/log/ogen/", f"{folder}/")
            (folder / name).write_text(re.sub(r"/run/ogen-balancer-[a-z]+/", f"{folder}/", text))
    return folder / "nginx.conf"


def _plan(balancer: Balancer, ports: Sequence[int], slots: int) -> Plan:
    """One pool over the instances, as the planner would make it."""
    members = [Member("gpu", f"gpu{n}", "127.0.0.1", port, slots) for n, port in enumerate(ports)]
    pool = Pool("chat", ("chat:latest",), 8192, tuple(members))
    entry = Entry(balancer, ("edge",), (pool,), gates=(f"{balancer.name}@edge",) if balancer.gate else ())
    edge = Host("edge", "127.0.0.1")
    inventory = Inventory((edge,), (), (balancer,), {}, Rollout(), "/nonexistent", "inventory.yaml")
    return Plan(inventory, (HostPlan(edge, (), (entry,)),), (entry,))


PLAIN = Balancer("bench", "edge", routing="single", workers=WORKERS)
ROUTER = replace(PLAIN, routing="by_model")
GATE = replace(ROUTER, workers=None, gate=Gate(queue=512, wait=600.0))  # its queues are one worker's


def _ogen(name: str, label: str, balancer: Balancer, slots: int = 1) -> Strategy:
    return Strategy(name, label, _rendered(balancer, slots))


# -------------------------------------------------------------------------- what is often written
USUAL = """\
worker_processes {workers};
pid {folder}/pid;
error_log stderr;
events {{ worker_connections 768; }}
http {{
    access_log {folder}/access.log;
    {temp}
    upstream ollama_cluster {{
        {method};
        {servers}
    }}
    server {{
        listen 127.0.0.1:{listen};
        location / {{
            proxy_pass http://ollama_cluster;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_buffering off;
            proxy_cache off;
        }}
    }}
}}
"""


def _usual(method: str) -> Callable[[Path, int, Sequence[int]], Path]:
    """The upstream of a well-known article: no zone, and nginx's defaults."""

    def write(folder: Path, listen: int, ports: Sequence[int]) -> Path:
        servers = " ".join(f"server 127.0.0.1:{p} max_fails=3 fail_timeout=30s;" for p in ports)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temp = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
        values = {"workers": WORKERS, "folder": folder, "temp": temp, "listen": listen}
        (folder / "nginx.conf").write_text(USUAL.format(method=method, servers=servers, **values))
        return folder / "nginx.conf"

    return write


STRATEGIES: Mapping[str, Strategy] = {
    one.name: one
    for one in (
        _ogen("gate", "gate (Lua router, one queue)", GATE),
        _ogen("least_conn", "least_conn", replace(PLAIN, strategy="least_conn")),
        _ogen("njs", "least_conn, njs router", replace(ROUTER, strategy="least_conn")),
        Strategy("usual", "least_conn by hand, no zone", _usual("least_conn")),
        _ogen("random", "random two", replace(PLAIN, strategy="random")),
        _ogen("round_robin", "round robin", replace(PLAIN, strategy="round_robin")),
        _ogen("hash", "hash of a session", replace(PLAIN, strategy="hash", hash_key="header:X-Session")),
        _ogen("ip_hash", "ip_hash, one /24", replace(PLAIN, strategy="ip_hash")),
    )
}

#: one worker each, and an instance that takes as many requests at once as come: only the routing differs
ROUTING = (
    _ogen("plain", "plain, one pool", replace(PLAIN, workers=1), 1000),
    _ogen("njs", "njs router", replace(ROUTER, workers=1), 1000),
    _ogen("lua", "Lua router with gate", GATE, 1000),
)


# ------------------------------------------------------------------------------------ a running one
class Running:
    """nginx for the time of a `with`; `port` is where it listens."""

    def __init__(self, strategy: Strategy, ports: Sequence[int], folder: Path) -> None:
        self.strategy, self.ports, self.folder = strategy, ports, folder
        self.port = free_port()

    def __enter__(self) -> Running:
        self.folder.mkdir()
        config = self.strategy.write(self.folder, self.port, self.ports)
        self.log = (self.folder / "stderr").open("wb")
        command = [str(NGINX), "-e", "stderr", "-p", str(self.folder), "-c", str(config)]
        self.process = subprocess.Popen(
            [*command, "-g", "daemon off;"], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )
        self._await()
        return self

    def _await(self) -> None:
        end = time.monotonic() + 20
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            if self.process.poll() is not None or time.monotonic() > end:
                said = (self.folder / "stderr").read_text(errors="replace")
                raise SystemExit(f"{self.strategy.name}: nginx does not answer:\n{said}")
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port
