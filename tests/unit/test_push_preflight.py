"""Cards, driver and device nodes: what is told before a host is changed, and that nothing else is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ogen.agent import look_driver
from ogen.agent.machine import Done, Machine
from ogen.catalog import least_driver
from ogen.errors import RemoteError
from ogen.inventory.model import Gpu, Host, Ollama
from ogen.push import preflight

GIB = 1 << 30
FINE = {
    "code": 0,
    "said": [],
    "nouveau": False,
    "bus": {"nvidia": 2, "amd": 0},
    "nodes": ["/dev/nvidiactl", "/dev/nvidia-uvm"],
    "nvidia": 2,
    "render": 0,
}


def row(index: int, **more: str) -> dict[str, str]:
    found = {"index": str(index), "uuid": f"GPU-{index}", "name": "NVIDIA GeForce RTX 3090"}
    found |= {"memory.total": "24576", "driver_version": "550.54.15", "persistence_mode": "Enabled"}
    return {**found, **{key.replace("_total", ".total"): value for key, value in more.items()}}


def seen(*rows: dict[str, str], **more: Any) -> dict[str, Any]:
    return {**FINE, "rows": list(rows), **more}


def gpu(index: int, model: str = "RTX 3090", **more: Any) -> Gpu:
    return Gpu(index, model, more.pop("vendor", "nvidia"), more.pop("vram", 24 * GIB), **more)


def box(*gpus: Gpu, version: str = "0.33.0") -> Host:
    return Host("gpu01", "192.0.2.1", gpus=gpus, ollama=Ollama(version))


def told(host: Host, found: dict[str, Any]) -> list[str]:
    return [f"{problem.what} -> {problem.advice}" for problem in preflight.problems(host, found)]


TWO = (row(0), row(1))
NONE = {"code": 127, "said": ["nvidia-smi: not found"], "nodes": [], "nvidia": 0}


def test_all_is_well() -> None:
    assert preflight.check(box(gpu(0), gpu(1)), seen(*TWO)) == ""
    assert preflight.check(box(), seen(**NONE)) == "", "no cards are wanted"
    assert preflight.check(box(gpu(0, state="out")), seen(**NONE)) == ""


@pytest.mark.parametrize(
    ("gpus", "found", "what", "advice"),
    [
        ((gpu(0),), seen(**NONE), "not installed: no nvidia-smi, 2 of its devices", "apt-get install"),
        (
            (gpu(0),),
            seen(**NONE, bus={"nvidia": 0}),
            "none of its devices on the PCI bus",
            "apt-get",
        ),
        ((gpu(0),), seen(**NONE, nouveau=True), "nouveau drives the cards", "blacklist nouveau"),
        ((gpu(0),), seen(code=18, said=["Driver/library version mismatch"]), "mismatch", "reboot"),
        ((gpu(0),), seen(code=9, said=["has failed"]), "shows no card: has failed", "Secure Boot"),
        (
            (gpu(2),),
            seen(*TWO),
            "card 2 (RTX 3090) is not there: nvidia-smi shows 0",
            "{2: {state: out",
        ),
        ((gpu(0, uuid="GPU-x"),), seen(*TWO), "card 0 (GPU-x) is not there", "correct `gpus`"),
        ((gpu(0),), seen(row(0, memory_total="12288"), row(1)), "of 12.0 GiB, the inventory says", "`vram`"),
        (
            (gpu(0),),
            seen(row(0, driver_version="535.1"), row(1)),
            "535.1 is too old: Ollama 0.33.0",
            "550",
        ),
        ((gpu(0, "GTX 1080", vram=8 * GIB),), seen(*TWO), "needs 570 for a GTX 1080", "from 570 on"),
        ((gpu(0),), seen(*TWO, nodes=["/dev/nvidiactl"]), "/dev/nvidia-uvm is missing", "nvidia-modprobe"),
        ((gpu(0),), seen(*TWO, nvidia=1), "2 cards, but 1 device nodes", "ogen-cards.service"),
        ((gpu(0, vendor="amd"),), seen(**NONE), "/dev/kfd is missing", "modprobe amdgpu"),
        ((gpu(0, vendor="amd"),), seen(**{**NONE, "nodes": ["/dev/kfd"]}), "renderD128 is missing", "amdgpu"),
    ],
)
def test_problems(gpus: tuple[Gpu, ...], found: dict[str, Any], what: str, advice: str) -> None:
    (problem,) = told(box(*gpus), found)
    assert what in problem.split(" -> ")[0]
    assert advice in problem.split(" -> ")[1]


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(RemoteError) as caught:
        preflight.check(box(gpu(0), gpu(5)), seen(row(0, driver_version="470.1"), nodes=[], nvidia=1))
    assert caught.value.message.startswith("card 5")
    assert [line.split(":")[0] for line in caught.value.log] == [
        "the driver 470.1 is too old",
        "/dev/nvidiactl is missing",
        "/dev/nvidia-uvm is missing",
    ]


def test_an_old_driver_is_new_enough_for_an_old_ollama() -> None:
    old = seen(row(0, driver_version="535.1"), row(1))
    assert told(box(gpu(0), version="0.24.0"), old) == []
    assert least_driver("0.30.0", "a card that nobody knows") == 550


def test_remarks() -> None:
    found = seen(row(0), row(1, persistence_mode="Disabled"))
    assert "shows 2 cards, the inventory has 1" in preflight.check(box(gpu(0)), found)
    assert "nvidia-persistenced" in preflight.check(box(gpu(0), gpu(1, state="out")), found)


class Smi(Machine):
    def __init__(self, text: str, code: int = 0) -> None:
        self.answer = Done(code, text)

    def run(self, command: Sequence[str], timeout: float = 60.0, stdin: str = "") -> Done:
        assert command[0] == "nvidia-smi"
        return self.answer


def test_what_the_agent_sees(tmp_path: Path) -> None:
    for name in ("dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/nvidia-uvm", "dev/dri/renderD128"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    for number, (vendor, kind) in enumerate(
        [("0x10de", "0x030000"), ("0x10de", "0x040300"), ("0x1002", "0x038000"), ("0x8086", "0x030000")]
    ):
        device = tmp_path / f"sys/bus/pci/devices/{number}"
        device.mkdir(parents=True)
        (device / "vendor").write_text(vendor + "\n")
        (device / "class").write_text(kind + "\n")
    (tmp_path / "sys/module/nouveau").mkdir(parents=True)
    text = "0, GPU-a, RTX 3090, 24576, 550.54.15, Enabled\nUnable to determine the handle, x\n"
    assert look_driver.seen(Smi(text), str(tmp_path)) == {
        "code": 0,
        "said": ["Unable to determine the handle, x"],
        "rows": [row(0, uuid="GPU-a", name="RTX 3090")],
        "nouveau": True,
        "bus": {"nvidia": 1, "amd": 1},
        "nodes": ["/dev/nvidiactl", "/dev/nvidia-uvm"],
        "nvidia": 2,
        "render": 1,
    }
    gone = look_driver.seen(Smi("nvidia-smi: not found", 127), "/nonexistent")
    assert (gone["code"], gone["rows"], gone["said"]) == (127, [], ["nvidia-smi: not found"])
