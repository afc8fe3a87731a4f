"""The agent's entry points: a session with a controller, the commit's service, recovery at boot."""

from __future__ import annotations

import hashlib
import os
import sys
from typing import List

from .disk import Disk
from .errors import AgentError
from .machine import Machine
from .transaction import Host


def session(bundle: bytes, digest: str, root: str) -> None:
    """Called by the bootstrap, which has verified `bundle` against `digest`."""
    from .session import Session
    from .wire import Wire

    os.umask(0o022)
    wire = Wire()
    Session(Host(Disk(root), Machine(), digest), wire, bundle).serve()


def main(arguments: List[str]) -> int:
    """`commit TX` or `recover`, run from the stored agent by systemd."""
    from . import owner

    os.umask(0o022)
    path = arguments[0]
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    if os.path.basename(path) != digest + ".pyz":
        sys.stderr.write("ogen: %s is damaged\n" % path)
        return 1
    host = Host(Disk("/"), Machine(), digest)
    try:
        if arguments[1:2] == ["commit"] and len(arguments) == 3:
            return owner.run_commit(host, arguments[2])
        if arguments[1:] == ["recover"]:
            return owner.run_recover(host)
    except AgentError as error:
        sys.stderr.write("ogen: %s\n" % error.message)
        return 1
    sys.stderr.write("usage: AGENT commit TX | recover\n")
    return 2
