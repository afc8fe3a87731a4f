"""What hosts do right now: one live line for each on a terminal, plain lines elsewhere. On stderr."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from . import console, terminal

if TYPE_CHECKING:
    from rich.console import Group

    from ..push.results import Event


class Progress(Protocol):
    """Takes events from any thread, between enter and exit."""

    def __enter__(self) -> Progress: ...

    def __exit__(self, *_: Any) -> None: ...

    def __call__(self, event: Event) -> None: ...


def progress(hosts: int, *, looking: bool = False) -> Progress:
    """What suits stderr, for work on `hosts` hosts; mere looking is told on terminals only."""
    if console.colourful(sys.stderr):
        return Live(hosts)
    return Silent() if looking else Lines()


class Silent:
    """Tells nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def __call__(self, event: Event) -> None:
        pass


class Lines:
    """A line whenever a host says something new; percentages only by quarters."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, tuple[str, str, int]] = {}

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: Any) -> None:
        sys.stderr.flush()

    def __call__(self, event: Event) -> None:
        quarter = -1 if event.percent is None else int(event.percent // 25)
        word = (event.phase, event.message, quarter)
        with self._lock:
            if self._last.get(event.host) == word:
                return
            self._last[event.host] = word
            console.say(f"{event.host}: {told(event)}" if event.host else f"-- {told(event)}")


class Live:
    """One line for each host at work, and how many are done."""

    def __init__(self, hosts: int) -> None:
        from rich.console import Console
        from rich.live import Live as Screen

        self._hosts = hosts
        self._lock = threading.Lock()
        self._now: dict[str, tuple[Event, float]] = {}
        self._done: set[str] = set()
        self._place = ""  # in the rollout: "expand: batch 2 of 3"
        stderr = Console(stderr=True)
        self._room = max(3, stderr.height - 3)
        self._screen = Screen(
            get_renderable=self._shown, console=stderr, refresh_per_second=8, transient=True
        )

    def __enter__(self) -> Live:
        self._screen.__enter__()
        terminal.occupy(self._screen)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        terminal.leave(self._screen)
        self._screen.__exit__(kind, error, trace)

    def __call__(self, event: Event) -> None:
        with self._lock:
            if not event.host:
                self._place = told(event)
            elif event.phase == "done":
                self._now.pop(event.host, None)
                self._done.add(event.host)
            else:
                since = self._now.get(event.host, (event, time.monotonic()))[1]
                self._now[event.host] = (event, since)

    def _shown(self) -> Group:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        with self._lock:
            rows, done, place = sorted(self._now.items()), len(self._done), self._place
        table = Table.grid(padding=(0, 1))
        for name, (event, since) in rows[: self._room]:
            spent = f"{time.monotonic() - since:.0f} s"
            spin = Spinner("dots", style="cyan")
            part = Text("") if event.percent is None else ProgressBar(100, event.percent, width=12)
            table.add_row(spin, Text(console.safe(name), "bold"), Text(spent, "dim"), Text(told(event)), part)
        more = len(rows) - self._room
        rest = f", {more} more at work" if more > 0 else ""
        head = f"{place}; " if place else ""
        return Group(table, Text(f"{head}{done} of {console.count(self._hosts, 'host')} done{rest}", "dim"))


def told(event: Event) -> str:
    """An event on one line; how a host ended, and what is about the whole rollout, is its message alone."""
    text = f"{event.phase}: {event.message}" if event.message else event.phase
    if not event.host or (event.phase == "done" and event.message):
        text = event.message
    if event.percent is not None:
        text += f" {event.percent:.0f} %"
    return " ".join(console.safe(text).split())
