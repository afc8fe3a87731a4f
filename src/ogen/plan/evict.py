"""Whether Ollama's own coarse predictor would throw one model of a server out for another."""

from __future__ import annotations

from collections.abc import Sequence

from ..catalog import Era, era
from ..fit import evicts as would_evict
from .board import Board, Seat


def eviction(board: Board, bundle: Sequence[Seat]) -> str | None:
    """Why the models of one server, loaded one after the other, would not all stay; None where they do.

    Models that take turns are meant to leave, and a host without a card has no such rule.
    """
    if bundle[0].takes_turns or not bundle[0].gpus:
        return None
    rule = "80 %" if era(bundle[0].host.ollama.version) is Era.C else "all"
    for number, loading in enumerate(bundle[1:], 1):
        before = bundle[:number]
        total = sum(gpu.vram - gpu.reserve for gpu in loading.gpus)
        if would_evict(loading.fit.shape, loading.fit.settings, total, [_resident(board, before)]):
            names = ", ".join(seat.model.name for seat in before)
            return (
                f"for {loading.model.name} Ollama predicts more than {rule} of the free memory "
                f"and evicts {names}"
            )
    return None


def _resident(board: Board, before: Sequence[Seat]) -> int:
    """Bytes held when the next model of a server comes: by its others, and by other servers on its cards."""
    mine = {id(seat) for seat in before}
    held = 0
    for card, gpu in enumerate(before[0].gpus):
        held += sum(seat.fit.held(card) for seat in before)
        for seat in board.tenants[before[0].host.name, gpu.index]:
            if id(seat) not in mine and seat.pin is not before[0].pin:
                held += seat.fit.held(seat.gpus.index(gpu))
    return held
