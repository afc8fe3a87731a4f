"""The cards of hosts looked up in the catalog, each kind once."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import CatalogError
from ..source import Node
from .faults import Faults, near
from .model import Vendor

Known = tuple[str, Vendor, int]  # name, vendor, bytes


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What is known of one card; sizes in bytes."""

    name: str
    vendor: Vendor
    vram: int
    reserve: int


class Cards:
    """Looks cards up; one that the catalog does not know needs `vram` and `vendor`."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self._known: dict[str, Known | CatalogError] = {}

    def card(self, node: Node) -> CardFacts | None:
        """The facts of a card's record that has a model; None after telling what is wrong."""
        model, vendor, vram, reserve = (node.get(k) for k in ("model", "vendor", "vram", "reserve"))
        assert model is not None
        kept = vram.value if vram else 0
        found = self._find(model.value)
        if isinstance(found, CatalogError):
            if not (vram and vendor):
                hint = near(model.value, _names()) or "`ogen catalog` lists them."
                hint += " Or give its vram and vendor"
                self.faults.add(f"gpus: {found.message}", model.where, hint)
                return None
            found = (model.value, vendor.value, kept)
        name, made, total = found
        if vendor is not None and vendor.value != made:
            self.faults.add(f"gpus: a {name} is made by {made}, not {vendor.value}", vendor.where)
        facts = CardFacts(name, made, kept or total, reserve.value if reserve else 0)
        if facts.reserve >= facts.vram and reserve is not None:
            self.faults.add(f"gpus: reserve leaves nothing of the {name}'s memory", reserve.where)
        return facts

    def _find(self, name: str) -> Known | CatalogError:
        if name not in self._known:
            self._known[name] = _find(name)
        return self._known[name]


def _names() -> tuple[str, ...]:
    from ..catalog import gpu_names

    return gpu_names()


def _find(name: str) -> Known | CatalogError:
    from ..catalog import find_gpu

    try:
        gpu = find_gpu(name)
    except CatalogError as error:
        return error
    return gpu.name, gpu.vendor, gpu.vram
