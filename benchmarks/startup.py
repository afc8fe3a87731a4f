"""Start-up: `ogen --version` and `ogen validate` of a small file, beside an empty Python, in turns.

python benchmarks/startup.py [--rounds 10]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parent.parent / "inventories" / "dual-3090.yaml"
CONTENDERS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "ogen --version": [sys.executable, "-m", "ogen", "--version"],
    "ogen validate": [sys.executable, "-m", "ogen", "validate", str(EXAMPLE)],
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds + 1):
        for name, command in CONTENDERS.items():
            begun = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times[name].append(time.perf_counter() - begun)
    print(f"{'':16} {'best':>8} {'median':>8}   seconds, {rounds} rounds after one to warm up")
    for name, all_ in times.items():
        counted = all_[1:]
        print(f"{name:16} {min(counted):8.3f} {statistics.median(counted):8.3f}")


if __name__ == "__main__":
    main()
