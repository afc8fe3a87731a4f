"""What is asked and tried once for a whole fleet: words typed by a person, and passwords' verdicts.

A wrong password must cost one failure on one host: whoever uses a password first goes alone, the others
wait for what becomes of it, and after a refusal nobody else sends it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
Ask = Callable[[str], "str | None"]  # from the question to what was typed; None: the person gave nothing
PATIENCE = 300.0  # seconds for another host's verdict; a person may be typing meanwhile


class Once:
    """Makes each thing once: the first thread that needs it works, the others wait for the same result."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[Hashable, threading.Lock] = {}
        self._made: dict[Hashable, Any] = {}

    def __call__(self, key: Hashable, make: Callable[[], T]) -> T:
        with self._lock:
            own = self._locks.setdefault(key, threading.Lock())
        with own:
            if key not in self._made:
                self._made[key] = make()
            made: T = self._made[key]
            return made


@dataclass(slots=True)
class Trial:
    """What is known of one password; `refused_by` names the host that did not take it."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    accepted: bool = False
    refused_by: str | None = None

    def refuse(self, host: str) -> None:
        """A verdict for all, unless the password was right elsewhere: then it is this host's own affair."""
        if not self.accepted:
            self.refused_by = host


class Trials:
    """All passwords in use, by what they are for, whose they are, and their text."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str, bytes], Trial] = {}

    @contextmanager
    def trial(self, kind: str, user: str, word: str) -> Iterator[Trial]:
        """Until the password was accepted somewhere, one host at a time is in here.

        Look at `refused_by` first: it is set where another host refused the same password. Else try it,
        and set `accepted` or `refused_by`; neither of them if the host gave no verdict.
        """
        with self._lock:
            found = self._known.setdefault((kind, user, word.encode()), Trial())
        held = not found.accepted and found.turn.acquire(timeout=PATIENCE)
        if held and (found.accepted or found.refused_by):
            found.turn.release()
            held = False
        try:
            yield found
        finally:
            if held:
                found.turn.release()
