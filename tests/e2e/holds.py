"""Holds the real agent in a box at one exact step, from outside: by an audit hook of the box's Python.

The box gets a module that Python's `site` imports at every start, `-I` included. In a process of the agent
it waits for the armed step (an audit event: this file is opened, that command is started), says so in
/run/faults/held, and goes on when /run/faults/go is there, unless somebody killed it meanwhile. Each armed
step holds once. Nothing of this is in ogen, and a power cut forgets it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from lab import Lab

PYTHON = "/usr/local/bin/python3"  # found before /usr/bin's, also by sudo
#: the session's agent runs without the site module, which would load the .pth file: here it runs with it
WITH_SITE = """\
#!/bin/sh
for word; do
    shift
    [ "$word" = -S ] || set -- "$@" "$word"
done
exec /usr/bin/python3 "$@"
"""
PACKAGES = "/usr/local/lib/python3.11/dist-packages"

_HOOK = Path(__file__).with_name("holds_box.py").read_text()


@dataclass(frozen=True)
class Point:
    """An audit event of a process of the agent (session, service, recover) whose arguments hold `words`.

    The `nth` one counts; the event "start" is the process itself, before it does anything.
    """

    process: str
    event: str
    words: tuple[str, ...] = ()
    nth: int = 1


class Holds:
    """The hook of one box."""

    def __init__(self, lab: Lab, box: str) -> None:
        self.lab = lab
        self.box = box

    def install(self) -> None:
        self.lab.write(self.box, f"{PACKAGES}/faults_hold.py", _HOOK)
        self.lab.write(self.box, f"{PACKAGES}/faults_hold.pth", "import faults_hold\n")
        self.lab.write(self.box, PYTHON, WITH_SITE)
        self.lab.sh(self.box, f"chmod 755 {PYTHON}")

    def arm(self, point: Point) -> None:
        self.clear()
        self.lab.write(self.box, "/run/faults/armed", json.dumps(asdict(point)))

    def clear(self) -> None:
        self.lab.sh(self.box, "mkdir -p /run/faults && rm -f /run/faults/*")

    def held(self, ended: Callable[[], bool], seconds: float = 60.0) -> int:
        """Waits for the step; the pid, in the box, of the process that is held there.

        `ended` tells that the apply is over and will never come to it.
        """
        wait = "timeout 3 sh -c 'until [ -s /run/faults/held ]; do sleep 0.05; done'; cat /run/faults/held"
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            over = ended()
            text = self.lab.sh(self.box, wait, check=False)
            if text.strip():
                return int(text)
            if over:
                break
        raise AssertionError("the agent never came to the step: " + self.lab.sh(self.box, "ls /run/faults"))

    def go(self) -> None:
        self.lab.sh(self.box, "mkdir -p /run/faults && touch /run/faults/go", check=False)
