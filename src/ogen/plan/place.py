"""Where every replica goes: pins, what the lock has, what numbers demand, then what is left over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..errors import OgenError
from ..inventory.model import Inventory, Model
from .board import Board
from .deal import Offers, Table, fill, seat_alone
from .fitting import Fitter
from .kept import Group, keep, keep_left_over
from .pins import seat_pins
from .search import search
from .share import beside, settle, squeeze, swap
from .shortage import shortage

#: more replicas than these are too many for a search to get through
_SMALL = 24


def place(inventory: Inventory, fitter: Fitter) -> tuple[Board, list[OgenError]]:
    """A seat for every replica, or the errors that say which have none, and what would do.

    Embedding models are small and first try to ride along on cards of others. A lock is left behind only
    where nothing fits with it: replicas that a number demands first take open cards, then move what the
    lock has, and at last everything is dealt as if there were no lock.
    """
    tries = [(inventory, True), (inventory, False)]
    if inventory.lock and inventory.lock.placements:
        tries.append((replace(inventory, lock=replace(inventory.lock, placements={})), False))
    for attempt, ride in tries:
        board, problems, short = _deal(attempt, fitter, ride)
        if not short:
            return board, problems
    return board, [*problems, *(shortage(board, fitter, m, n) for m, n in short.values())]


def _deal(
    inventory: Inventory, fitter: Fitter, ride: bool
) -> tuple[Board, list[OgenError], dict[str, tuple[Model, int]]]:
    """The board, errors of pins, and by model how many replicas have no seat."""
    board = Board(inventory)
    problems, excused = seat_pins(board, fitter)
    held = keep(board, fitter)
    riders = [m for m in inventory.models if ride and fitter.is_embedding(m)]
    drivers = [m for m in inventory.models if m not in riders]
    table = Table(board, fitter, _held_spots(held))
    short = _seat_required(table, drivers)
    keep_left_over(board, fitter, held)
    table = Table(board, fitter)
    fill(table, [m for m in drivers if m.replicas == "fill" and m.name not in short])
    for model in riders:
        _ride(table, model)
        if _lacking(board, model):
            short[model.name] = (model, _lacking(board, model))
    for spot, tenants in list(board.tenants.items()):
        if len(tenants) > 1:
            settle(board, fitter, spot)
    return board, problems, {name: entry for name, entry in short.items() if name not in excused}


def _ride(table: Table, model: Model) -> None:
    """Seats replicas of `model` beside others, on as many cards as it wants and finds."""
    every = sum(len(table.board.cards[host.name]) for host in table.board.hosts)
    beside(table, model, every if model.replicas == "fill" else _missing(table.board, model), roomy=True)
    for _ in range(_missing(table.board, model)):
        if not (squeeze(table, model) or swap(table, model)):
            return


def _held_spots(held: list[Group]) -> dict[tuple[str, int], str]:
    return {(host.name, gpu.index): models[0].name for host, gpus, models in held for gpu in gpus}


def _seat_required(table: Table, models: list[Model]) -> dict[str, tuple[Model, int]]:
    """Seats every demanded replica; where dealing falls short or shares cards, a search may do better."""
    board = table.board
    order = _hardest_first(table, models)
    replicas = [model for model in order for _ in range(_missing(board, model))]
    before = dict(board.seats)
    short = _deal_required(table, order)
    dealt = list(board.seats.values())
    fresh = [seat for seat in dealt if id(seat) not in before]
    shared = sum(len(s.gpus) == 1 and len(board.tenants[s.spots[0]]) > 1 for s in fresh)
    if not (short or shared) or len(replicas) > _SMALL:
        return short
    board.restore(before.values())
    limit = (shared, sum(len(s.gpus) for s in fresh)) if not short else (len(replicas) + 1, 0)
    if search(table, replicas, limit):
        return {}
    board.restore(dealt)
    return short


def _deal_required(table: Table, order: list[Model]) -> dict[str, tuple[Model, int]]:
    """Seats replicas one after the other, the hardest first; those left over share a card at last."""
    waiting: list[Model] = []
    for model in order:
        waiting += [model] * _seat_several(table, model, _missing(table.board, model))
    waiting = _seat_singles(table, waiting, False)
    waiting = _share_cards(table, waiting)
    waiting = _seat_singles(table, waiting, True)  # only now may what a lock has placed move
    waiting = _while_it_works(waiting, lambda m: swap(table, m))
    return {model.name: (model, _lacking(table.board, model)) for model in waiting}


def _share_cards(table: Table, waiting: list[Model]) -> list[Model]:
    """Seats replicas over several cards, beside others, or by concessions of all; returns the rest."""
    rest: list[Model] = []
    for name in dict.fromkeys(model.name for model in waiting):
        mine = [m for m in waiting if m.name == name]
        offers, left = Offers(table, mine[0]), len(mine)
        while left and offers.take():
            left -= 1
        left -= beside(table, mine[0], left)
        while left and squeeze(table, mine[0]):
            left -= 1
        rest += mine[:left]
    return rest


def _while_it_works(waiting: list[Model], seat: Callable[[Model], bool]) -> list[Model]:
    """Seats replicas; where one of a model finds no seat, its others are not tried. Returns the rest."""
    rest: list[Model] = []
    hopeless: set[str] = set()
    for model in waiting:
        if model.name in hopeless or not seat(model):
            hopeless.add(model.name)
            rest.append(model)
    return rest


def _lacking(board: Board, model: Model) -> int:
    """Replicas that must still be seated; `fill` demands one."""
    wanted = 1 if model.replicas == "fill" else model.replicas
    return max(0, wanted - board.replicas[model.name])


def _missing(board: Board, model: Model) -> int:
    """What is lacking, as far as it is worth trying: no card holds two replicas of a model."""
    return min(_lacking(board, model), 1 + sum(len(board.cards[host.name]) for host in board.hosts))


def _hardest_first(table: Table, models: list[Model]) -> list[Model]:
    """Models that need several cards, then those that fewest cards hold, then the largest."""

    def key(model: Model) -> tuple[int, int, int]:
        order = table.order(model)
        least = min((fit.account.total_gpu_bytes for _, _, fit in order), default=0)
        return (len(order), -least, models.index(model))

    return sorted(models, key=key)


def _seat_several(table: Table, model: Model, wanted: int) -> int:
    """Seats replicas over several cards where no single card holds all of the model; returns the rest."""
    order = table.order(model)
    if order and order[0][2].whole:
        return wanted
    offers = Offers(table, model)
    while wanted and offers.take():
        wanted -= 1
    return wanted


def _seat_singles(table: Table, waiting: list[Model], displace_kept: bool) -> list[Model]:
    """Seats replicas on cards of their own; returns those for which there is none."""
    return _while_it_works(waiting, lambda m: seat_alone(table, m, displace_kept=displace_kept))
