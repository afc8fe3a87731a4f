"""paramiko without `invoke`: a task runner with asyncio, unittest.mock and a YAML of its own.

paramiko wants it for `Match exec` in its own reader of ssh_config, which ogen does not use, and goes on
without it. That is a third of paramiko's start. Every module here takes paramiko from this one.
"""

from __future__ import annotations

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

__all__ = ["paramiko"]
