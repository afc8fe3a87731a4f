"""Runs in a box, without the agent's code: reads back what is in force, and prints one JSON document."""

import glob
import grp
import hashlib
import json
import os
import pwd
import socket
import stat
import subprocess

HOME, UNITS = "/etc/ogen", "/etc/systemd/system"


def out(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode()


def file_is(path, entry):
    try:
        found, data = os.lstat(path), open(path, "rb").read()
        owner = pwd.getpwnam(entry["owner"]).pw_uid, grp.getgrnam(entry["group"]).gr_gid
    except (OSError, KeyError):
        return False
    same = hashlib.sha256(data).hexdigest() == entry["sha256"]
    return same and stat.S_IMODE(found.st_mode) == entry["mode"] and (found.st_uid, found.st_gid) == owner


def shown(names):
    if not names:
        return {}
    text = out("systemctl", "show", "-p", "Id,ActiveState,MainPID", *names)
    blocks = [dict(line.split("=", 1) for line in b.splitlines()) for b in text.strip().split("\n\n")]
    return {b["Id"]: b for b in blocks}


def told(pid):
    try:
        items = open("/proc/%s/environ" % pid, "rb").read().decode().split("\0")
    except OSError:
        items = []
    return ([i.split("=", 1)[1] for i in items if i.startswith("OGEN_UNIT_HASH=")] or [""])[0]


def answered(path):
    try:
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(2)
        link.connect(path)
        link.sendall(b"GET /release HTTP/1.0\r\n\r\n")
        text = b""
        while True:
            data = link.recv(4096)
            if not data:
                return text.decode().rpartition("\n\n")[2].rpartition("\r\n\r\n")[2].strip()
            text += data
    except OSError:
        return ""


wrong, current = [], None
try:
    current = os.readlink(HOME + "/current").split("/")[1]
    manifest = json.load(open("%s/releases/%s/manifest.json" % (HOME, current)))
except OSError as error:
    manifest = {"files": [], "units": [], "balancers": []}
    wrong.append(str(error))
canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
if current and hashlib.sha256(canonical).hexdigest()[:16] != current.split("-")[0]:
    wrong.append("the manifest is not that of " + current)
for entry in manifest["files"]:
    if not file_is("%s/releases/%s/tree/%s" % (HOME, current, entry["stored"]), entry):
        wrong.append("file " + entry["path"])
    if entry["link"] and not file_is(os.path.realpath(entry["path"]), entry):
        wrong.append("link " + entry["path"])
served = [u for u in manifest["units"] if u["enable"] and u["kind"] in ("instance", "balancer", "service")]
TX = ["ogen-tx.service", "ogen-librarian-stage.service", "ogen-librarian-stage-guard.service"]
units = shown([u["name"] for u in served] + TX)
for unit in served:
    state, shows = units[unit["name"]]["ActiveState"], told(units[unit["name"]]["MainPID"])
    if state != "active" or (unit["kind"] != "balancer" and shows != unit["hash"]):
        wrong.append("unit %s is %s with %s" % (unit["name"], state, shows or "no hash"))
for proof in manifest["balancers"]:
    if answered(proof["socket"]) != proof["hash"]:
        wrong.append("balancer %s answers %r" % (proof["balancer"], answered(proof["socket"])))
try:
    lines = open(HOME + "/journal", "rb").read().splitlines()
    last = json.loads(lines[-1][9:].decode())["rec"]
except (OSError, ValueError, IndexError):
    last = ""

ours = {UNITS + "/ogen-recover.service"} | {e["path"] for e in manifest["files"]}
found = glob.glob(UNITS + "/ogen*") + glob.glob(UNITS + "/*.d/ogen*")
left = [p for p in found if p not in ours and (os.path.islink(p) or not os.path.isdir(p))]
left += glob.glob(UNITS + "/**/*.new", recursive=True)
left += glob.glob(HOME + "/*.new") + glob.glob(HOME + "/releases/.new")
kept = [current]
if os.path.islink(HOME + "/previous"):
    kept.append(os.readlink(HOME + "/previous").split("/")[1])
left += ["release " + n for n in sorted(os.listdir(HOME + "/releases")) if n not in kept and n != ".new"]
busy = [u for u in TX if units[u]["ActiveState"] in ("active", "activating")]
failed = [
    line.split()[0]
    for line in out("systemctl", "list-units", "--failed", "--plain", "--no-legend").splitlines()
]
links = [
    p for p in glob.glob(UNITS + "/ogen*") + glob.glob(UNITS + "/*.wants/ogen*") if not os.path.exists(p)
]
pids = {u["name"]: units[u["name"]]["MainPID"] for u in served}
found = {"current": current, "wrong": wrong, "last": last, "left": left + links}
print(json.dumps({**found, "busy": busy, "failed": failed, "pids": pids}))
