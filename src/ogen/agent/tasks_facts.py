"""What a playbook may know of a host before its first step, by Ansible's names."""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import subprocess
from typing import Any, Dict

_DEBIAN = ("debian", "ubuntu", "linuxmint", "raspbian", "pop", "kali", "devuan")
_NAMES = {"debian": "Debian", "ubuntu": "Ubuntu", "rhel": "RedHat", "fedora": "Fedora", "raspbian": "Debian"}


def facts(root: str = "/") -> Dict[str, Any]:
    """The fixed list of facts; docs/playbooks.md explains each."""
    release = _os_release(_text(root, "etc/os-release"))
    kind = release.get("ID", "").lower()
    version = release.get("VERSION_ID", "")
    point = _text(root, "etc/debian_version").strip()
    if kind == "debian" and re.fullmatch(r"\d+\.\d+", point):
        version = point  # os-release knows only the major number
    family = "Debian" if kind in _DEBIAN or "debian" in release.get("ID_LIKE", "") else _NAMES.get(kind, kind)
    system = os.uname()
    return {
        "architecture": system.machine,
        "distribution": _NAMES.get(kind, release.get("NAME", kind)),
        "distribution_major_version": version.split(".")[0],
        "distribution_release": release.get("VERSION_CODENAME", ""),
        "distribution_version": version,
        "hostname": system.nodename.split(".")[0],
        "kernel": system.release,
        "memtotal_mb": _memory(_text(root, "proc/meminfo")),
        "nodename": system.nodename,
        "os_family": family,
        "pkg_mgr": "apt" if shutil.which("apt-get", path="/usr/bin:/bin") else "unknown",
        "processor_nproc": len(os.sched_getaffinity(0)),
        "python_version": platform.python_version(),
        "service_mgr": "systemd" if os.path.isdir(os.path.join(root, "run/systemd/system")) else "unknown",
        "services": services(),
        "system": system.sysname,
    }


def look(path: str) -> Dict[str, Any]:
    """A path itself, as Ansible's `stat` has it."""
    try:
        found = os.lstat(path)
    except OSError:
        return {"exists": False}
    return {
        "exists": True,
        "isdir": stat.S_ISDIR(found.st_mode),
        "isreg": stat.S_ISREG(found.st_mode),
        "islnk": stat.S_ISLNK(found.st_mode),
        "mode": "%04o" % stat.S_IMODE(found.st_mode),
        "size": found.st_size,
    }


def services() -> Dict[str, Dict[str, str]]:
    """Units of type service, as Ansible's `service_facts` has them; empty where there is no systemd."""
    found: Dict[str, Dict[str, str]] = {}
    for line in _systemctl("list-unit-files").splitlines():
        parts = line.split()
        if len(parts) >= 2:
            found[parts[0]] = _service(parts[0], "inactive", parts[1])
    for line in _systemctl("list-units", "--all").splitlines():
        parts = line.replace("●", " ").split()
        if len(parts) >= 4 and parts[1] != "not-found":
            state = "running" if parts[3] == "running" else "stopped"
            status = found.get(parts[0], {}).get("status", "static")
            found[parts[0]] = _service(parts[0], state, status)
    return found


def _service(name: str, state: str, status: str) -> Dict[str, str]:
    return {"name": name, "state": state, "status": status, "source": "systemd"}


def _systemctl(*words: str) -> str:
    command = ["systemctl", "--no-legend", "--no-pager", "--plain", "--type=service", *words]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")


def _text(root: str, path: str) -> str:
    try:
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as reader:
            return reader.read(65536)
    except OSError:
        return ""


def _os_release(text: str) -> Dict[str, str]:
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#")
    return {key: value.strip().strip("\"'") for key, value in pairs}


def _memory(text: str) -> int:
    """MiB of MemTotal."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) // 1024 if found else 0
