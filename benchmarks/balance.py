"""Strategies of balancing side by side, against the computed ideal: real nginx before stand-in instances.

    python benchmarks/balance.py [--quick] [--seeds 5] [--seconds 100] [--servers 2,4,8]
                                 [--only gate,least_conn] [--json FILE] [--from FILE]
                                 [--plot docs/balance.svg] [--page docs/balancing.md]

Instances serve one request at a time and stream the answer; services are lognormal with a mean of 300 ms and
a coefficient of variation of 1.3, and every request carries its own, so that each strategy sees the same
trace. Requests come as a Poisson process at a load of 0.8, whatever has become of earlier ones, from 40
clients in one /24. Every strategy has its own nginx and its own instances; all run at the same time, so that
what else the machine does hits all of them alike. The ideal is one queue for all instances, computed from the
trace. Each trace begins and ends with idle instances, and nothing of it is left out.

Then all requests of a batch at once, on one instance and on two.

Needs nginx with the njs and Lua modules; a strategy that lacks one is named and left out. --plot needs
matplotlib (pip install -e '.[bench]'). --from draws and prints an earlier --json again.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from _balance_table import (
    MEAN,
    RHO,
    Found,
    Run,
    bars,
    burst_table,
    burst_trace,
    disturbed,
    load,
    steady_trace,
    table,
)
from _balancers import STRATEGIES, Running, Strategy
from _instances import Instances
from _load import Job, Machine, cores, play
from _page import put
from _trace import Trace, percentile

BURST = ("gate", "least_conn", "usual")
STAGGER = 0.003  # seconds between the strategies: not all send in the same millisecond
APART = 0.4  # seconds between bursts
Cell = tuple[Strategy, int, int, Trace]  # strategy, servers, seed


def measure(cells: Sequence[Cell], apart: float, grace: float) -> tuple[list[Run], dict[str, float]]:
    """All cells at once, each with its own nginx and instances."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ogen-")))
        folder.chmod(0o755)
        instances = Instances(sum(servers for _, servers, _, _ in cells))
        stack.enter_context(instances)
        ports, jobs, first = instances.ports, [], 0
        for number, (strategy, servers, _, trace) in enumerate(cells):
            running = Running(strategy, ports[first : first + servers], folder / str(number))
            port = stack.enter_context(running).port
            jobs.append(Job(port, trace, number * apart))
            first += servers
        machine = play(jobs, grace)
    runs, first = [], 0
    for job, (strategy, servers, seed, _) in zip(jobs, cells, strict=True):
        run = Run(strategy.name, servers, seed, _rounded(job), job.unfinished)
        run.served = instances.served[first : first + servers]
        first += servers
        runs.append(run)
    return runs, _machine(machine, instances)


def _rounded(job: Job) -> list[float | None]:
    found = (job.latencies[index] for index in range(len(job.trace)))
    return [None if value is None else round(value, 4) for value in found]


def _machine(machine: Machine, instances: Instances) -> dict[str, float]:
    sent, ended = machine.late or [0.0], instances.late or [0.0]
    return {
        "cores": cores(),
        "busy": machine.busy,
        "sent_p99": percentile(sent, 0.99),
        "sent_max": sent[-1],
        "ended_p99": percentile(ended, 0.99),
        "ended_max": ended[-1],
    }


def measure_all(args: argparse.Namespace, chosen: Sequence[Strategy]) -> Found:
    found = Found(args.seconds, args.burst, args.grace, {one.name: one.label for one in chosen})
    sizes = [int(word) for word in args.servers.split(",")]
    for seed in range(args.seeds):
        print(f"seed {seed + 1} of {args.seeds}: {args.seconds:g} s of arrivals", file=sys.stderr)
        traces = {servers: steady_trace(seed, servers, args.seconds) for servers in sizes}
        cells = [(one, servers, seed, traces[servers]) for servers in sizes for one in chosen]
        runs, machine = measure(cells, STAGGER, args.grace)
        found.steady += runs
        found.machine.append(machine)
    if args.burst:
        print(f"{args.burst} at once: about {args.burst * MEAN:.0f} s", file=sys.stderr)
        cells = [
            (one, servers, seed, burst_trace(seed, args.burst))
            for seed in range(args.seeds)
            for one in chosen
            if one.name in BURST
            for servers in (1, 2)
        ]
        found.bursts, machine = measure(cells, APART, args.grace + args.burst * MEAN)
        found.machine.append(machine)
    return found


def report(found: Found) -> str:
    lines = [f"load {RHO}, services of {MEAN * 1e3:.0f} ms; seconds, and each seed's by its ideal's"]
    for servers in found.sizes:
        lines += ["", *table(found, servers)]
    if found.bursts:
        lines += ["", *burst_table(found)]
    return "\n".join([*lines, "", *bars(found), *disturbed(found)])


def _chosen(only: str) -> list[Strategy]:
    words = only.split(",") if only else list(STRATEGIES)
    if unknown := set(words) - set(STRATEGIES):
        raise SystemExit(f"--only: no {', '.join(sorted(unknown))}; there are {', '.join(STRATEGIES)}")
    chosen = []
    with tempfile.TemporaryDirectory() as folder:
        for one in (STRATEGIES[word] for word in words):
            if lacking := one.lacking(Path(folder) / one.name):
                print(f"{one.name} is left out: {lacking}", file=sys.stderr)
            else:
                chosen.append(one)
    return chosen


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a look in a minute: one short seed")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--seconds", type=float, help="of arrivals, for each seed")
    parser.add_argument(
        "--grace", type=float, help="seconds after the last arrival; then the rest is cut off"
    )
    parser.add_argument("--burst", type=int, help="requests at once; 0 for none")
    parser.add_argument("--servers", default="2,4,8", help="numbers of instances, by commas")
    parser.add_argument("--only", default="", help=f"of {', '.join(STRATEGIES)}")
    parser.add_argument("--json", metavar="FILE", type=Path)
    parser.add_argument("--from", metavar="FILE", type=Path, dest="earlier")
    parser.add_argument("--plot", metavar="FILE", type=Path)
    parser.add_argument("--page", metavar="FILE", type=Path, help="put the figures on this page")
    args = parser.parse_args()
    usual = {"seeds": (1, 5), "seconds": (25.0, 100.0), "grace": (8.0, 20.0), "burst": (40, 100)}
    for name, (quick, full) in usual.items():
        if getattr(args, name) is None:
            setattr(args, name, quick if args.quick else full)
    return args


def main() -> None:
    args = _arguments()
    if args.plot and find_spec("matplotlib") is None:
        raise SystemExit("--plot needs matplotlib: pip install -e '.[bench]'")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what we started ends with us
    if args.earlier:
        found = load(json.loads(args.earlier.read_text()))
    else:
        found = measure_all(args, _chosen(args.only))
    if args.json:
        args.json.write_text(json.dumps(found.json()) + "\n")
    print(report(found))
    if args.page:
        put(args.page, "balance", report(found))
    if args.plot:
        from _balance_plot import draw

        draw(found, args.plot)


if __name__ == "__main__":
    main()
