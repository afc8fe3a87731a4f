"""The host's own checkers on a staged tree: nginx -t, systemd-analyze verify, python and shell syntax.

They run in a mount namespace of their own, in which the staged tree is /etc/ogen/current and what
they write (pid files, logs, temporary folders) is thrown away. A checker that prints anything about a
staged file does not take the release, whatever its exit status: systemd-analyze exits 0 for bad values.
Only nginx's notices are none of that.
"""

from __future__ import annotations

import os
import re
from typing import List

from . import keys, store, transient
from .disk import Disk
from .errors import Refused
from .machine import Machine

_FOLDERS = ("RuntimeDirectory", "/run"), ("LogsDirectory", "/var/log"), ("StateDirectory", "/var/lib")
#: what a line says of a module that is not there, and how to get it
_MODULES = (
    ("ngx_http_js_module.so", "routing: by_model needs nginx's njs module: `ogen provision` installs it"),
    ("ngx_http_lua_module.so", "a gate needs nginx's Lua module: `ogen provision` installs it"),
    ("ndk_http_module.so", "a gate needs nginx's Lua module: `ogen provision` installs it"),
)
_FINE = ("syntax is ok", "test is successful")
_NOTICE = re.compile(r"\d{4}/\d\d/\d\d [\d:]{8} \[notice\] ")  # "js vm init njs", in Debian 13

_ASSERTED = re.compile("^AssertPathExists=(/.*)$", re.MULTILINE)

#: $1 is the staged tree; then folders to make and links to make (PATH=TARGET), "--", and the command
_SANDBOX = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/.ogen-stage
mount --bind "$1" /run/.ogen-stage; shift
mount -t tmpfs -o mode=755 tmpfs /etc/ogen
mkdir /etc/ogen/current
mount --bind /run/.ogen-stage /etc/ogen/current
for folder in /var/log /var/lib/nginx; do
    if [ -d "$folder" ]; then mount -t tmpfs -o mode=755 tmpfs "$folder"; fi
done
mkdir -p /var/log/nginx /var/log/ogen
if [ -d /etc/nginx/conf.d ]; then
    cp -a /etc/nginx/conf.d /run/.ogen-conf.d
    mount -t tmpfs -o mode=755 tmpfs /etc/nginx/conf.d
    cp -a /run/.ogen-conf.d/. /etc/nginx/conf.d
    find /etc/nginx/conf.d -lname '/etc/ogen/current/*' -delete
fi
while [ "$1" != -- ]; do
    case $1 in
    *=*) ln -s "${1#*=}" "${1%%=*}" ;;
    *) mkdir -p "$1" ;;
    esac
    shift
done; shift
exec "$@"
"""


def validate(disk: Disk, machine: Machine, manifest: store.Manifest, tree: str) -> List[str]:
    """Raises Refused; returns what was not checked, for the report."""
    scripts(disk, machine, manifest, tree)
    if disk.relocated:
        return [
            w
            for w, there in (("nginx -t", manifest["balancers"]), ("systemd-analyze", manifest["units"]))
            if there
        ]
    needs(disk, manifest, tree)
    units(disk, machine, manifest, tree)
    for proof in manifest["balancers"]:
        nginx(disk, machine, manifest, tree, proof)
    return []


def sandboxed(machine: Machine, disk: Disk, tree: str, made: List[str], command: List[str]) -> List[str]:
    """The lines that a command prints; the last one tells a bad exit status."""
    shell = ["unshare", "-m", "sh", "-c", _SANDBOX, "sandbox", disk.real(tree), *made, "--", *command]
    done = machine.run(shell, timeout=120.0)
    return done.lines + (["exit status %d" % done.code] if done.code else [])


# -------------------------------------------------------------------------------------- systemd
def needs(disk: Disk, manifest: store.Manifest, tree: str) -> None:
    """Files of the host's own that a unit asserts, such as certificates: systemd would not name them."""
    for unit in manifest["units"]:
        for path in _ASSERTED.findall(_unit_text(disk, manifest, tree, unit["name"])):
            path = path.replace("%%", "%")
            if not os.path.exists(disk.real(path)):
                message = "%s needs %s, which is not there" % (unit["name"], path)
                raise Refused(message, "put it there, or name another file in the inventory")


def units(disk: Disk, machine: Machine, manifest: store.Manifest, tree: str) -> None:
    paths = {"%s/%s" % (store.UNITS, u["name"]) for u in manifest["units"]}
    staged = [store.CURRENT + "/" + e["stored"] for e in manifest["files"] if e["path"] in paths]
    if not staged:
        return
    lines = sandboxed(machine, disk, tree, [], ["systemd-analyze", "verify", "--man=no", *staged])
    names = [u["name"] for u in manifest["units"]]
    if any(store.CURRENT in line or any(n in line for n in names) for line in lines) or (
        lines and lines[-1].startswith("exit status")
    ):
        raise Refused("systemd-analyze verify does not take the units: %s" % lines[0], log=lines[-20:])


# ---------------------------------------------------------------------------------------- nginx
def nginx(disk: Disk, machine: Machine, manifest: store.Manifest, tree: str, proof: store.Entry) -> None:
    """A configuration of ogen's own, or a file within the machine's: then the machine's is tested."""
    if proof["config"].startswith(store.CURRENT + "/"):
        unit = _unit_text(disk, manifest, tree, proof["unit"])
        lines = sandboxed(machine, disk, tree, unit_folders(unit), [*_program(unit, proof["config"]), "-t"])
        lines = [line for line in lines if not line.endswith(_FINE) and not _NOTICE.match(line)]
    else:
        links = [
            "%s=%s/root%s" % (e["path"], store.CURRENT, e["path"])
            for e in manifest["files"]
            if e["path"].startswith("/etc/nginx/conf.d/")
        ]
        held = keys.entries(manifest).items()
        links += [keys.KEYS, *("%s=%s/%s" % (keys.place(n), store.CURRENT, e["stored"]) for n, e in held)]
        lines = sandboxed(machine, disk, tree, links, ["nginx", "-t"])
        bad = (lines and lines[-1].startswith("exit status")) or any(
            proof["config"] in line for line in lines
        )
        lines = lines if bad else []
    if lines:
        hint = next((words for part, words in _MODULES if any(part in line for line in lines)), None)
        raise Refused("nginx does not take %s: %s" % (proof["config"], lines[0]), hint, lines[-20:])


def _unit_text(disk: Disk, manifest: store.Manifest, tree: str, name: str) -> str:
    path = "%s/%s" % (store.UNITS, name)
    entry = next((e for e in manifest["files"] if e["path"] == path), None)
    return disk.read("%s/%s" % (tree, entry["stored"])).decode("utf-8", "replace") if entry else ""


def _program(unit: str, config: str) -> List[str]:
    """The unit's own command line, so that what is tested is what will run; on the release's text,
    of which the unit reads a copy."""
    commands = [value for key, value in transient.service_lines(unit) if key == "ExecStart"]
    import shlex

    words = shlex.split(commands[-1]) if commands else ["nginx"]
    if "-c" in words:
        at = words.index("-c")
        del words[at : at + 2]
    return [words[0].lstrip("-@:+!"), *words[1:], "-c", config]


def unit_folders(unit: str) -> List[str]:
    """The folders that systemd makes before it starts the unit."""
    places = dict(_FOLDERS)
    return [
        "%s/%s" % (places[key], name)
        for key, value in transient.service_lines(unit)
        if key in places
        for name in value.split()
    ]


# -------------------------------------------------------------------------------------- scripts
def scripts(disk: Disk, machine: Machine, manifest: store.Manifest, tree: str) -> None:
    """Syntax of what begins with #!: python in this process, shells by their own -n."""
    for entry in manifest["files"]:
        data = disk.read("%s/%s" % (tree, entry["stored"]))
        first = data.split(b"\n", 1)[0].decode("utf-8", "replace")
        if not first.startswith("#!"):
            continue
        if "python" in first:
            _python(entry["path"], data)
        elif first.rstrip().endswith("sh"):
            _shell(machine, first, entry["path"], disk.real("%s/%s" % (tree, entry["stored"])))


def _python(path: str, data: bytes) -> None:
    try:
        compile(data, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise Refused("%s is not Python: %s" % (path, error)) from None


def _shell(machine: Machine, first: str, path: str, real: str) -> None:
    shell = "bash" if first.rstrip().endswith("bash") else "sh"
    done = machine.run([shell, "-n", real])
    if done.code or done.lines:
        raise Refused("%s is not %s: %s" % (path, shell, done.text.strip()[:200]), log=done.lines[-20:])
