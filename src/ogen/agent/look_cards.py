"""Cards as nvidia-smi, and for AMD the kernel, shows them now, and the processes that hold their memory."""

from __future__ import annotations

import csv
import re
from typing import Any, Dict, List

from . import look_amd
from .machine import Machine

FIELDS = (
    "index",
    "uuid",
    "pci.bus_id",
    "name",
    "driver_version",
    "memory.total",
    "memory.used",
    "utilization.gpu",
    "temperature.gpu",
    "power.draw",
)
APPS = ("pid", "gpu_uuid", "used_memory", "process_name")
_UNIT = re.compile(r"/([^/]+\.(?:service|scope))(?:/|$)")


def cards(machine: Machine, drm: str = look_amd.DRM) -> Dict[str, Any]:
    """`code` and `said`: nvidia-smi's exit status and what it said beside rows; memory in MiB."""
    done = _query(machine, "gpu", FIELDS)
    rows, said = [], []
    for cells in csv.reader(done.text.splitlines(), skipinitialspace=True):
        if len(cells) == len(FIELDS) and cells[0].strip().isdigit():
            rows.append({name: cell.strip() for name, cell in zip(FIELDS, cells)})  # noqa: B905
        elif cells:
            said.append(", ".join(cells).strip())
    apps = _apps(machine) if rows else []
    said = [line for line in said if line][:10]
    return {"code": done.code, "said": said, "rows": rows + look_amd.rows(drm), "apps": apps}


def _query(machine: Machine, what: str, fields: Any) -> Any:
    command = ["nvidia-smi", "--query-%s=%s" % (what, ",".join(fields)), "--format=csv,noheader,nounits"]
    return machine.run(command, timeout=20.0)


def _apps(machine: Machine) -> List[Dict[str, str]]:
    """Processes on the cards with the systemd unit that each belongs to."""
    done = _query(machine, "compute-apps", APPS)
    found = []
    for cells in csv.reader(done.text.splitlines(), skipinitialspace=True) if done.code == 0 else ():
        if len(cells) == len(APPS) and cells[0].strip().isdigit():
            app = {name: cell.strip() for name, cell in zip(APPS, cells)}  # noqa: B905
            found.append({**app, "unit": unit_of(app["pid"])})
    return found


def unit_of(pid: str) -> str:
    """The service or scope that a process runs in; empty if that can't be told."""
    try:
        with open("/proc/%d/cgroup" % int(pid), encoding="utf-8", errors="replace") as file:
            found = _UNIT.findall(file.read())
    except OSError:
        return ""
    return found[-1] if found else ""
