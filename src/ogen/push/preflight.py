"""Before a host is changed: can its cards do what the inventory wants? Each problem comes with its advice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..catalog import least_driver
from ..errors import RemoteError
from ..inventory.model import Gpu, Host

SMALLER = 0.97  # a driver may report a little less than the catalog has
_NOUVEAU = (
    "install NVIDIA's driver, write `blacklist nouveau` into /etc/modprobe.d/nouveau.conf, then"
    " `update-initramfs -u` and reboot"
)
_INSTALL = (
    "install it, then reboot: `apt-get install nvidia-driver` on Debian (from non-free),"
    " `ubuntu-drivers install` on Ubuntu"
)
_KERNEL = (
    "`modprobe nvidia` and `dmesg` say why: a new kernel without the module (reinstall the driver),"
    " Secure Boot (sign it, or turn that off), a card that fell off the bus"
)
_KFD = "`modprobe amdgpu` and `dmesg` say why; firmware for the card is in the package firmware-amd-graphics"
_NODE = "`nvidia-modprobe -c 0; nvidia-modprobe -c 0 -u` makes it; ogen-cards.service does so at each boot"


class Problem(NamedTuple):
    what: str
    advice: str


Seen = Mapping[str, Any]


def check(host: Host, seen: Seen) -> str:
    """Raises RemoteError where something is to be put right first; returns what else there is to say."""
    found = list(problems(host, seen))
    if found:
        first, *rest = found
        log = [f"{problem.what}: {problem.advice}" for problem in rest]
        raise RemoteError(first.what, host=host.name, where=host.where, hint=first.advice, log=log)
    return "; ".join(remarks(host, seen))


def problems(host: Host, seen: Seen) -> Iterator[Problem]:
    """What keeps instances from the cards."""
    cards = [gpu for gpu in host.gpus if gpu.state == "in"]
    nvidia = [gpu for gpu in cards if gpu.vendor == "nvidia"]
    if nvidia:
        none = _driver(seen)
        if none:
            yield none
        else:
            yield from _cards(nvidia, seen)
            yield from _old(host.ollama.version, nvidia, seen["rows"][0]["driver_version"])
            yield from _nodes(seen)
    if any(gpu.vendor == "amd" for gpu in cards):
        yield from _amd(seen)


def _driver(seen: Seen) -> Problem | None:
    """Why nvidia-smi shows no card at all."""
    if seen["rows"]:
        return None
    said = "; ".join(seen["said"]) or f"exit {seen['code']}"
    if seen["nouveau"]:
        return Problem("nouveau drives the cards, and NVIDIA's driver can't take them", _NOUVEAU)
    if "mismatch" in said:
        return Problem(f"the driver was updated while it was in use ({said})", "reboot the host")
    if seen["code"] == 127:
        count = seen["bus"]["nvidia"]
        on_bus = f"{count} of its devices on the PCI bus" if count else "none of its devices on the PCI bus"
        return Problem(f"NVIDIA's driver is not installed: no nvidia-smi, {on_bus}", _INSTALL)
    return Problem(f"nvidia-smi shows no card: {said}", _KERNEL)


def _cards(wanted: Sequence[Gpu], seen: Seen) -> Iterator[Problem]:
    rows = seen["rows"]
    for gpu in wanted:
        row = _row(gpu, rows)
        if row is None:
            shown = ", ".join(f"{r['index']} {r['name']} {r['uuid']}" for r in rows)
            yield Problem(
                f"card {gpu.index} ({gpu.uuid or gpu.model}) is not there: nvidia-smi shows {shown}",
                f"correct `gpus`, or leave the card out: gpus: {{{gpu.index}: {{state: out, reason: …}}}}",
            )
        elif row["memory.total"].isdigit() and int(row["memory.total"]) << 20 < gpu.vram * SMALLER:
            has, said = int(row["memory.total"]) / 1024, gpu.vram / 2**30
            yield Problem(
                f"card {gpu.index} is a {row['name']} of {has:.1f} GiB, the inventory says {gpu.model} of "
                f"{said:.1f} GiB",
                "correct its `model`, or its `vram`",
            )


def _row(gpu: Gpu, rows: Sequence[Mapping[str, str]]) -> Mapping[str, str] | None:
    return next(
        (r for r in rows if (r["uuid"] == gpu.uuid if gpu.uuid else r["index"] == str(gpu.index))), None
    )


def _old(version: str, wanted: Sequence[Gpu], driver: str) -> Iterator[Problem]:
    major = driver.split(".")[0]
    need, gpu = max(((least_driver(version, gpu.model), gpu) for gpu in wanted), key=lambda pair: pair[0])
    if major.isdigit() and int(major) < need:
        yield Problem(
            f"the driver {driver} is too old: Ollama {version} needs {need} for a {gpu.model}",
            f"install a driver from {need} on and reboot, or set an ollama.version that takes this one",
        )


def _nodes(seen: Seen) -> Iterator[Problem]:
    for node in ("/dev/nvidiactl", "/dev/nvidia-uvm"):
        if node not in seen["nodes"]:
            yield Problem(f"{node} is missing: instances may not make it themselves", _NODE)
    if seen["nvidia"] < len(seen["rows"]):
        what = f"{len(seen['rows'])} cards, but {seen['nvidia']} device nodes /dev/nvidia0 and so on"
        yield Problem(what, "`nvidia-smi` as root makes them; ogen-cards.service does so at boot")


def _amd(seen: Seen) -> Iterator[Problem]:
    if "/dev/kfd" not in seen["nodes"] or not seen["render"]:
        missing = "/dev/kfd" if "/dev/kfd" not in seen["nodes"] else "/dev/dri/renderD128"
        count = seen["bus"]["amd"]
        yield Problem(
            f"{missing} is missing: the kernel's amdgpu driver has no card ({count} on the PCI bus)",
            _KFD,
        )


def remarks(host: Host, seen: Seen) -> Iterator[str]:
    """What works, but is worth knowing."""
    known = [gpu for gpu in host.gpus if gpu.vendor == "nvidia"]
    if not any(gpu.state == "in" for gpu in known):
        return
    if len(seen["rows"]) > len(known):
        shown = len(seen["rows"])
        yield f"nvidia-smi shows {shown} cards, the inventory has {len(known)}: the others stay idle"
    if any(row["persistence_mode"] == "Disabled" for row in seen["rows"]):
        yield "persistence mode is off, so that each start waits for the card: enable nvidia-persistenced"
