"""AMD cards as the kernel's driver shows them in sysfs, in a folder."""

from __future__ import annotations

from pathlib import Path

GIB = 1 << 30


def card(drm: Path, number: int, pci: str, **files: object) -> Path:
    """`cardN` with its files, sensors as `hwmon_temp1_input`; None: there is no such file."""
    folder = drm.parent / "devices" / pci
    values: dict[str, object] = {
        "vendor": "0x1002",
        "device": "0x744c",
        "unique_id": f"{number:x}a2b3c4d5e6f7081",
        "mem_info_vram_total": 24 * GIB,
        "mem_info_vram_used": 3 * GIB,
        "gpu_busy_percent": 37,
        "hwmon_temp1_input": 61000,
        "hwmon_power1_average": 210500000,
        **files,
    }
    (folder / "hwmon/hwmon4").mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        path = folder / (f"hwmon/hwmon4/{name[6:]}" if name.startswith("hwmon_") else name)
        if value is not None:
            path.write_text(f"{value}\n")
    (drm / f"card{number}").mkdir(parents=True, exist_ok=True)
    (drm / f"card{number}-DP-1").mkdir(exist_ok=True)  # an output, as each card has some
    link = drm / f"card{number}/device"
    if not link.is_symlink():
        link.symlink_to(folder)
    return folder
