"""Secret words from the person at the terminal: not echoed, and not in the way of a live display."""

from __future__ import annotations

import os
import signal
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from . import console
from .vault import Vault

_one_at_a_time = threading.Lock()
_INTERRUPT, _END = b"\x03", b"\x04"


class Screen(Protocol):
    """A live display that can be taken away for a while."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


_screens: list[Screen] = []


def occupy(screen: Screen) -> None:
    """From now on `screen` is drawn on; a question waits for its turn."""
    _screens.append(screen)


def leave(screen: Screen) -> None:
    _screens.remove(screen)


def asker(vault: Vault) -> Callable[[str], str | None] | None:
    """Asks, from any thread; the answers are hidden from all output. None where nobody sits at a terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None

    def ask(question: str) -> str | None:
        with _one_at_a_time, _cleared():
            word = _read(question)
        if word:
            vault.hide(word)
        return word

    return ask


@contextmanager
def _cleared() -> Iterator[None]:
    away = list(_screens)
    for screen in away:
        screen.stop()
    try:
        yield
    finally:
        for screen in away:
            screen.start()


def _read(question: str) -> str | None:
    """One line without echo. Ctrl-C gives no answer, and is then what it always is."""
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    quiet = termios.tcgetattr(number)
    quiet[3] &= ~(termios.ECHO | termios.ISIG)
    quiet[6][termios.VEOL] = _INTERRUPT  # ends the line, so that it is read at once
    termios.tcsetattr(number, termios.TCSAFLUSH, quiet)  # first: who answers at once is not shown either
    try:
        sys.stderr.write(console.safe(question))
        sys.stderr.flush()
        line = os.read(number, 4096)
    finally:
        termios.tcsetattr(number, termios.TCSAFLUSH, before)
        sys.stderr.write("\n")
    if line.endswith(_INTERRUPT):
        os.kill(os.getpid(), signal.SIGINT)
        return None
    return line.rstrip(b"\r\n" + _END).decode("utf-8", "replace") or None
