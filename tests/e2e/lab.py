"""A lab of throw-away boxes for end-to-end tests: up, exec, ssh details, down whatever happens."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTBED = Path(__file__).resolve().parents[1] / "testbed" / "testbed"


def until(true: Callable[[], Any], seconds: float = 30.0, what: str = "it") -> None:
    """Waits until it is, for so many seconds at most."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.2)


@dataclass
class Lab:
    """One testbed lab; `name` must be unique among labs that run at once."""

    name: str
    env: dict[str, str] = field(default_factory=dict)

    def tool(self, *args: str, check: bool = True, timeout: float = 300) -> str:
        env = {**os.environ, "TESTBED_LAB": self.name, **self.env}
        done = subprocess.run(
            [str(TESTBED), *args], env=env, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"testbed {' '.join(args)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def up(self, *names: str, gpus: str | None = None, ollama: bool = False, python: bool = True) -> None:
        args = ["up", *names]
        args += ["--gpus", gpus] if gpus else []
        args += ["--ollama"] if ollama else []
        args += [] if python else ["--no-python"]
        self.tool(*args)

    def down(self) -> None:
        self.tool("down", check=False)

    def exec(self, box: str, *command: str, check: bool = True, timeout: float = 120) -> str:
        """Runs a command as root in the box, without ssh."""
        return self.tool("exec", box, *command, check=check, timeout=timeout)

    def sh(self, box: str, script: str, check: bool = True, timeout: float = 120) -> str:
        return self.exec(box, "sh", "-c", script, check=check, timeout=timeout)

    @property
    def folder(self) -> Path:
        return Path(self.tool("dir").strip())

    @property
    def key(self) -> Path:
        return self.folder / "key"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def address(self, box: str) -> str:
        for line in self.tool("list").splitlines():
            name, address, _state = line.split("\t")
            if name == box:
                return address
        raise AssertionError(f"no such box: {box}")

    def write(self, box: str, path: str, text: str) -> None:
        """Puts a small file into a box."""
        quoted = text.replace("'", "'\\''")
        self.sh(box, f"mkdir -p $(dirname '{path}') && printf %s '{quoted}' >'{path}'")


@contextmanager
def lab(name: str, boxes: Sequence[tuple[str, dict[str, object]]] = ()) -> Iterator[Lab]:
    """`boxes`: names with the arguments of `Lab.up`. The lab is removed at the end."""
    made = Lab(name)
    made.down()
    try:
        for box, options in boxes:
            made.up(box, **options)  # type: ignore[arg-type]
        yield made
    finally:
        made.down()
