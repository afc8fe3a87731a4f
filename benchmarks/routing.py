"""What choosing the pool by the model costs: plain, njs and Lua router side by side, before one fast backend.

    python benchmarks/routing.py [--rounds 5] [--seconds 2] [--connections 32] [--json FILE]
                                 [--page docs/balancing.md]

The backend is an nginx that answers with a constant. Every contender is as ogen renders it, access log
included, with one worker, so that none has more cores than another; `direct` is the backend itself, the
floor. Bodies of 200 bytes and 20 KB. The contenders take turns in every round, in an order that changes.

One connection:   the time of a request that nobody disturbs; its difference to plain is the router's price.
More connections: requests per second of one worker, and the time of a request then.

Needs wrk (Debian: wrk) and nginx with the njs and Lua modules; a contender that lacks one is left out.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from _balancers import ROUTING, Running, Strategy
from _load import cores
from _page import put

BODIES = {"200 B": 200, "20 KB": 20_000}
BACKEND = """\
worker_processes 1;
pid {folder}/pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_buffer_size 64k;
    {temp}
    keepalive_requests 1000000000;
    default_type application/x-ndjson;
    server {{
        listen 127.0.0.1:{listen};
        location / {{ return 200 '{{"model":"chat","response":"hello","done":true}}\\n'; }}
    }}
}}
"""
SCRIPT = """\
wrk.method = "POST"
wrk.path = "/api/generate"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [[%s]]
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of wrk."""

    contender: str
    body: str
    connections: int
    p50: float  # seconds
    p99: float
    rate: float  # requests per second


def _backend(folder: Path, listen: int, _: Sequence[int]) -> Path:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temp = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(BACKEND.format(folder=folder, listen=listen, temp=temp))
    return folder / "nginx.conf"


def body_of(size: int) -> str:
    """A generation's request of so many bytes; the model comes last, as from clients that sort it there."""
    head, tail = '{"stream":false,"prompt":"', '","model":"chat"}'
    return head + "x" * (size - len(head) - len(tail)) + tail


UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


def parsed(text: str) -> tuple[float, float, float]:
    """p50, p99 and requests per second as wrk says them; SystemExit when not every answer was a good one."""
    if bad := re.search(r"Non-2xx or 3xx responses: \d+|Socket errors: .*", text):
        raise SystemExit(f"wrk: {bad.group()}\n{text}")
    times = dict(re.findall(r"^ +(50|99)% +([\d.]+(?:us|ms|s|m))$", text, re.MULTILINE))
    rate = re.search(r"^Requests/sec: +([\d.]+)$", text, re.MULTILINE)
    if rate is None or set(times) != {"50", "99"}:
        raise SystemExit(f"wrk says something else than expected:\n{text}")
    return _seconds(times["50"]), _seconds(times["99"]), float(rate.group(1))


def _seconds(text: str) -> float:
    number = text.rstrip("ums")
    return float(number) * UNITS[text[len(number) :]]


# -------------------------------------------------------------------------------------- the rounds
def measure(args: argparse.Namespace, chosen: Sequence[Strategy]) -> list[Measured]:
    found = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ogen-")))
        folder.chmod(0o755)
        backend = stack.enter_context(Running(Strategy("direct", "", _backend), [], folder / "direct"))
        ports = {"direct": backend.port}
        for one in chosen:
            ports[one.name] = stack.enter_context(Running(one, [backend.port], folder / one.name)).port
        for size in BODIES.values():
            (folder / f"{size}.lua").write_text(SCRIPT % body_of(size))
        for number in range(args.rounds):
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
            for contender in random.Random(number).sample(list(ports), len(ports)):
                for name, size in BODIES.items():
                    for count in (1, args.connections):
                        said = _wrk(ports[contender], folder / f"{size}.lua", count, args.seconds)
                        found.append(Measured(contender, name, count, *parsed(said)))
    return found


def _wrk(port: int, script: Path, connections: int, seconds: int) -> str:
    words = ["-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script)]
    command = ["wrk", *words, f"http://127.0.0.1:{port}/api/generate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"wrk ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def table(found: Sequence[Measured], labels: dict[str, str]) -> Iterator[str]:
    most = max(m.connections for m in found)
    for body in BODIES:
        rounds = len([m for m in found if (m.contender, m.body, m.connections) == ("direct", body, 1)])
        yield f"\n{body} bodies, medians of {rounds} rounds; wrk, balancer and backend on {cores()} cores"
        yield f"{'':24}{'one connection':>26}{f'{most} connections':>40}"
        yield f"{'':24}{'p50':>12}{'over plain':>14}{'requests/s':>16}{'p50':>12}{'p99':>12}"
        plain = _median(found, "plain", body, 1, "p50")
        for name, label in labels.items():
            alone = _median(found, name, body, 1, "p50")
            over = "" if name in ("direct", "plain") else f"{(alone - plain) * 1e3:+.2f} ms"
            rate = _median(found, name, body, most, "rate")
            p50, p99 = (_median(found, name, body, most, what) for what in ("p50", "p99"))
            cells = f"{alone * 1e3:9.2f} ms{over:>14}{rate:16,.0f}{p50 * 1e3:9.2f} ms{p99 * 1e3:9.2f} ms"
            yield f"{label:24}{cells}"


def _median(found: Sequence[Measured], contender: str, body: str, connections: int, what: str) -> float:
    wanted = (contender, body, connections)
    values: list[float] = [getattr(m, what) for m in found if (m.contender, m.body, m.connections) == wanted]
    return statistics.median(values)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--json", metavar="FILE", type=Path)
    parser.add_argument("--page", metavar="FILE", type=Path, help="put the figures on this page")
    args = parser.parse_args()
    if shutil.which("wrk") is None:
        print("nothing is measured: wrk is not installed (Debian: wrk)", file=sys.stderr)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what we started ends with us
    chosen = []
    with tempfile.TemporaryDirectory() as folder:
        for one in ROUTING:
            if lacking := one.lacking(Path(folder) / one.name):
                print(f"{one.name} is left out: {lacking}", file=sys.stderr)
            else:
                chosen.append(one)
    found = measure(args, chosen)
    labels = {"direct": "no balancer", **{one.name: one.label for one in chosen}}
    text = "\n".join(table(found, labels)).strip()
    print(text)
    if args.page:
        put(args.page, "routing", text)
    if args.json:
        args.json.write_text(json.dumps({"version": 1, "runs": [asdict(m) for m in found]}) + "\n")


if __name__ == "__main__":
    main()
