"""Several models on one card: only where all of them stay resident, or take turns by agreement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..fit.account import margin
from ..inventory.model import Gpu, Host, Model, Pin
from .board import Board, Seat, Spot
from .deal import Table, wants_several
from .fitting import Fit, Fitter, host_key


def _shared_cards(table: Table, model: Model) -> Iterator[tuple[Host, Gpu, list[Seat]]]:
    """Cards in one-card use on which `model` does not sit yet."""
    if wants_several(model):
        return
    for host in table.board.hosts_of(model):
        for gpu in table.board.cards_of(host, model):
            seats = table.board.tenants[host.name, gpu.index]
            if seats and all(len(seat.gpus) == 1 and seat.model is not model for seat in seats):
                yield host, gpu, seats


def beside(table: Table, model: Model, wanted: int, *, roomy: bool = False) -> int:
    """Seats up to `wanted` replicas in the room that tenants leave: on the tightest cards, or the roomiest.

    Returns how many. One look at the cards is enough, as no card takes two replicas of a model.
    """
    found: list[tuple[tuple[object, ...], Seat]] = []
    for number, (host, gpu, seats) in enumerate(_shared_cards(table, model) if wanted else ()):
        used = table.board.used(host, gpu, model)
        fit = table.fitter.fit_whole(model, host, gpu, used)
        if isinstance(fit, Fit):
            left = gpu.vram - gpu.reserve - used - fit.held(0)
            key = (fit.rank, len(seats), -left if roomy else left, number)
            found.append((key, Seat(model, host, (gpu,), fit)))
    best = sorted(found, key=lambda entry: entry[0])[:wanted]
    for _, seat in best:
        table.board.put(seat)
    return len(best)


def squeeze(table: Table, model: Model) -> bool:
    """Seats a replica together with tenants of a card, all of them conceding what the inventory allows."""
    best: tuple[tuple[object, ...], Host, Gpu] | None = None
    seen: set[tuple[object, ...]] = set()
    for number, (host, gpu, seats) in enumerate(_shared_cards(table, model)):
        look = (host_key(host), gpu.vendor, gpu.vram, gpu.reserve, *sorted(s.model.name for s in seats))
        if look in seen:
            continue
        seen.add(look)
        fits = together(table.fitter, [*(seat.model for seat in seats), model], host, gpu)
        if fits is not None:
            key = (max(fit.rank for fit in fits), len(seats), number)
            if best is None or key < best[0]:
                best = key, host, gpu
    if best is None:
        return False
    _, host, gpu = best
    alone = table.fitter.fit(model, host, (gpu,))
    assert isinstance(alone, Fit)  # it fits beside others, so it fits alone
    table.board.put(Seat(model, host, (gpu,), alone))
    settle(table.board, table.fitter, (host.name, gpu.index))
    return True


def settle(board: Board, fitter: Fitter, spot: Spot) -> None:
    """Gives the tenants of a shared card fits that leave room for each other, whoever came first.

    The larger take what they want and the smaller what is left; where that is not enough, each takes what
    the least needs of the others leave. So the same tenants are always the same plan, with a lock or without.
    """
    seats = board.tenants[spot]
    if len(seats) < 2 or any(seat.pin or len(seat.gpus) > 1 for seat in seats):
        return
    if all(seat.takes_turns for seat in seats):
        return
    host, gpu = seats[0].host, seats[0].gpus[0]
    seats = sorted(
        seats, key=lambda s: (fitter.is_embedding(s.model), -fitter.least(s.model, host, gpu), s.model.name)
    )
    models = [seat.model for seat in seats]
    fits = one_by_one(fitter, models, host, gpu) or together(fitter, models, host, gpu)
    if fits is None:
        return
    for seat in seats:
        board.remove(seat)
    for seat, fit in zip(seats, fits, strict=True):
        board.put(replace(seat, fit=fit))


def one_by_one(fitter: Fitter, models: Sequence[Model], host: Host, gpu: Gpu) -> list[Fit] | None:
    """Fits for `models` in order, each taking the best that those before it leave."""
    turns = [model.residency == "on_demand" for model in models]
    fits: list[Fit] = []
    for number, model in enumerate(models):
        held = [fit.held(0) for fit in fits]
        if turns[number]:
            used = sum(size for size, turn in zip(held, turns[:number], strict=True) if not turn)
        else:
            used = _total(held, turns[:number])
        fit = fitter.fit_whole(model, host, gpu, used)
        if not isinstance(fit, Fit):
            return None
        fits.append(fit)
    return fits


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
                if beside(table, seat.model, 1):
                    return True
                table.board.remove(mine)
            table.board.put(seat)
    return False
