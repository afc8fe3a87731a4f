"""GPU cards: usable memory as the driver reports it, compute capability, bandwidth."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from .. import source
from ..errors import CatalogError

MIB = 1024 * 1024
_FILE = Path(__file__).with_name("data") / "gpus.yaml"
_NOISE = re.compile(r"\b(nvidia|geforce|amd|radeon|tesla|quadro|instinct|graphics|gpu)\b")


@dataclass(frozen=True, slots=True)
class GpuCard:
    """What is known of a card."""

    name: str
    vendor: Literal["nvidia", "amd"]
    vram: int  # bytes, usable in total as the driver reports them
    compute: str  # compute capability ("8.6") or gfx target ("gfx1100")
    aliases: tuple[str, ...]
    bandwidth_gbs: float  # GB/s of its memory
    source: str  # where the figures come from


def find_gpu(name: str) -> GpuCard:
    """The card called `name` in any usual spelling; raises CatalogError with near names."""
    found = _index().get(_plain(name))
    if found is None:
        near = difflib.get_close_matches(_plain(name), list(_index()), n=3, cutoff=0.6)
        names = list(dict.fromkeys(_index()[n].name for n in near))
        hint = f"did you mean {' or '.join(names)}?" if names else "`ogen catalog list --gpus` shows all"
        raise CatalogError(f"no GPU called {name[:80]!r} is known", hint=f"{hint} Or give its vram yourself")
    return found


def gpu_names() -> tuple[str, ...]:
    """All names, in the order of the file."""
    return tuple(card.name for card in gpus())


@lru_cache(maxsize=1)
def gpus() -> tuple[GpuCard, ...]:
    """All cards."""
    node = source.read(_FILE, "catalog/data/gpus.yaml")
    sources = node.value["sources"].plain()
    cards = []
    for vendor in ("nvidia", "amd"):
        for name, entry in node.value[vendor].items():
            mib, compute, bandwidth, said, *aliases = entry.plain()
            cards.append(
                GpuCard(
                    name, vendor, mib * MIB, str(compute), tuple(aliases), float(bandwidth), sources[said]
                )
            )
    return tuple(cards)


def _plain(name: str) -> str:
    """A name without makers, spaces and case: "NVIDIA GeForce RTX 3090" and "rtx-3090" are one."""
    text = _NOISE.sub(" ", name.lower())
    return re.sub(r"[^a-z0-9]", "", re.sub(r"(\d)\s*(gb|gib)\b", r"\1gb", text))


@lru_cache(maxsize=1)
def _index() -> dict[str, GpuCard]:
    index: dict[str, GpuCard] = {}
    for card in gpus():
        for name in (card.name, *card.aliases):
            index.setdefault(_plain(name), card)
    return index
