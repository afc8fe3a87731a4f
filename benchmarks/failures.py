"""What a failing instance costs: failed requests of each tier, for one of three instances with each fault.

    python benchmarks/failures.py [--requests 60] [--busy 65] [--tiers plain,njs,gate] [--only CASE]

A request fails if its answer is not 200, or not complete. Each case has an nginx of its own; six clients ask
one after another. "hanging" is the one fault where another instance could answer and requests fail all the
same: a request that waited is not repeated, since that would cost the time of a generation again, so it ends
with read_timeout (here 2 s); the prober then keeps balancers away, which is the case after it.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _balancers import NGINX, free_port, written
from _faulty import Farm, Mode

from ogen.inventory.model import Balancer, Gate

SLOTS, CLIENTS, READ_TIMEOUT = 2, 6, 2.0
TIERS = ("plain", "njs", "gate")


@dataclass(frozen=True)
class Found:
    """What became of a case's requests."""

    case: str
    tier: str
    requests: int
    failed: int
    unavoidable: int  # an answer had begun: nothing can take its place
    faulty: int  # requests that the faulty instance got
    longest: float
    whys: tuple[str, ...]


# ------------------------------------------------------------------------------------- nginx
def _balancer(tier: str, listen: int, **values: Any) -> Balancer:
    gate = Gate() if tier == "gate" else None
    routing: Any = "single" if tier == "plain" else "by_model"
    return Balancer("api", "edge", listen=listen, address="127.0.0.1", routing=routing, gate=gate, **values)


@dataclass
class Edge:
    """A balancer that runs."""

    config: Path
    port: int
    process: subprocess.Popen[bytes]

    def workers(self) -> set[str]:
        master = self.process.pid
        return set(Path(f"/proc/{master}/task/{master}/children").read_text().split())

    def drain(self, port: int) -> None:
        """As a lease does: `down` at the instance, and a reload; until the workers before it have ended."""
        before = self.workers()
        self.config.write_text(_leases().marked(self.config.read_text(), {f"127.0.0.1:{port}"}))
        self.process.send_signal(signal.SIGHUP)
        _until(lambda: not before & self.workers(), "the workers before the reload end")


def _leases() -> Any:
    path = Path(__file__).parents[1] / "templates" / "leases.py"
    spec = importlib.util.spec_from_file_location("leases", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 30
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.01)


@contextmanager
def _running(tier: str, farm: Farm, **values: Any) -> Iterator[Edge]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ogen-") as name:  # short: nginx's sockets lie in it
        ports = [one.port for one in farm.instances]
        config = written(_balancer(tier, port, **values), ports, SLOTS, Path(name))
        with (Path(name) / "stderr").open("wb") as log:
            command = [str(NGINX), "-e", "stderr", "-c", str(config), "-g", "daemon off;"]
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _until(lambda: process.poll() is not None or _answers(port), "nginx listens")
            if process.poll() is not None:
                raise RuntimeError((Path(name) / "stderr").read_text())
            edge = Edge(config, port, process)
            # it listens before it has made its workers: a reload must know those of before
            _until(lambda: len(edge.workers()) == _worker_count(config), "nginx has its workers")
            yield edge
        finally:
            process.terminate()
            process.wait(20)


def _worker_count(config: Path) -> int:
    (said,) = re.findall(r"^worker_processes (\w+);", config.read_text(), re.MULTILINE)
    return (os.cpu_count() or 1) if said == "auto" else int(said)


def _answers(port: int) -> bool:
    with closing(socket.socket()) as link:
        return link.connect_ex(("127.0.0.1", port)) == 0


# -------------------------------------------------------------------------------------- load
def _ask(port: int) -> str:
    """One request; empty if it was answered in full."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        link.request("POST", "/api/generate", json.dumps({"model": "chat", "prompt": "x"}))
        reply = link.getresponse()
        lines = reply.read().splitlines()
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        link.close()
    if reply.status != 200:
        return str(reply.status)
    return "" if lines and json.loads(lines[-1])["done"] else "cut off"


class Load:
    """Clients that ask one after another until so many requests are made."""

    def __init__(self, port: int, requests: int, clients: int = CLIENTS) -> None:
        self.port, self.left = port, requests
        self.ends: list[tuple[str, float]] = []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._client) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def _client(self) -> None:
        while True:
            with self.lock:
                if not self.left:
                    return
                self.left -= 1
            began = time.monotonic()
            end = _ask(self.port)
            with self.lock:
                self.ends.append((end, time.monotonic() - began))

    def join(self) -> list[tuple[str, float]]:
        for thread in self.threads:
            thread.join()
        return self.ends


# ------------------------------------------------------------------------------------- cases
def _found(case: str, tier: str, ends: list[tuple[str, float]], faulty: int, unavoidable: int = 0) -> Found:
    whys = [why for why, _ in ends if why]
    longest = max(seconds for _, seconds in ends)
    return Found(case, tier, len(ends), len(whys), unavoidable, faulty, longest, tuple(sorted(set(whys))))


def _constant(case: str, tier: str, requests: int, modes: list[Mode], **values: Any) -> Found:
    """The fault is there before the first request."""
    rest: list[Mode] = ["well"] * (3 - len(modes))
    with Farm(modes + rest) as farm, _running(tier, farm, **values) as edge:
        ends = Load(edge.port, requests).join()
        return _found(case, tier, ends, sum(one.asked for one in farm.instances[: len(modes)]))


def _killed(case: str, tier: str, requests: int) -> Found:
    with Farm(["well"] * 3) as farm, _running(tier, farm) as edge:
        victim = farm.instances[0]
        load = Load(edge.port, requests)
        _until(lambda: bool(victim.streaming), "an answer is under way")
        under_way = farm.do(victim.kill())
        return _found(case, tier, load.join(), victim.asked, under_way)


def _drained(case: str, tier: str, requests: int, mode: Mode = "well") -> Found:
    with Farm([mode, "well", "well"]) as farm, _running(tier, farm, read_timeout=READ_TIMEOUT) as edge:
        victim = farm.instances[0]
        if mode == "well":  # under load; one that hangs would hold the workers up
            load = Load(edge.port, requests)
            _until(lambda: victim.asked > 0, "it is asked")
            edge.drain(victim.port)
            ends = load.join()
        else:
            edge.drain(victim.port)
            ends = []
        asked = victim.asked
        ends += Load(edge.port, requests).join()
        return _found(case, tier, ends, victim.asked - asked)


def _busy(case: str, tier: str, seconds: float) -> Found:
    """All slots are taken for that long, and as many requests again wait; then the usual ones."""
    with Farm(["busy"] * 3) as farm, _running(tier, farm) as edge:
        load = Load(edge.port, 4 * SLOTS * 3, clients=2 * SLOTS * 3)
        _until(lambda: all(one.asked for one in farm.instances), "each has something to do")
        time.sleep(seconds)
        for one in farm.instances:
            one.mode = "well"
        farm.free()
        return _found(case, tier, load.join(), 0)


Case = Callable[[str, str, int, float], Found]
CASES: dict[str, tuple[str, Case]] = {
    "unreachable": ("its host is gone", lambda c, t, n, _: _constant(c, t, n, ["unreachable"])),
    "refusing": ("its process is dead", lambda c, t, n, _: _constant(c, t, n, ["refusing"])),
    "closing": ("takes requests and dies of them", lambda c, t, n, _: _constant(c, t, n, ["closing"])),
    "fast 500": ("answers 500 at once", lambda c, t, n, _: _constant(c, t, n, ["500"])),
    "fast 503": ("answers 503 at once", lambda c, t, n, _: _constant(c, t, n, ["503"])),
    "two broken": ("two of three answer 500 at once", lambda c, t, n, _: _constant(c, t, n, ["500", "500"])),
    "hanging": ("takes requests, never answers",
                lambda c, t, n, _: _constant(c, t, n, ["hanging"], read_timeout=READ_TIMEOUT)),
    "hanging, probed": ("the same, kept away by the prober", lambda c, t, n, _: _drained(c, t, n, "hanging")),
    "killed": ("dies in the middle of answers", lambda c, t, n, _: _killed(c, t, n)),
    "all busy": ("no first byte from any for a long time", lambda c, t, _, busy: _busy(c, t, busy)),
    "drained": ("taken out under load", lambda c, t, n, _: _drained(c, t, n)),
}  # fmt: skip


def _cell(found: Found) -> str:
    tail = f" (of them begun: {found.unavoidable})" if found.unavoidable else ""
    why = f" [{', '.join(found.whys)}]" if found.whys else ""
    return f"{found.failed}/{found.requests}{tail}{why}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--busy", type=float, default=65, help="seconds for which all are busy")
    parser.add_argument("--tiers", default=",".join(TIERS))
    parser.add_argument("--only", action="append", choices=CASES)
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    if NGINX is None:
        sys.exit("nginx is not installed (Debian: nginx-light libnginx-mod-http-js libnginx-mod-http-lua)")
    tiers = words.tiers.split(",")
    print(f"Failed requests, one of three instances at fault; {CLIENTS} clients, {words.requests} requests\n")
    print("| fault | | " + " | ".join(tiers) + " |\n|---|---|" + "---|" * len(tiers))
    all_found: list[Found] = []
    for case in words.only or CASES:
        about, run = CASES[case]
        row = [run(case, tier, words.requests, words.busy) for tier in tiers]
        all_found += row
        print(f"| {case} | {about} | " + " | ".join(_cell(found) for found in row) + " |", flush=True)
    if words.json:
        words.json.write_text(json.dumps([asdict(found) for found in all_found], indent=1) + "\n")


if __name__ == "__main__":
    main()
