"""`--events`: what a rollout does, as JSON lines while it does it.

    {"event": "start", "version": 1, "seconds": 0.0, "who": "ops@desk (apply 4f1c9a2b)", "hosts": […], …}
    {"event": "batch", "seconds": 0.4, "message": "expand: canary 1/12"}
    {"event": "host", "seconds": 0.5, "host": "gpu01", "phase": "models", "message": "…", "percent": 42.0}
    {"event": "end", "version": 1, "seconds": 9.1, "exit": 3, "hosts": […], "errors": […]}

`seconds` count from the start, on a clock that is never set. `hosts` and `errors` of the last line are those
of `--format json`. Like everything that is printed it shows no secret and no control characters.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import UsageError
from . import console

if TYPE_CHECKING:
    from ..push import Event, Options, Target


class Stream:
    """Lines to a file, to stdout (`-`), or nowhere (None). A reader that goes away stops no rollout."""

    def __init__(self, place: str | None) -> None:
        self._begun = time.monotonic()
        self._lock = threading.Lock()
        self.on_stdout = place == "-"
        self._file: BinaryIO | None = None
        if place is not None:
            try:
                self._file = sys.stdout.buffer if self.on_stdout else _opened(place)
            except OSError as error:
                raise UsageError(f"--events {place}: {(error.strerror or '').lower()}") from None

    def start(self, options: Options, targets: tuple[Target, ...]) -> None:
        names = [target.host.name for target in targets]
        self._line("start", version=1, who=options.who, git=options.git, hosts=names)

    def __call__(self, event: Event) -> None:
        if event.host:
            message = " ".join(event.message.split())
            self._line("host", host=event.host, phase=event.phase, message=message, percent=event.percent)
        else:
            self._line(event.phase, message=event.message)

    def end(self, code: int, document: Mapping[str, Any]) -> None:
        self._line("end", version=1, exit=code, **document)
        if self._file is not None and not self.on_stdout:
            with suppress(OSError):
                self._file.close()

    def _line(self, kind: str, **more: Any) -> None:
        with self._lock:
            if self._file is None:
                return
            seconds = round(time.monotonic() - self._begun, 3)
            text = json.dumps(_safe({"event": kind, "seconds": seconds, **more}), default=str)
            try:
                self._file.write(text.encode() + b"\n")
                self._file.flush()
            except (OSError, ValueError) as error:
                self._file = None
                console.say(f"note: --events ends here, nobody takes the lines any longer: {error}")


def _opened(place: str) -> BinaryIO:
    return Path(place).open("ab", buffering=0)


def _safe(value: Any) -> Any:
    if isinstance(value, str):
        return console.safe(value)
    if isinstance(value, Mapping):
        return {console.safe(str(key)): _safe(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_safe(one) for one in value]
    return value
