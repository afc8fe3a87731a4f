"""Reads a box back, without the agent's code: what is in force, whether it is whole, what is left over."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lab import Lab

_SCRIPT = Path(__file__).with_name("readback_box.py").read_text()


@dataclass(frozen=True)
class Reading:
    """`wrong`: what is not as the release in force says. `last`: the journal's last record. `left`: files,
    links and releases that nobody needs. `busy`: units of a transaction. `failed`: of the whole machine."""

    current: str | None
    wrong: list[str]
    last: str
    left: list[str]
    busy: list[str]
    failed: list[str]
    pids: dict[str, str]

    @property
    def clean(self) -> bool:
        return not (self.wrong or self.left or self.busy or self.failed)


def read_back(lab: Lab, box: str) -> Reading:
    return Reading(**json.loads(lab.exec(box, "python3", "-S", "-c", _SCRIPT)))
