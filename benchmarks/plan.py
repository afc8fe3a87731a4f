"""Placement: 200 replicas over 100 hosts of mixed cards, and fleets of 10 to 1,000 hosts of 8 cards.

    python benchmarks/plan.py [--rounds 5]

Inventories are loaded before the clock starts; the fleets take turns; medians of the CPU time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from ogen.inventory import load
from ogen.inventory.model import Inventory
from ogen.plan import Plan, lock, plan

KINDS = ("RTX 3060", "RTX 3070", "RTX 3090", "RTX 4070 Ti SUPER", "A100 80GB")
MIXED = """\
  tiny: {from: "llama3.2:3b", context: 4096, replicas: 60}
  chat: {from: "llama3.1:8b", context: {want: 16384, at_least: 4096}, replicas: 60}
  writer: {from: "mistral:7b", context: 8192, replicas: 40}
  coder: {from: "qwen2.5-coder:7b", context: 8192, replicas: 30}
  large: {from: "qwen2.5:32b", context: 4096, replicas: 10}
"""
FILL = """\
  chat: {from: "llama3.1:8b", context: {want: 16384, at_least: 4096}, replicas: fill}
"""


def fleet(hosts: int, cards: int, models: str) -> Inventory:
    """An inventory whose hosts hold cards of several kinds."""
    lines = ["version: 1", "models:", models.rstrip(), "hosts:"]
    for number in range(hosts):
        kinds = ", ".join(f"{{model: {KINDS[(number + card) % len(KINDS)]}}}" for card in range(cards))
        address = f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"
        lines.append(f"  h{number}: {{address: {address}, gpus: [{kinds}]}}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "inventory.yaml"
        file.write_text("\n".join(lines) + "\n")
        return load(file)


def seconds(inventory: Inventory) -> tuple[float, Plan]:
    begun = time.process_time()
    found = plan(inventory)
    return time.process_time() - begun, found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    fleets = {"200 replicas, 100 hosts x 4": fleet(100, 4, MIXED)}
    fleets |= {f"fill, {hosts} hosts x 8": fleet(hosts, 8, FILL) for hosts in (10, 100, 1000)}
    largest = fleets["fill, 1000 hosts x 8"]
    fleets["the last, with its lock"] = replace(largest, lock=lock(largest, plan(largest)))
    times: dict[str, list[float]] = {name: [] for name in fleets}
    placed: dict[str, int] = {}
    for _ in range(rounds):
        for name, inventory in fleets.items():
            took, found = seconds(inventory)
            times[name].append(took)
            placed[name] = sum(len(i.placements) for h in found.hosts for i in h.instances)
    print(f"{'':28} {'placed':>7} {'best':>8} {'median':>8}   seconds of CPU, {rounds} rounds")
    for name, all_ in times.items():
        print(f"{name:28} {placed[name]:7} {min(all_):8.3f} {statistics.median(all_):8.3f}")


if __name__ == "__main__":
    main()
