"""Which cards an instance took, told by its log and checked against nvidia-smi's list."""

from __future__ import annotations

import csv
import re
import shlex
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from .machine import Machine

QUERY = ("index", "uuid", "pci.bus_id", "memory.total", "name", "driver_version")
_PAIR = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)')


class Card(NamedTuple):
    """One line of nvidia-smi; memory in MiB."""

    number: int  # nvidia-smi's index
    uuid: str
    pci: str
    memory: int
    name: str
    driver: str = ""


def parse_smi(text: str) -> List[Card]:
    """The output of nvidia-smi --format=csv,noheader,nounits for QUERY; other lines are skipped."""
    cards = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        cells = [c.strip() for c in row]
        if len(cells) >= 5 and cells[0].isdigit():
            memory = int(cells[3]) if cells[3].isdigit() else 0
            driver = cells[5] if len(cells) > 5 else ""
            cards.append(Card(int(cells[0]), cells[1], cells[2], memory, cells[4], driver))
    return cards


def list_cards(machine: Machine) -> List[Card]:
    command = ["nvidia-smi", "--query-gpu=" + ",".join(QUERY), "--format=csv,noheader,nounits"]
    done = machine.run(command, timeout=30.0)
    return parse_smi(done.text) if done.code == 0 else []


def pairs(line: str) -> Dict[str, str]:
    """key=value of a slog line; quoted values without their quotes."""
    found = {}
    for key, value in _PAIR.findall(line):
        if value.startswith('"'):
            try:
                value = shlex.split(value)[0] if value != '""' else ""
            except ValueError:
                value = value.strip('"')
        found[key] = value
    return found


def inference(lines: Sequence[str]) -> List[Dict[str, str]]:
    """The "inference compute" lines of an Ollama log: one per card that the server took."""
    return [pairs(line) for line in lines if 'msg="inference compute"' in line]


def check(lines: Sequence[str], wanted: Sequence[str], known: Sequence[Card]) -> Optional[str]:
    """What is wrong with the cards that the log shows; None if they are exactly the wanted ones.

    `wanted` holds UUIDs, or indexes as text; () is an instance without a card. A line names its card
    by UUID (eras A and B), or by filter_id and pci_id, since `id` is an index among the visible ones (C).
    """
    seen = inference(lines)
    if not seen:
        return "its log shows no 'inference compute' line"
    on_cards = [s for s in seen if s.get("library", "").lower() != "cpu" and s.get("id") != "cpu"]
    if not wanted:
        return "it took %s, but was meant to run without a card" % _names(on_cards) if on_cards else None
    if not on_cards:
        return "it runs on the CPU instead of %s" % ", ".join(wanted)
    if known and any("vulkan" in s.get("library", "").lower() for s in on_cards):
        return "it uses Vulkan instead of CUDA"
    table = {w: _card(w, known) for w in wanted}
    left = list(on_cards)
    for name, card in table.items():
        match = next((s for s in left if _is(s, name, card)), None)
        if match is None:
            return "it took %s instead of %s" % (_names(on_cards), name)
        left.remove(match)
    return "it also took %s" % _names(left) if left else None


def _card(wanted: str, known: Sequence[Card]) -> Optional[Card]:
    return next((c for c in known if wanted in (c.uuid, str(c.number))), None)


def _is(shown: Dict[str, str], wanted: str, card: Optional[Card]) -> bool:
    """Whether a log line shows the wanted card, by the strongest name that it has."""
    names = {shown.get("id", ""), shown.get("filter_id", "")}
    if any(n.startswith(("GPU-", "MIG-")) for n in names):
        return (card.uuid if card else wanted) in names
    if card and shown.get("pci_id"):
        return _pci(shown["pci_id"]) == _pci(card.pci)
    return wanted in names or (card is not None and card.uuid in names)


def _pci(text: str) -> str:
    """nvidia-smi writes 00000000:01:00.0, others 0000:01:00.0."""
    return ":".join(text.lower().split(":")[-2:])


def _names(shown: Sequence[Dict[str, str]]) -> str:
    found = [s.get("filter_id") or s.get("pci_id") or s.get("id") or "?" for s in shown]
    return ", ".join(found)


def facts(cards: Sequence[Card]) -> List[Dict[str, Any]]:
    """For the hello; memory in bytes."""
    return [
        {
            "index": c.number,
            "uuid": c.uuid,
            "pci": c.pci,
            "memory": c.memory * 1024 * 1024,
            "name": c.name,
            "driver": c.driver,
        }
        for c in cards
    ]
