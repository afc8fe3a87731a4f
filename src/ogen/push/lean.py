"""paramiko, made quicker: every module of push takes it from here.

It imports `invoke`, a task runner with asyncio, unittest.mock and a YAML of its own: for `Match exec` in
its own reader of ssh_config, which ogen does not use. And it imports importlib.metadata with all of email,
to learn its own version. Without them it starts in half the time, and goes on as ever.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


@contextlib.contextmanager
def _instead(stand_ins: dict[str, ModuleType | None]) -> Iterator[None]:
    """While paramiko is imported, these modules are others, or (None) not to be had."""
    before = {name: sys.modules.get(name) for name in stand_ins}
    chosen = {name: one for name, one in stand_ins.items() if before[name] is None}
    sys.modules.update(chosen)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in chosen:
            del sys.modules[name]


def _metadata() -> dict[str, ModuleType | None]:
    """A stand-in for importlib.metadata that knows paramiko's version from the name of its own folder."""
    found = importlib.util.find_spec("paramiko")
    beside = Path(found.origin).parent.parent if found and found.origin else Path("/nonexistent")
    versions = [path.name.split("-")[1] for path in beside.glob("paramiko-*.dist-info")]
    if len(versions) != 1:
        return {}
    stand_in = ModuleType("importlib.metadata")
    stand_in.version = lambda name: versions[0].removesuffix(".dist")  # type: ignore[attr-defined]
    return {"importlib.metadata": stand_in}


with _instead({"invoke": None, **_metadata()}):
    import paramiko

__all__ = ["Transport", "paramiko"]


class Transport(paramiko.Transport):
    """Proposes its algorithms along with its version string, one round trip earlier (RFC 4253, 7).

    paramiko waits for the other side's version first. If it should ever rename these two methods, it
    does so again.
    """

    _proposed = False

    def _check_banner(self) -> None:
        with contextlib.suppress(OSError, EOFError):  # it has closed: reading tells so better
            self._send_kex_init()
        self._proposed = True
        super()._check_banner()  # type: ignore[misc]  # the stubs leave it out

    def _send_kex_init(self) -> None:
        if self._proposed:  # just now; the next call is a rekey
            self._proposed = False
        else:
            super()._send_kex_init()  # type: ignore[misc]
