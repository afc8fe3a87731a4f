"""From a bare box to a serving one: ogen, and ansible-playbook with what `ogen export ansible` writes.

python benchmarks/provision.py [--rounds 3]

Each round boots two fresh boxes of the testbed (root, systemd-container) with the same inventory but for the
address, and runs each step on both, in turns; who begins changes with each round. Ansible pipelines over a
connection that it keeps. What each tool reports is verified: a first run changes, a second one does not.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "e2e"))

from ansibled import Exported
from cluster import Project
from lab import lab
from test_provision import archive

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: {key}}}
ollama: {{version: 0.32.15, source: {{file: "dist/ollama-{{version}}.tar.zst"}}}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: {context}}}
hosts:
  box: {{address: ADDRESS, gpus: [{{model: RTX 3090, count: 2}}]}}
balancers:
  api: {{hosts: [box], listen: 8080, gate: true}}
"""
STEPS = ("provision", "provision again", "apply", "apply again", "apply a change")
TOOLS = ("ogen", "ansible")
Times = dict[tuple[str, str], list[float]]


def write(project: Project, address: str, context: int) -> None:
    project.write(INVENTORY.replace("ADDRESS", address), context=context)


def by_ogen(project: Project, step: str) -> bool:
    """One step by ogen; whether it reports a change."""
    words = ["provision"] if step.startswith("provision") else ["apply", "--yes"]
    found = json.loads(project.ogen(*words, "--format", "json").stdout)["hosts"]
    return [host["status"] for host in found] != ["unchanged"]


def by_ansible(exported: Exported, step: str) -> bool:
    return bool(exported.play("provision" if step.startswith("provision") else "apply") != {"box": 0})


def measured(times: Times, tool: str, step: str, work: Callable[[], bool]) -> None:
    begun = time.perf_counter()
    changed = work()
    times[tool, step].append(time.perf_counter() - begun)
    if changed == step.endswith("again"):
        raise SystemExit(f"{tool}, {step}: changed is {changed}")


def round_of(number: int, times: Times) -> None:
    with tempfile.TemporaryDirectory(prefix="ogen.") as top, lab("benchprov") as made:
        made.up(*TOOLS, gpus="24576,24576")
        projects = {name: Project(made, Path(top, name), boxes=()) for name in TOOLS}
        for name, project in projects.items():
            (project.folder / "dist").mkdir(parents=True)
            archive(project.folder / "dist", "0.32.15")
            write(project, made.address(name), 8192)
        exported = Exported(projects["ansible"], Path(top, "export"))
        exported.export()
        for step in STEPS:
            if step == "apply a change":
                for name, project in projects.items():
                    write(project, made.address(name), 4096)
                exported.export()
            for tool in TOOLS[:: 1 if number % 2 else -1]:
                work = (
                    (lambda step=step: by_ogen(projects["ogen"], step))
                    if tool == "ogen"
                    else (lambda step=step: by_ansible(exported, step))
                )
                measured(times, tool, step, work)


def table(times: Times, rounds: int) -> str:
    lines = [f"{'':16} {'ogen':>8} {'ansible':>8} {'ratio':>7}   seconds, medians of {rounds} rounds"]
    for step in STEPS:
        ours, theirs = (statistics.median(times[tool, step]) for tool in TOOLS)
        lines.append(f"{step:16} {ours:8.1f} {theirs:8.1f} {theirs / ours:7.1f}")
    return re.sub(r" +$", "", "\n".join(lines), flags=re.M)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    times: Times = {(tool, step): [] for tool in TOOLS for step in STEPS}
    for number in range(1, rounds + 1):
        round_of(number, times)
        print(f"round {number} of {rounds} done", file=sys.stderr, flush=True)
    print(table(times, rounds))


if __name__ == "__main__":
    main()
