"""What would have fitted: the next rung of the ladder below the planned one, as lines of the inventory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..catalog.shape import ModelShape
from ..errors import OgenError
from ..fit import ORDER, Account, Concession, Settings, Wishes, account
from ..fit.costs import concessions_of
from ..fit.ladder import Rung, ladder
from ..inventory.model import Host, Inventory
from ..plan.fitting import Candidates, wishes_of
from ..plan.model import Instance, Placement
from ..plan.sources import candidates_of

Shapes = Sequence[tuple[str, ModelShape]]
SMALLEST = 2048  # tokens: a shorter context helps nobody


@dataclass(frozen=True, slots=True)
class Step:
    """The settings to change, first the one that matters most, and what the model needs then."""

    sets: tuple[str, ...]
    needs: int  # bytes on the cards
    saves: int
    fits: bool  # in the room that was told


class Ladder:
    """The ladders of an inventory's models, as the plan has walked them."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._known: dict[str, Candidates] | None = None

    @property
    def candidates(self) -> dict[str, Candidates]:
        """Sources and shapes of each model, read when they are first asked for."""
        if self._known is None:
            self._known, _ = candidates_of(self._inventory)
        return self._known

    def lower(self, host: Host, instance: Instance, placed: Placement, room: int | None) -> Step | None:
        """The first rung that needs less than the planned one, and at most `room` bytes if that is told.

        Where the bounds of the inventory hold none, they are loosened: that is for a person to decide.
        """
        candidates = self.candidates.get(placed.model.name)
        if not candidates or not instance.gpus:
            return None
        cards = len(instance.gpus)
        pin = next((p for p in host.pins if p.gpus == tuple(g.index for g in instance.gpus)), None)
        wishes = wishes_of(placed.model, host, instance.gpus[0].vendor, pin, cards)
        least = min(SMALLEST, wishes.context)
        loose = replace(wishes, kv_cache_at_least="q4_0", context_at_least=least)
        to_host = replace(loose, order=ORDER, gpu_layers_at_least=1)
        found: list[Step] = []
        for wish in (wishes, loose, to_host):
            found += _steps(candidates, wish, placed, cards, room)
            if any(step.fits for step in found):
                break
        return next((step for step in found if step.fits), found[0] if found else None)


def _steps(
    candidates: Candidates, wishes: Wishes, placed: Placement, cards: int, room: int | None
) -> list[Step]:
    """The first rung below the planned one, and the first that fits."""
    shapes = [(source.ref, shape) for source, shape in candidates]
    planned = placed.account.total_gpu_bytes
    try:
        rungs = [(rung, _account(shapes, rung, cards)) for rung in ladder(shapes, wishes)]
    except OgenError:
        return []
    at = next((rung for rung, need in rungs if need.total_gpu_bytes <= planned), None)
    below = [(rung, need) for rung, need in rungs if need.total_gpu_bytes < planned]
    if at is None or not below:
        return []
    first = below[0]
    fitting = [one for one in below if room is None or one[1].total_gpu_bytes <= room]
    chosen = [first, *fitting[:1]] if fitting else [first]
    return [_step(shapes, at, one, planned, cards, one in fitting) for one in chosen]


def _account(shapes: Shapes, rung: Rung, cards: int) -> Account:
    return account(shapes[rung.candidate][1], rung.settings, cards=cards)


def _step(
    shapes: Shapes,
    at: Rung,
    one: tuple[Rung, Account],
    planned: int,
    cards: int,
    fits: bool,
) -> Step:
    rung, need = one

    def total(candidate: int, settings: Settings) -> int:
        return _account(shapes, Rung(candidate, settings), cards).total_gpu_bytes

    made = concessions_of(shapes, at.candidate, at.settings, rung.candidate, rung.settings, total)
    sets = tuple(_words(c, rung, shapes[rung.candidate][0]) for c in made)
    return Step(sets, need.total_gpu_bytes, planned - need.total_gpu_bytes, fits)


def _words(concession: Concession, rung: Rung, ref: str) -> str:
    """A concession as a line of the model in the inventory."""
    settings = rung.settings
    lines = {
        "quantisation": f"from: {ref}",
        "kv_cache": f"kv_cache: {settings.kv_cache}",
        "context": f"context: {settings.context}",
        "batch": f"batch: {settings.batch}",
        "experts": "concessions: [experts]",
        "gpu_layers": f"num_gpu: {settings.gpu_layers}",
        "kv_on_host": "low_vram: true",
    }
    return lines[concession.what]
