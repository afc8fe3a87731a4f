"""Looks at hosts that a person may leave at any time: Ctrl-C need not wait for the slowest host."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from .exits import Exit

T = TypeVar("T")
_NAME = "look"


def result(work: Callable[[], T]) -> T:
    """What `work` returns or raises; it runs in a thread of its own, so that Ctrl-C comes through at once."""
    ended, made, raised = threading.Event(), list[T](), list[BaseException]()

    def run() -> None:
        try:
            made.append(work())
        except BaseException as error:
            raised.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=run, name=_NAME, daemon=True)
    thread.start()
    ended.wait()
    thread.join()
    if raised:
        raise raised[0]
    return made[0]


def leave() -> Exit:
    """After Ctrl-C: the exit code; the program ends here and now where a thread still looks."""
    sys.stdout.flush()
    sys.stderr.flush()
    if any(thread.name == _NAME for thread in threading.enumerate()):
        os._exit(Exit.INTERRUPTED)
    return Exit.INTERRUPTED
