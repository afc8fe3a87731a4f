"""The benchmark of push: it runs, verifies what it times, and counts ogen's round trips within their bar."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "push.py"


def test_round_trips_of_a_push_and_of_nothing_to_do(tmp_path: Path, need: Any) -> None:
    need("sshd")
    file = tmp_path / "found.json"
    words = ["--hosts", "2", "--rounds", "1", "--delay", "10", "--only", "ogen,ssh+tar", "--json", str(file)]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *words], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "2 hosts, 10 ms round trip, 1 rounds" in done.stdout
    found, counted = json.loads(file.read_text())["settings"]
    assert set(found["runs"]["ogen"]) == {"W1", "W2", "W3"}
    assert set(found["runs"]["ssh+tar"]) == {"W1", "W2"}
    trips = {work: runs[0]["trips"] for work, runs in counted["runs"]["ogen"].items()}
    assert 5 < trips["W2"] <= 10
    assert trips["W2"] < trips["W1"] <= 11
