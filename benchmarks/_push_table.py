"""What was measured, as a table, and whether ogen is as quick as it says."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from _contenders import Floor
from _track import Run

SLACK = 0.2  # seconds: start of Python and its imports
TIMES = 2.5  # of the floor
TRIPS = {"W1": 11, "W2": 10}
MEMORY = 250e6  # bytes
EXPECTED = (("ansible-synchronize", 5), ("ansible-", 12), ("pyinfra-", 10))


@dataclass(slots=True)
class Setting:
    """What is measured at once: hosts, delay, and all runs by contender and work."""

    hosts: int
    delay: int  # ms
    runs: dict[str, dict[str, list[Run]]] = field(default_factory=dict)

    def median(self, name: str, work: str, what: str = "wall") -> float | None:
        found = self.runs.get(name, {}).get(work)
        return statistics.median(getattr(run, what) for run in found) if found else None

    def worst(self, name: str, work: str, what: str) -> int | None:
        found = [v for run in self.runs.get(name, {}).get(work, []) if (v := getattr(run, what)) is not None]
        return max(found, default=None)


def table(found: Setting, shows: Mapping[str, bool]) -> None:
    delay = f"{found.delay} ms round trip" if found.delay else "loopback"
    rounds = max(len(w["W1"]) for w in found.runs.values())
    print(
        f"\n{found.hosts} hosts, {delay}, {rounds} rounds: medians of wall / client CPU / far CPU in seconds"
    )
    print("×: wall of the contender by ogen's")
    print(f"{'':20}" + "".join(f"{work:>32}" for work in ("W1 first push", "W2 nothing to do", "W3 dry run")))
    for name, works in found.runs.items():
        cells = [_cell(found, name, work) for work in ("W1", "W2", "W3")]
        note = "" if shows[name] or "W3" not in works else "  (shows no diff)"
        print(f"{name:20}" + "".join(f"{cell:>32}" for cell in cells) + note)


def _cell(found: Setting, name: str, work: str) -> str:
    wall = found.median(name, work)
    if wall is None:
        return "–"
    client, far = found.median(name, work, "client"), found.median(name, work, "far")
    ours = found.median("ogen", work)
    times = f"{wall / ours:6.1f}×" if ours else ""
    return f"{wall:.2f} / {client:.2f} / {far:.2f}{times}"


def bars(found: Setting) -> list[str]:
    """Whether ogen is as quick as it says."""
    said = []
    for work in ("W1", "W2"):
        ours, floor = found.median("ogen", work), found.median(Floor.name, work)
        if ours and floor:
            bar = TIMES * floor + SLACK
            text = f"{work}: ogen {ours:.2f} s, bar {bar:.2f} s = {TIMES} × {floor:.2f} + {SLACK}"
            said.append((text, ours <= bar))
    peak = found.worst("ogen", "W1", "peak")
    if peak:
        said.append((f"memory of the controller: {peak / 1024:.0f} MiB, bar 250 MB", peak * 1024 < MEMORY))
    return [f"{_word(good)}  {text}" for text, good in said]


def _word(good: bool) -> str:
    return "holds " if good else "MISSED"


def expectations(found: Setting) -> list[str]:
    said = []
    for name in found.runs:
        least = next((times for prefix, times in EXPECTED if name.startswith(prefix)), None)
        for work in ("W1", "W2", "W3") if least else ():
            theirs, ours = found.median(name, work), found.median("ogen", work)
            if theirs and ours and least:
                word, times = _word(theirs >= least * ours), theirs / ours
                said.append(f"{word}  {work}: {times:.1f} × as fast as {name}, expected {least}")
    return said


def trips(found: Setting) -> list[str]:
    """Of the one connection of each contender."""
    said = []
    for name, works in found.runs.items():
        said.append(f"{name:20}" + "".join(f"  {work} {runs[0].trips}" for work, runs in works.items()))
    for work, most in TRIPS.items():
        ours = found.worst("ogen", work, "trips")
        if ours:
            said.append(f"{_word(ours <= most)}  {work}: {ours} round trips, bar {most}")
    return said
