"""What may be in the way of ogen's instances: other Ollama servers, and who held the cards before now."""

from __future__ import annotations

import csv
import datetime
import os
import re
import time
from typing import Any, Dict, List, Sequence

from .look_cards import unit_of
from .machine import Machine

Seen = Dict[str, Any]
MONITOR = "/var/log/ogen/monitor/cards.csv"
READ = 8 * 1024 * 1024  # bytes of the monitor's end: a day of two cards
TOLD = ("CUDA_VISIBLE_DEVICES", "OLLAMA_HOST", "OLLAMA_MODELS")
_LISTENER = re.compile(r":(\d+)\s+\S+\s+users:\(\((.*)\)\)")
_PID = re.compile(r"pid=(\d+)")


def servers(machine: Machine, listeners: Sequence[str]) -> List[Seen]:
    """Programs that are `ollama serve`, listen, and are no unit of ogen's."""
    found: Dict[int, Seen] = {}
    for line in listeners:
        listener = _LISTENER.search(line)
        for pid in map(int, _PID.findall(listener.group(2)) if listener else ()):
            unit = unit_of(str(pid))
            if pid not in found and not unit.startswith("ogen-") and _serves(pid):
                said = machine.environment(pid)
                told = {name: said[name][:200] for name in TOLD if name in said}
                assert listener is not None
                found[pid] = {"pid": pid, "port": int(listener.group(1)), "unit": unit, "env": told}
    return list(found.values())


def _serves(pid: int) -> bool:
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            words = file.read(4096).decode("utf-8", "replace").split("\0")
    except OSError:
        return False
    return "serve" in words and any(os.path.basename(word) == "ollama" for word in words)


# ------------------------------------------------------------------------------- the monitor's file
def peaks(age: float, path: str = MONITOR) -> Dict[str, List[float]]:
    """By UUID when a card held most memory in the last `age` seconds, and how many bytes that were."""
    start = datetime.datetime.fromtimestamp(time.time() - age + 1.0, datetime.timezone.utc)
    since = start.strftime("%Y-%m-%dT%H:%M:%SZ")  # as the monitor writes it, so that text compares
    found: Dict[str, List[Any]] = {}
    for row in csv.reader(_tail(path)):
        if len(row) < 7 or row[0] < since or not row[4].isdigit():
            continue
        if row[2] not in found or int(row[4]) > found[row[2]][1]:
            found[row[2]] = [row[0], int(row[4])]
    return {uuid: [_stamp(when), used] for uuid, (when, used) in found.items()}


def _tail(path: str) -> List[str]:
    """Whole lines of the file's end; rotation leaves a short file, and then that is all that is told."""
    try:
        with open(path, "rb") as file:
            skipped = max(0, os.fstat(file.fileno()).st_size - READ)
            file.seek(skipped)
            lines = file.read(READ).decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return lines[1:] if skipped else lines


def _stamp(text: str) -> float:
    try:
        return (
            datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
            .replace(tzinfo=datetime.timezone.utc)
            .timestamp()
        )
    except ValueError:
        return 0.0
