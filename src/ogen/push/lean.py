"""paramiko, made quicker: every module of push takes it from here.

It imports `invoke`, a task runner with asyncio, unittest.mock and a YAML of its own: for `Match exec` in
its own reader of ssh_config, which ogen does not use. Without it paramiko starts in two thirds of the
time, and goes on as ever.
"""

from __future__ import annotations

import contextlib
import sys

_there = sys.modules.get("invoke")
sys.modules["invoke"] = None  # type: ignore[assignment]  # "not to be had", as the import system knows it
try:
    import paramiko
finally:
    if _there is None:
        del sys.modules["invoke"]
    else:
        sys.modules["invoke"] = _there

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
