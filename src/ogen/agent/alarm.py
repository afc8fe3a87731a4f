"""The alarm of a host that could not be brought to a proven state, until it is.

It is a file that every hello, status, doctor and apply shows, and a line in the system's journal at
priority err. The next apply that is proven ends it; so does a person who removes the file.
"""

from __future__ import annotations

from .disk import Disk
from .transaction import Host

PATH = "/etc/ogen/stuck"
UNFINISHED = "make /etc/ogen writable and free some space or inodes, then apply again: that ends it"
_MEND = "ogen: mend what this says, then apply again; or, when all is well, remove this file (%s)" % PATH


def sound(host: Host, message: str, hint: str) -> None:
    """Never raises for the file's sake: a full disk may be the very reason of the alarm."""
    text = "%s\n%s\n%s\n" % (" ".join(message.split()), " ".join(hint.split()), _MEND)
    if host.live:
        told = "STUCK: %s; %s" % tuple(text.splitlines()[:2])
        host.machine.run(["logger", "-t", "ogen", "-p", "daemon.err", "--", told], 10.0)
    try:
        host.disk.replace(PATH, text.encode())
    except OSError:
        pass


def heard(disk: Disk) -> str:
    """What it says, in one line; empty when there is none."""
    lines = disk.read_or(PATH).decode("utf-8", "replace").splitlines()
    return "; ".join(line for line in lines[:2] if line)


def end(disk: Disk) -> None:
    disk.remove(PATH)
