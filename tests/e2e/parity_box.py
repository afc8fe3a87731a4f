"""Runs in a box: its whole file system, packages and units as one JSON document (parity.py compares two)."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import time


def described(path):
    found = os.lstat(path)
    kind = stat.S_IFMT(found.st_mode)
    what = {"mode": "%06o" % found.st_mode, "owner": "%d:%d" % (found.st_uid, found.st_gid)}
    if kind == stat.S_IFLNK:
        what["target"] = os.readlink(path)
    elif kind == stat.S_IFREG:
        with open(path, "rb") as file:
            what["sha256"] = hashlib.sha256(file.read()).hexdigest()
        what["links"] = found.st_nlink
    return what


def files(out):
    """Every path of the box's own file system but those that are left out with all below them."""
    found, device = {}, os.lstat("/").st_dev
    for folder, names, others in os.walk("/"):
        paths = {name: os.path.join(folder, name) for name in names + others}
        names[:] = [n for n in names if paths[n] not in out and os.lstat(paths[n]).st_dev == device]
        found.update({path: described(path) for path in paths.values() if path not in out})
    return found


def said(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode().splitlines()


def listed():
    """Units with load, active and sub state, at a moment when none that a timer starts is on its way."""
    end = time.monotonic() + 60
    while True:
        lines = said("systemctl", "list-units", "--all", "--plain", "--full", "--no-legend", "--no-pager")
        found = {name: words[:3] for name, *words in map(str.split, lines) if words[0] != "not-found"}
        busy = [
            name
            for name, (_, active, sub) in found.items()
            if active in ("activating", "deactivating", "reloading")
            or (name.endswith(".timer") and sub == "running")
        ]
        if not busy or time.monotonic() > end:
            return {name: " ".join(words) for name, words in found.items()}
        time.sleep(0.1)


def units():
    """Enabled or not, and active or not."""
    enabled = [line.split()[:2] for line in said("systemctl", "list-unit-files", "--no-legend", "--no-pager")]
    return {"enabled": dict(enabled), "active": listed()}


print(
    json.dumps(
        {
            "files": files(set(sys.argv[1:])),
            "packages": sorted(
                said("dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Status}\\n")
            ),
            **units(),
        }
    )
)
