"""Time and memory of the whole way from an inventory to releases: 10, 100, 1,000 hosts that differ.

    python benchmarks/compile.py [--rounds 3] [--sizes 10,100,1000]

Each measurement is a process of its own, and the sizes take turns, so that what else the machine does
hits all of them alike; medians are printed. Exit 1 when a bound is missed: 1,000 hosts of 8 cards in
15 s and 600 MB, and ten times the hosts in at most eleven times the time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAX_SECONDS = 15.0  # of the largest size
MAX_MB = 600.0
MAX_GROWTH = 11.0  # of the time, for ten times the hosts
STEPS = ("load", "plan", "render", "hash")

HEAD = """\
version: 1
ssh: {user: ops, become: true}
ollama: {version: 0.32.15, flash_attention: true}
models:
  chat:
    from: llama3.1:8b-instruct-q4_K_M
    context: {want: 16384, at_least: 4096}
    parallel: 2
    replicas: fill
    aliases: [gpt-4o-mini, "llama3.1:8b"]
    system: Answer briefly.
  coder:
    from: {Q5_K_M: qwen2.5-coder:32b-instruct-q5_K_M, Q4_K_M: qwen2.5-coder:32b-instruct-q4_K_M}
    context: 8192
    replicas: %d
groups:
  even: {gpus: [{model: RTX 3090, count: 8}], hosts: [%s]}
  odd: {gpus: [{model: L4, count: 8}], hosts: [%s], ollama: {version: 0.24.0}}
hosts:
  edge: {address: 10.255.0.1}
"""
TAIL = "balancers:\n  api: {hosts: [edge], listen: 8080, strategy: least_conn}\n"


def inventory(count: int) -> str:
    """`count` hosts of 8 cards: addresses, weights, cards, reserves, versions and variables differ."""
    names = [f"gpu{number:04d}" for number in range(count)]
    lines = []
    for number, name in enumerate(names):
        address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        values = [f"address: {address}", f"weight: {1 + number % 5}", f"env: {{BENCH_HOST: host-{number}}}"]
        if number % 7 == 0:
            values.append(f"gpus: {{{number % 8}: {{state: out, reason: fan}}}}")
        if number % 5 == 0:
            values.append(f"monitoring: {{interval: {5 + number % 20}s}}")
        lines.append(f"  {name}: {{{', '.join(values)}}}\n")
    head = HEAD % (max(1, count // 4), ", ".join(names[::2]), ", ".join(names[1::2]))
    return head + "".join(lines) + TAIL


def measure(path: Path) -> dict[str, float]:
    """Seconds of each step and the peak of memory, in this process."""
    from ogen.inventory import load
    from ogen.plan import plan
    from ogen.render import render

    marks = [time.perf_counter()]
    loaded = load(path)
    marks.append(time.perf_counter())
    planned = plan(loaded)
    marks.append(time.perf_counter())
    releases = render(planned)
    marks.append(time.perf_counter())
    assert len({release.id for release in releases}) == len(loaded.hosts), "hosts differ, and so do releases"
    marks.append(time.perf_counter())
    steps = {name: after - before for name, before, after in zip(STEPS, marks[:-1], marks[1:], strict=True)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1024 if sys.platform == "linux" else 1024 * 1024
    )
    return {**steps, "total": marks[-1] - marks[0], "mb": peak, "files": sum(len(r.files) for r in releases)}


def main() -> int:
    parser = argparse.ArgumentParser(description="time and memory from inventory to releases")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", default="10,100,1000")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return 0
    sizes = [int(size) for size in args.sizes.split(",")]
    runs: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            Path(folder, f"{size}.yaml").write_text(inventory(size))
        for _ in range(args.rounds):
            for size in sizes:
                command = [sys.executable, __file__, "--measure", str(Path(folder, f"{size}.yaml"))]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                runs[size].append(json.loads(done.stdout))
    return report(runs)


def report(runs: dict[int, list[dict[str, float]]]) -> int:
    """Prints medians as a table; 1 if a bound is missed."""
    columns = (*STEPS, "total", "mb", "files")
    print("hosts  " + "".join(f"{name:>9}" for name in columns) + "   (s; MB)")
    medians = {
        size: {name: statistics.median(run[name] for run in found) for name in columns}
        for size, found in runs.items()
    }
    for size, row in medians.items():
        figures = "".join(f"{row[name]:9.2f}" for name in (*STEPS, "total"))
        print(f"{size:<7}{figures}{row['mb']:9.0f}{row['files']:9.0f}")
    missed = []
    sizes = sorted(medians)
    for small, large in itertools.pairwise(sizes):
        growth = medians[large]["total"] / medians[small]["total"]
        allowed = MAX_GROWTH * large / small / 10
        print(f"{small} → {large} hosts: time ×{growth:.1f} (at most ×{allowed:.1f})")
        missed += [f"growth from {small} to {large}"] if growth > allowed else []
    last = medians[sizes[-1]]
    missed += ["time"] if last["total"] > MAX_SECONDS else []
    missed += ["memory"] if last["mb"] > MAX_MB else []
    print(
        f"missed: {', '.join(missed)}"
        if missed
        else f"within {MAX_SECONDS:.0f} s, {MAX_MB:.0f} MB and the growth"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
