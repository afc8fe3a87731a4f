"""What the monitor costs: memory and CPU of ogen-monitor.service on a testbed box, at an interval of 5 s.

    python benchmarks/monitor.py [--seconds 120] [--cards 2,8] [--page docs/monitoring.md]

A box per number of cards, one instance with a loaded model on each, provisioned and applied as any host.
Read is the service's main process, with the children that it waited for: CPU from /proc/PID/schedstat
(nanoseconds) and the children's from /proc/PID/stat, memory from VmRSS and VmHWM. NVML and nvidia-smi are the
testbed's stand-ins: what a real driver needs for its own part of a call is not in it. Needs root, as the
testbed does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from _page import put

ROOT = Path(__file__).resolve().parent.parent
TESTBED = ROOT / "tests/testbed/testbed"
LAB = "benchmon"
MARK = "benchmarks/monitor.py"
MEMORY, SHARE = 25.0, 0.5  # MB, and percent of a core: what the monitor may take
INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: key}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: 8192, replicas: fill}}
hosts:
  box: {{address: {address}, gpus: [{{model: RTX 3090, count: {cards}}}], monitoring: {{interval: 5s}}}}
"""
UNIT = "ogen-monitor.service"
LIBRARY = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"


@dataclass(frozen=True)
class Reading:
    """Of the service's main process."""

    pid: str
    cpu: float  # seconds, waited-for children included
    resident: float  # MB now
    most: float  # MB ever


def testbed(*args: str) -> str:
    env = {**os.environ, "TESTBED_LAB": LAB}
    done = subprocess.run([TESTBED, *args], env=env, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def sh(script: str) -> str:
    return testbed("exec", "box", "sh", "-c", script)


@contextmanager
def serving(cards: int) -> Iterator[None]:
    """A box with an applied release: an instance and a loaded model on each card."""
    testbed("down")
    try:
        gpus = ",".join(["24576:6000:35:61:210"] * cards)
        testbed("up", "box", "--gpus", gpus, "--ollama")
        sh("mkdir -p /var/lib/prometheus/node-exporter")
        address = testbed("list").split("\t")[1]
        with tempfile.TemporaryDirectory() as folder:
            lab = Path(testbed("dir").strip())
            key, inventory = Path(folder, "key"), Path(folder, "inventory.yaml")
            key.write_bytes((lab / "key").read_bytes())
            key.chmod(0o600)
            inventory.write_text(INVENTORY.format(address=address, cards=cards))
            env = {**os.environ, "OGEN_KNOWN_HOSTS": str(lab / "known_hosts")}
            for command in (("provision",), ("apply", "--yes")):
                call = [sys.executable, "-m", "ogen", command[0], str(inventory), *command[1:]]
                subprocess.run(call, env=env, check=True, capture_output=True)
        yield
    finally:
        testbed("down")


def read() -> Reading:
    script = (
        f"p=$(systemctl show -p MainPID --value {UNIT}); echo $p; cut -d' ' -f1 /proc/$p/schedstat; "
        "grep -E 'VmRSS|VmHWM' /proc/$p/status | tr -dc '0-9\\n'; "
        "sed 's/.*) //' /proc/$p/stat | cut -d' ' -f14,15"
    )
    pid, spent, most, resident, children = sh(script).splitlines()
    ticks = sum(map(int, children.split())) / os.sysconf("SC_CLK_TCK")
    return Reading(pid, int(spent) / 1e9 + ticks, int(resident) / 1024, int(most) / 1024)


def lines() -> int:
    return int(sh("wc -l </var/log/ogen/monitor/cards.csv"))


def measure(name: str, cards: int, seconds: float) -> tuple[str, bool]:
    """A line of the table, and whether it is within the bounds."""
    while not int(
        sh(f"cat /proc/$(systemctl show -p MainPID --value {UNIT})/comm 2>/dev/null | grep -c python || :")
    ):
        time.sleep(0.2)
    time.sleep(10)  # its start is not what it costs
    before, had, begun = read(), lines(), time.monotonic()
    time.sleep(seconds)
    after, spent = read(), time.monotonic() - begun
    rounds = (lines() - had) / cards
    if after.pid != before.pid or not rounds:
        raise SystemExit("the monitor did not run all the time")
    share = 100 * (after.cpu - before.cpu) / spent
    each = 1000 * (after.cpu - before.cpu) / rounds
    line = (
        f"{name:12} {cards:5} {after.resident:7.1f} {after.most:7.1f} {share:9.3f} {each:9.2f} {rounds:7.0f}"
    )
    return line, after.most < MEMORY and share < SHARE


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--cards", default="2,8")
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()
    head = "figures by   cards  RSS MB  most MB    % core  ms/round  rounds"
    table, well = [head], True
    for cards in map(int, args.cards.split(",")):
        with serving(cards):
            for name, prepare in (
                ("NVML", "true"),
                ("nvidia-smi", f"umount {LIBRARY} 2>/dev/null; mv {LIBRARY} {LIBRARY}.away"),
            ):
                sh(f"{prepare}; systemctl restart {UNIT}")
                line, within = measure(name, cards, args.seconds)
                well = well and (within or name != "NVML")
                table.append(line)
                print(line if len(table) > 2 else f"{head}\n{line}", flush=True)
    table.append(f"at most {MEMORY:g} MB and {SHARE:g} % of a core by NVML: {'yes' if well else 'NO'}")
    print(table[-1])
    if args.page:
        put(args.page, MARK, "\n".join(table))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
