"""Cards: nvidia-smi's text, and the log lines of each era of Ollama."""

from __future__ import annotations

import pytest

from ogen.agent import cards

SMI = """\
0, GPU-aaaa, 00000000:01:00.0, 24576, NVIDIA GeForce RTX 3090, 550.54
1, GPU-bbbb, 00000000:02:00.0, 24576, NVIDIA GeForce RTX 3090, 550.54
"""
KNOWN = cards.parse_smi(SMI)


def line(**values: str) -> str:
    shown = " ".join(f'{k}="{v}"' if " " in v or not v else f"{k}={v}" for k, v in values.items())
    return f'time=2026-01-01T00:00:00Z level=INFO source=types.go:32 msg="inference compute" {shown}'


def era_c(number: int, pci: str, filter_id: str = "", library: str = "CUDA") -> str:
    return line(id=str(number), filter_id=filter_id, library=library, pci_id=pci, name="CUDA0")


A0 = line(id="GPU-aaaa", library="cuda")
A1 = line(id="GPU-bbbb", library="cuda")
CPU_A, CPU_C = line(id="0", library="cpu"), line(id="cpu", library="cpu")


def test_smi() -> None:
    assert [(c.number, c.uuid, c.memory, c.driver) for c in KNOWN] == [
        (0, "GPU-aaaa", 24576, "550.54"),
        (1, "GPU-bbbb", 24576, "550.54"),
    ]


@pytest.mark.parametrize(
    "text",
    ["", "No devices were found\n", "NVIDIA-SMI has failed because it couldn't communicate\n", "a, b\n"],
)
def test_smi_without_cards(text: str) -> None:
    assert cards.parse_smi(text) == []


def test_smi_a_card_off_the_bus_keeps_the_others() -> None:
    text = "0, GPU-aaaa, 00000000:01:00.0, [Unknown Error], NVIDIA\n" + SMI.splitlines()[1] + "\n"
    assert [(c.number, c.memory) for c in cards.parse_smi(text)] == [(0, 0), (1, 24576)]


@pytest.mark.parametrize(
    ("log", "wanted"),
    [
        ([A0], ["GPU-aaaa"]),
        ([A0], ["0"]),
        ([A1, A0], ["GPU-aaaa", "GPU-bbbb"]),
        ([era_c(0, "0000:02:00.0")], ["GPU-bbbb"]),
        ([era_c(0, "0000:02:00.0", "GPU-bbbb")], ["1"]),
        ([era_c(0, "0000:02:00.0", "1")], ["1"]),
        ([CPU_A], []),
        ([CPU_C], []),
    ],
)
def test_the_right_cards(log: list[str], wanted: list[str]) -> None:
    assert cards.check(["noise", *log], wanted, KNOWN) is None


@pytest.mark.parametrize(
    ("log", "wanted", "word"),
    [
        ([], ["GPU-aaaa"], "no 'inference compute'"),
        ([A1], ["GPU-aaaa"], "instead of GPU-aaaa"),
        ([A0, A1], ["GPU-aaaa"], "also took GPU-bbbb"),
        ([era_c(0, "0000:01:00.0")], ["GPU-bbbb"], "instead of GPU-bbbb"),
        ([era_c(0, "0000:01:00.0")], ["1"], "instead of 1"),
        ([CPU_A], ["GPU-aaaa"], "CPU"),
        ([CPU_C], ["0"], "CPU"),
        ([A0], [], "without a card"),
        ([era_c(0, "0000:01:00.0", library="Vulkan")], ["GPU-aaaa"], "Vulkan"),
    ],
)
def test_the_wrong_cards(log: list[str], wanted: list[str], word: str) -> None:
    assert word in (cards.check(log, wanted, KNOWN) or "")


def test_pairs_of_a_slog_line() -> None:
    found = cards.pairs('msg="inference compute" id=0 description="a \\"b\\" c" variant="" x=1')
    assert found == {"msg": "inference compute", "id": "0", "description": 'a "b" c', "variant": "", "x": "1"}
