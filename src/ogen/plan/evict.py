"""Whether Ollama's own coarse predictor would throw one model of a server out for another."""

from __future__ import annotations

from collections.abc import Sequence

from ..catalog import Era, era
from ..fit import evicts
from .board import Board, Seat


def eviction(board: Board, bundle: Sequence[Seat], *, in_order: bool = False) -> str | None:
    """Why the models of one server would not all stay; None where they do.

    Each must be able to come last, as after a crash; with `in_order` only as they are loaded at the start.
    Models that take turns are meant to leave, and a host without a card has no such rule.
    """
    if bundle[0].takes_turns or not bundle[0].gpus or len(bundle) < 2:
        return None
    rule = "80 %" if era(bundle[0].host.ollama.version) is Era.C else "all"
    for number, loading in enumerate(bundle):
        before = bundle[:number] if in_order else [seat for seat in bundle if seat is not loading]
        total = sum(gpu.vram - gpu.reserve for gpu in loading.gpus)
        resident = _resident(board, loading, before)
        if before and evicts(loading.fit.shape, loading.fit.settings, total, [resident]):
            names = ", ".join(seat.model.name for seat in before)
            return (
                f"for {loading.model.name} Ollama predicts more than {rule} of the free memory "
                f"and evicts {names}"
            )
    return None


def _resident(board: Board, loading: Seat, before: Sequence[Seat]) -> int:
    """Bytes held on a server's cards when `loading` comes: by its own models, and by other servers there."""
    held = 0
    for gpu in loading.gpus:
        tenants = board.tenants[loading.host.name, gpu.index]
        if loading.pin:
            others = [*before, *(seat for seat in tenants if seat.pin is not loading.pin)]
        else:
            others = [seat for seat in tenants if seat is not loading]
        held += sum(seat.fit.held(seat.gpus.index(gpu)) for seat in others)
    return held
