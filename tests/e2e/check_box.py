"""Runs in a box, without the agent's code: all that an apply or a task may change, as one JSON document."""

import glob
import hashlib
import json
import os
import stat
import subprocess
import sys

HOME, UNITS, MODELS = "/etc/ogen", "/etc/systemd/system", "/var/lib/ollama/models/manifests"
PACKAGES, SERVICES = sys.argv[1].split(","), sys.argv[2].split(",")


def out(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode()


def seen(path):
    """Content, mode and owner of what is reached at a path, and by a link or not; None where nothing is."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    text = open(path, "rb").read() if stat.S_ISREG(found.st_mode) else b""
    access = [stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, os.path.islink(path)]
    return [hashlib.sha256(text).hexdigest(), *access]


def shown(*names):
    text = out("systemctl", "show", "-p", "Id,ActiveState,MainPID,InvocationID,UnitFileState,Type", *names)
    blocks = [dict(line.split("=", 1) for line in part.splitlines()) for part in text.strip().split("\n\n")]
    return {one["Id"]: one for one in blocks if "Id" in one}


def workers(pid):
    """An nginx is reloaded when it has other workers under the same master."""
    return sorted(out("pgrep", "-P", pid).split()) if pid not in ("", "0") else []


try:
    manifest = json.load(open(HOME + "/current/../manifest.json"))
except OSError:
    manifest = {"files": [], "units": [], "balancers": []}
units = shown(*[unit["name"] for unit in manifest["units"]]) if manifest["units"] else {}
for one in manifest["balancers"]:
    units[one["unit"]]["workers"] = workers(units[one["unit"]]["MainPID"])
links = [path for path in glob.glob(UNITS + "/*.*/ogen-*") if os.path.islink(path)]
installed = out("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n").split("\n")
print(
    json.dumps(
        {
            "files": {entry["path"]: seen(entry["path"]) for entry in manifest["files"]},
            "units": units,
            "links": {path: os.readlink(path) for path in links},
            "models": sorted(os.path.relpath(path, MODELS) for path in glob.glob(MODELS + "/*/*/*/*")),
            "packages": [name for name in PACKAGES if name + " installed" in installed],
            "services": {n: [u["ActiveState"], u["UnitFileState"]] for n, u in shown(*SERVICES).items()},
            "srv": {
                path: [os.readlink(path)] if os.path.islink(path) else seen(path)
                for path in glob.glob("/srv/check/**", recursive=True)
            },
        }
    )
)
