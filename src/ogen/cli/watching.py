"""A rollout under the eyes of whoever started it: Ctrl-C once, and twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import console, fleet

if TYPE_CHECKING:
    from ..push import Options


class _Enough(BaseException):
    """The second Ctrl-C."""


def watched(work: Callable[[], object], options: Options) -> bool:
    """Runs `work` until it ends; False if the watching ended first, while `work` goes on in its thread.

    This thread does nothing but wait, so a signal interrupts neither output nor a lock. What `work`
    raises is raised here.
    """
    ended, raised = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)
        finally:
            ended.set()

    def enough() -> None:
        raise _Enough

    with fleet.interruptible(options, enough):
        threading.Thread(target=run, name="rollout", daemon=True).start()
        try:
            ended.wait()
        except _Enough:
            console.say("no longer watching; every host ends its own transaction")
            return False
    if raised:
        raise raised[0]
    return True
