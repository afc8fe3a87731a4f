"""AMD cards as the kernel's driver amdgpu shows them in sysfs, in the words of nvidia-smi's query."""

from __future__ import annotations

import os
from typing import Dict, List, Optional

DRM = "/sys/class/drm"
MIB = 1024 * 1024
VENDOR = "0x1002"


def rows(drm: str = DRM) -> List[Dict[str, str]]:
    """One for each card, by PCI address as ROCm numbers them; what a card does not tell is "[N/A]"."""
    try:
        names = [name for name in os.listdir(drm) if name.startswith("card") and name[4:].isdigit()]
    except OSError:
        return []
    folders = sorted({os.path.realpath(os.path.join(drm, name, "device")) for name in names})
    found = [folder for folder in folders if _line(folder, "vendor") == VENDOR]
    with_memory = [folder for folder in found if os.path.exists(folder + "/mem_info_vram_total")]
    listed = [_row(index, folder) for index, folder in enumerate(with_memory)]
    return [row for row in listed if row["memory.used"].isdigit()]  # else it is lost


def _row(index: int, folder: str) -> Dict[str, str]:
    unique, hwmon = _line(folder, "unique_id").lower(), _hwmon(folder)
    power = _number(hwmon, "power1_average", 1e6)
    return {
        "vendor": "amd",
        "index": str(index),
        "uuid": "GPU-" + unique if unique.strip("0") else os.path.basename(folder),
        "pci.bus_id": os.path.basename(folder),
        "name": _line(folder, "product_name") or "AMD " + _line(folder, "device"),
        "driver_version": _line("/sys/module/amdgpu", "version") or os.uname().release,
        "memory.total": _number(folder, "mem_info_vram_total", MIB),
        "memory.used": _number(folder, "mem_info_vram_used", MIB),
        "utilization.gpu": _number(folder, "gpu_busy_percent"),
        "temperature.gpu": _number(hwmon, "temp1_input", 1000),
        "power.draw": power if power.isdigit() else _number(hwmon, "power1_input", 1e6),
    }


def _hwmon(folder: str) -> Optional[str]:
    try:
        sensors = sorted(os.listdir(folder + "/hwmon"))
    except OSError:
        return None
    return "%s/hwmon/%s" % (folder, sensors[0]) if sensors else None


def _number(folder: Optional[str], name: str, unit: float = 1) -> str:
    text = _line(folder, name) if folder else ""
    return str(int(int(text) / unit)) if text.isdigit() else "[N/A]"


def _line(folder: str, name: str) -> str:
    """The first line of a small file; "" where there is none."""
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            return file.readline(256).strip()
    except OSError:
        return ""
