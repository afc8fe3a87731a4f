"""What the host is: reported in the hello, so that plans and playbooks are made from facts."""

from __future__ import annotations

import os
import re
import sys
from typing import Any, Dict, List

from . import alarm, cards, compare, store
from .machine import Machine
from .transaction import Host

Facts = Dict[str, Any]


def brief(host: Host) -> Facts:
    """What costs nothing: no process is started."""
    return {
        "python": sys.version.split()[0],
        "uid": os.geteuid(),
        "boot": host.machine.boot(),
        "root": host.disk.root,
        "agent": host.agent,
        "current": host.store.current,
        "locked": compare.locked(host.disk),
        "stuck": alarm.heard(host.disk),
    }


def full(host: Host) -> Facts:
    """Everything; some ten short processes on the host."""
    machine = host.machine
    system = os.uname()
    return {
        **brief(host),
        "hostname": system.nodename,
        "kernel": system.release,
        "arch": system.machine,
        "os": os_release(host),
        "systemd": _first_number(machine.run(["systemctl", "--version"]).text),
        "cpus": os.cpu_count(),
        "memory": _memory(),
        "gpus": cards.facts(cards.list_cards(machine)),
        "ollama": ollama_version(machine, program(host)),
        "nginx": nginx(machine),
        "release": release(host),
        "journal": host.journal.state(),
    }


def os_release(host: Host) -> Dict[str, str]:
    try:
        with open("/etc/os-release", encoding="utf-8", errors="replace") as file:
            return parse_os_release(file.read())
    except OSError:
        return {}


def parse_os_release(text: str) -> Dict[str, str]:
    found = {}
    for line in text.splitlines():
        key, sep, value = line.partition("=")
        if sep and re.fullmatch(r"[A-Z_]+", key):
            found[key.lower()] = value.strip().strip("\"'")
    return found


def program(host: Host) -> str:
    """The Ollama of the release in force where it names one, else what is found by the name."""
    manifest = host.store.manifest(host.store.current)
    return str(manifest.get("librarian", {}).get("program") or "ollama")


def ollama_version(machine: Machine, command: str = "ollama") -> str:
    """The binary's version; empty if there is none."""
    done = machine.run([command, "--version"], timeout=10.0)
    found = re.findall(r"version is (\d[\w.+-]*)", done.text) if done.code == 0 else []
    return found[-1] if found else ""


def nginx(machine: Machine) -> Dict[str, Any]:
    """Version, and the files of dynamic modules."""
    done = machine.run(["nginx", "-v"], timeout=10.0)
    found = re.search(r"nginx/([\d.]+)", done.text) if done.code == 0 else None
    folder = "/usr/lib/nginx/modules"
    modules: List[str] = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return {"version": found.group(1) if found else "", "modules": modules}


def release(host: Host) -> Dict[str, Any]:
    """The release in force, in short."""
    name = host.store.current
    manifest = host.store.manifest(name)
    return {
        "name": name,
        "previous": host.store.previous,
        "files": len(manifest["files"]),
        "units": [u["name"] for u in manifest["units"]],
        "instances": manifest["instances"],
        "balancers": manifest["balancers"],
        "models": [m["name"] for m in manifest["models"]],
    }


def releases(host: Host) -> List[Dict[str, Any]]:
    """The releases that are on the host."""
    return [
        {"name": n, "current": n == host.store.current, "previous": n == host.store.previous}
        for n in store.Store(host.disk).names()
    ]


def _memory() -> int:
    """Bytes."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _first_number(text: str) -> int:
    found = re.search(r"\d+", text)
    return int(found.group()) if found else 0
