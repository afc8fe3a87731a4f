"""A program at a pseudo-terminal, for tests of what is asked there."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Mapping


class Terminal:
    """A program at a pseudo-terminal, and what it shows."""

    def __init__(self, *command: str, env: Mapping[str, str] | None = None) -> None:
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=env, preexec_fn=_hears_ctrl_c
        )
        self.slave = slave
        self.shown = ""

    def until(self, text: str, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while text not in self.shown:
            if not select.select([self.master], [], [], max(0, end - time.monotonic()))[0]:
                self.process.kill()
                raise AssertionError(self.shown)
            self.shown += os.read(self.master, 4096).decode().replace("\r\n", "\n")

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def end(self, seconds: float = 30) -> int:
        """Its exit status, after all that it shows was read; the terminal is as it was before."""
        end = time.monotonic() + seconds
        while self.process.poll() is None or select.select([self.master], [], [], 0.1)[0]:
            if select.select([self.master], [], [], 0.1)[0]:
                self.shown += os.read(self.master, 4096).decode().replace("\r\n", "\n")
            assert time.monotonic() < end, self.shown
        assert termios.tcgetattr(self.slave) == self.before
        os.close(self.slave)
        os.close(self.master)
        return self.process.returncode


def _hears_ctrl_c() -> None:
    """Whoever runs the tests in the background has made them deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
