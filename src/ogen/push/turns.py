"""Who may load models now: a registry, and the line to it, are shared by the whole fleet."""

from __future__ import annotations

import threading
from collections.abc import Callable

BEAT = 15.0  # seconds between words to an agent that waits, which gives us up after 60


class Turns:
    """At most `count` hosts at once; the others wait, in no order that is promised."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = threading.Semaphore(count)
        self._lock = threading.Lock()
        self._held: set[object] = set()

    def take(self, who: object, tell: Callable[[str], None], beat: Callable[[], None]) -> None:
        """Returns when `who` may load; `beat` is called while that takes long."""
        with self._lock:
            if who in self._held:
                return
        if not self._free.acquire(blocking=False):
            hosts = "1 host loads" if self.count == 1 else f"{self.count} hosts load"
            tell(f"waits for its turn: {hosts} models at once (rollout.downloads)")
            while not self._free.acquire(timeout=BEAT):
                beat()
        with self._lock:
            self._held.add(who)

    def end(self, who: object) -> None:
        """That it has loaded, or will not; nothing where it had no turn."""
        with self._lock:
            if who not in self._held:
                return
            self._held.discard(who)
        self._free.release()
