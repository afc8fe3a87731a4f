"""Several models on one card: only where all of them stay resident, or take turns by agreement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..fit.account import margin
from ..inventory.model import Gpu, Host, Model, Pin
from .board import Seat
from .deal import Table, wants_several
from .fitting import Fit, Fitter


def share(table: Table, model: Model) -> bool:
    """Seats a replica of `model` beside others: in the room left, else by concessions of all of them."""
    return beside(table, model) or _squeeze(table, model)


def _shared_cards(table: Table, model: Model) -> Iterator[tuple[Host, Gpu, list[Seat]]]:
    """Cards in one-card use on which `model` does not sit yet; what a lock placed there stays there."""
    if wants_several(model):
        return
    for host in table.board.hosts_of(model):
        for gpu in table.board.cards_of(host, model):
            seats = table.board.tenants[host.name, gpu.index]
            if all(len(seat.gpus) == 1 and seat.model is not model for seat in seats):
                yield host, gpu, seats


def beside(table: Table, model: Model, *, roomy: bool = False) -> bool:
    """In the room that tenants leave: on the tightest card, so that others keep theirs, or the roomiest."""
    best: tuple[tuple[object, ...], Seat] | None = None
    for number, (host, gpu, seats) in enumerate(_shared_cards(table, model)):
        used = table.board.used(host, gpu, model)
        fit = table.fitter.fit_whole(model, host, gpu, used)
        if isinstance(fit, Fit):
            left = gpu.vram - gpu.reserve - used - fit.held(0)
            key = (fit.rank, len(seats), -left if roomy else left, number)
            if best is None or key < best[0]:
                best = key, Seat(model, host, (gpu,), fit)
    if best:
        table.board.put(best[1])
    return best is not None


def _squeeze(table: Table, model: Model) -> bool:
    """Together with the tenants, all of them conceding what the inventory allows."""
    best: tuple[tuple[object, ...], list[Seat], list[Seat]] | None = None
    for number, (host, gpu, seats) in enumerate(_shared_cards(table, model)):
        models = [*(seat.model for seat in seats), model]
        fits = together(table.fitter, models, host, gpu)
        if fits is not None:
            key = (max(fit.rank for fit in fits), len(seats), number)
            if best is None or key < best[0]:
                new = [Seat(m, host, (gpu,), fit) for m, fit in zip(models, fits, strict=True)]
                best = key, list(seats), new
    if best is None:
        return False
    for seat in best[1]:
        table.board.remove(seat)
    for seat in best[2]:
        table.board.put(seat)
    return True


def together(
    fitter: Fitter, models: Sequence[Model], host: Host, gpu: Gpu, pin: Pin | None = None
) -> list[Fit] | None:
    """Fits for all `models` on one card, each taking what the least needs of the others leave.

    Models that take turns share the room of the largest of them.
    """
    turns = [model.residency == "on_demand" for model in models]
    held = [fitter.least(model, host, gpu, pin) for model in models]
    if _total(held, turns) + margin(host.ollama.version) > gpu.vram - gpu.reserve:
        return None
    fits: list[Fit] = []
    for number, model in enumerate(models):
        held[number] = 0
        beside = [size if turn is not True else 0 for size, turn in zip(held, turns, strict=True)]
        used = sum(beside) if turns[number] else _total(held, turns)
        fit = fitter.fit_whole(model, host, gpu, used, pin)
        if not isinstance(fit, Fit):
            return None
        fits.append(fit)
        held[number] = fit.held(0)
    return fits


def _total(held: Sequence[int], turns: Sequence[bool]) -> int:
    """Bytes held at most at once."""
    most = max((size for size, turn in zip(held, turns, strict=True) if turn), default=0)
    return most + sum(size for size, turn in zip(held, turns, strict=True) if not turn)


def swap(table: Table, model: Model) -> bool:
    """Moves one tenant beside others elsewhere, where that makes room for `model`."""
    for host, gpu, seats in list(_shared_cards(table, model)):
        for seat in list(seats):
            table.board.remove(seat)
            used = table.board.used(host, gpu, model)
            fit = table.fitter.fit_whole(model, host, gpu, used)
            if isinstance(fit, Fit):
                mine = Seat(model, host, (gpu,), fit)
                table.board.put(mine)
                if beside(table, seat.model):
                    return True
                table.board.remove(mine)
            table.board.put(seat)
    return False
