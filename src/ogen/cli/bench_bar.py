"""How far a load run is: a bar on a terminal, a line for each step elsewhere. On stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol

from . import console

if TYPE_CHECKING:
    from ..observe.bench_load import Bounds


class Bar(Protocol):
    def __enter__(self) -> Bar: ...

    def __exit__(self, *_: Any) -> None: ...

    def step(self, name: str, bounds: Bounds) -> None:
        """Another run begins."""

    def __call__(self, seconds: float, answered: int, failed: int) -> None:
        """So much of it is done."""


def bar() -> Bar:
    return Live() if console.colourful(sys.stderr) else Lines()


class Lines:
    """Says what begins."""

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: Any) -> None:
        sys.stderr.flush()

    def step(self, name: str, bounds: Bounds) -> None:
        console.say(f"{name} …")

    def __call__(self, seconds: float, answered: int, failed: int) -> None:
        pass


class Live:
    """Drawn when it is told something, by the thread that tells: another one would disturb the load."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, told="")
        self._bounds: Bounds | None = None

    def __enter__(self) -> Live:
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    def step(self, name: str, bounds: Bounds) -> None:
        self._bounds = bounds
        self._progress.update(self._task, description=console.safe(name), total=1.0, completed=0.0, told="")
        self._progress.refresh()

    def __call__(self, seconds: float, answered: int, failed: int) -> None:
        ended = answered + failed
        told = f"{answered} answered, {answered / max(seconds, 1e-9):.1f}/s"
        told += f", {failed} failed" if failed else ""
        self._progress.update(self._task, completed=self._share(seconds, ended), told=told)
        self._progress.refresh()

    def _share(self, seconds: float, ended: int) -> float:
        bounds = self._bounds
        by_count = ended / bounds.requests if bounds and bounds.requests else 0.0
        by_time = seconds / bounds.seconds if bounds and bounds.seconds else 0.0
        return min(1.0, max(by_count, by_time))
