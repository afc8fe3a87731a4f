"""Two boxes, compared over the whole file system, packages and units; each exception with its reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab import Lab

#: left out with all that is below, on both
OUT = {
    "/dev": "the kernel's",
    "/proc": "the kernel's",
    "/sys": "the kernel's",
    "/run": "sockets, process numbers, what runs right now: units are compared by their states",
    "/tmp": "temporary",
    "/var/tmp": "temporary",
    "/var/log": "logs and journals",
    "/root": "the home of a login",
    "/home": "homes of logins: Ansible keeps ~/.ansible there",
    "/opt/testbed": "the testbed's own tools, read-only",
    "/etc/hostname": "the host's name",
    "/etc/hosts": "the host's name and address",
    "/etc/machine-id": "the machine's id",
    "/etc/ssh/ssh_host_ed25519_key": "the host's key",
    "/etc/ssh/ssh_host_ed25519_key.pub": "the host's key",
    "/etc/ogen/audit.jsonl": "a log: who did what, and when",
    "/etc/ogen/journal": "the journal of a transaction: its number, who began it, the boot",
    "/etc/ogen/lock": "who held it last",
    "/etc/ogen/tx.lock": "who held it last",
    "/var/cache/apt/pkgcache.bin": "apt's cache, with times of its lists",
    "/var/cache/apt/srcpkgcache.bin": "apt's cache, with times of its lists",
    "/var/cache/ldconfig/aux-cache": "ldconfig's cache, with inodes and times",
    "/var/lib/apt/extended_states": "packages in the order in which apt came to them: compared by name",
    "/var/lib/dpkg/status-old": "dpkg's state before its last step: packages are compared by name",
    "/var/lib/systemd/timers": "stamps of timers: empty files, each made when its timer first elapses",
    "/var/lib/systemd/random-seed": "random",
    "/var/lib/sudo": "when a login last used sudo",
}
#: units of logins; Ansible's connection is still open when it is looked
LOGINS = ("session-", "user-", "user@", "run-user-")
PROGRAM = Path(__file__).with_name("parity_box.py").read_text()

Machine = dict[str, Any]


def read(lab: Lab, box: str) -> Machine:
    lab.write(box, "/tmp/parity.py", PROGRAM)
    found: Machine = json.loads(lab.exec(box, "python3", "-I", "/tmp/parity.py", *OUT))
    return found


def differences(one: Machine, other: Machine) -> Iterator[str]:
    """A line for each thing that is not the same on both."""
    for part in ("files", "enabled", "active"):
        for name in sorted({*one[part], *other[part]}):
            mine, theirs = one[part].get(name), other[part].get(name)
            if mine != theirs and not name.startswith(LOGINS):
                yield f"{part} {name}: {mine} / {theirs}"
    for line in sorted({*one["packages"]} ^ {*other["packages"]}):
        yield f"packages {line}: on one of them"
