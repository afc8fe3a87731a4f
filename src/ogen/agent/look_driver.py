"""What stands between a program and the cards: the driver, its device nodes, and who else drives them."""

from __future__ import annotations

import csv
import glob
import os
from typing import Any, Dict, List

from .frames import Message
from .machine import Machine
from .session import Session

FIELDS = ("index", "uuid", "name", "memory.total", "driver_version", "persistence_mode")
NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/kfd")
_VENDORS = {"0x10de": "nvidia", "0x1002": "amd"}


def driver(session: Session, message: Message, data: bytes) -> None:
    session.reply(driver=seen(session.host.machine))


def seen(machine: Machine, root: str = "/") -> Dict[str, Any]:
    """Cards as nvidia-smi lists them (memory in MiB), and what the kernel has."""
    command = ["nvidia-smi", "--query-gpu=" + ",".join(FIELDS), "--format=csv,noheader,nounits"]
    done = machine.run(command, timeout=30.0)
    rows, said = [], []
    for cells in csv.reader(done.text.splitlines(), skipinitialspace=True):
        if len(cells) == len(FIELDS) and cells[0].strip().isdigit():
            rows.append({name: cell.strip() for name, cell in zip(FIELDS, cells)})  # noqa: B905
        elif cells:
            said.append(", ".join(cells).strip())
    there = root.rstrip("/")
    return {
        "code": done.code,
        "said": [line for line in said if line][:10],
        "rows": rows,
        "nouveau": os.path.isdir(there + "/sys/module/nouveau"),
        "bus": _bus(there),
        "nodes": [node for node in NODES if os.path.exists(there + node)],
        "nvidia": len(glob.glob(there + "/dev/nvidia[0-9]*")),
        "render": len(glob.glob(there + "/dev/dri/renderD*")),
    }


def _bus(root: str) -> Dict[str, int]:
    """Display controllers and accelerators on the PCI bus, by maker."""
    found = dict.fromkeys(_VENDORS.values(), 0)
    for folder in glob.glob(root + "/sys/bus/pci/devices/*"):
        vendor, kind = _first(folder + "/vendor"), _first(folder + "/class")
        if vendor in _VENDORS and kind.startswith(("0x03", "0x12")):
            found[_VENDORS[vendor]] += 1
    return found


def _first(path: str) -> str:
    lines: List[str] = []
    try:
        with open(path, encoding="ascii", errors="replace") as reader:
            lines = reader.read(64).split()
    except OSError:
        pass
    return lines[0] if lines else ""
