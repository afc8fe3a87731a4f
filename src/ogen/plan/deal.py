"""Deals cards to replicas, one model to a card: exact where a replica needs one card, greedy where several.

Replicas that need one card and cards that can hold them form a bipartite graph; replicas are seated
one after the other, the hardest first, and a replica that finds all of its cards taken makes others
move along an augmenting path (Kuhn 1955). So as many replicas get a card of their own as possible.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..inventory.model import Gpu, Host, Model
from .board import Board, Seat, Spot
from .fitting import Fit, Fitter

#: a card that holds a model alone, and how
Option = tuple[Host, Gpu, Fit]
#: kinds of cards on one host up to which every mix is tried; boxes have two or three
_KINDS = 4


@dataclass(slots=True)
class Table:
    """What dealing needs to know: the board, what fits where, and cards that a lock holds for others."""

    board: Board
    fitter: Fitter
    held: Mapping[Spot, str] = field(default_factory=dict)  # spot → the `fill` model that has it
    orders: dict[str, list[Option]] = field(default_factory=dict)
    cursors: Counter[str] = field(default_factory=Counter)  # model → how many of its order are taken

    def order(self, model: Model) -> list[Option]:
        """The cards that hold `model` alone, best first: not another's, fewest concessions, smallest.

        Among equal cards the first of each host comes before the second of any, so that replicas
        spread over hosts.
        """
        if model.name not in self.orders:
            found = [] if wants_several(model) else list(self._ranked(model))
            self.orders[model.name] = [entry for _, entry in sorted(found, key=lambda pair: pair[0])]
        return self.orders[model.name]

    def _ranked(self, model: Model) -> Iterator[tuple[tuple[object, ...], Option]]:
        for number, host in enumerate(self.board.hosts_of(model)):
            nth: Counter[int] = Counter()
            for gpu in self.board.cards_of(host, model):
                fit = self.fitter.fit(model, host, (gpu,))
                if isinstance(fit, Fit):
                    room = gpu.vram - gpu.reserve
                    other = self.held.get((host.name, gpu.index), model.name) != model.name
                    key = (other, fit.rank, room, nth[room], number, gpu.index)
                    nth[room] += 1
                    yield key, (host, gpu, fit)

    def is_open(self, spot: Spot, model: Model) -> bool:
        """Whether `model` may sit here without sharing; models that take turns sit together."""
        tenants = self.board.tenants[spot]
        if not tenants:
            return True
        return (
            model.residency == "on_demand"
            and all(seat.takes_turns and len(seat.gpus) == 1 for seat in tenants)
            and all(seat.model is not model for seat in tenants)
        )


def wants_several(model: Model) -> bool:
    """Whether the inventory asks for more than one card for each replica."""
    if model.gpus_per_replica is not None:
        return model.gpus_per_replica > 1
    return len(model.shares) > 1 or model.split in ("row", "tensor")


# ------------------------------------------------------------------------------------- one card each
def seat_alone(table: Table, model: Model, *, displace_kept: bool = False) -> bool:
    """Gives one replica of `model` a card of its own, moving others where that is what it takes."""
    option = _open_option(table, model)
    if option:
        host, gpu, fit = option
        table.board.put(Seat(model, host, (gpu,), fit))
        return True
    came: dict[str, tuple[Model, Seat]] = {}  # model → who takes its place, and which seat that is
    queue: deque[Model] = deque([model])
    while queue:
        taker = queue.popleft()
        for seat in _movable(table, taker, displace_kept):
            mover = seat.model
            if mover is model or mover.name in came:
                continue
            came[mover.name] = (taker, seat)
            option = _open_option(table, mover)
            if option:
                _shift(table, model, mover, option, came)
                return True
            queue.append(mover)
    return False


def _open_option(table: Table, model: Model) -> Option | None:
    """The best card that is open for `model`; a card once taken stays taken while cards are dealt."""
    order = table.order(model)
    if model.residency == "on_demand":
        spots = ((option, (option[0].name, option[1].index)) for option in order)
        ranked = [
            (not table.board.tenants[s], n, o) for n, (o, s) in enumerate(spots) if table.is_open(s, model)
        ]
        return min(ranked, key=lambda entry: entry[:2])[2] if ranked else None
    tenants = table.board.tenants
    while table.cursors[model.name] < len(order):
        option = order[table.cursors[model.name]]
        if not tenants[option[0].name, option[1].index]:
            return option
        table.cursors[model.name] += 1
    return None


def _movable(table: Table, taker: Model, displace_kept: bool) -> Iterator[Seat]:
    """Seats on cards that would hold `taker`, alone there and not pinned."""
    for host, gpu, _ in table.order(taker):
        tenants = table.board.tenants[host.name, gpu.index]
        if len(tenants) == 1 and len(tenants[0].gpus) == 1 and (displace_kept or not tenants[0].kept):
            yield tenants[0]


def _shift(
    table: Table, model: Model, mover: Model, option: Option, came: Mapping[str, tuple[Model, Seat]]
) -> None:
    """Walks the augmenting path back from the open card to `model`."""
    host, gpu, fit = option
    while mover is not model:
        taker, seat = came[mover.name]
        table.board.remove(seat)
        table.board.put(Seat(mover, host, (gpu,), fit))
        host, gpu = seat.host, seat.gpus[0]
        found = table.fitter.fit(taker, host, (gpu,))
        assert isinstance(found, Fit)
        mover, fit = taker, found
    table.board.put(Seat(model, host, (gpu,), fit))


# -------------------------------------------------------------------------------- several cards each
@dataclass(frozen=True, slots=True)
class Offer:
    """The fewest open cards of one host that hold a replica together."""

    key: tuple[object, ...]
    host: Host
    gpus: tuple[Gpu, ...]
    fit: Fit


@dataclass(slots=True)
class Offers:
    """The offers of all hosts to one model, kept up to date while its replicas are seated."""

    table: Table
    model: Model
    by_host: dict[str, Offer | None] = field(default_factory=dict)

    def take(self) -> bool:
        """Seats a replica at the best offer; False where no host has one."""
        board = self.table.board
        for number, host in enumerate(board.hosts_of(self.model)):
            offer = self.by_host.get(host.name)
            stale = offer is not None and any(board.tenants[host.name, g.index] for g in offer.gpus)
            if host.name not in self.by_host or stale:
                self.by_host[host.name] = best_offer(self.table, self.model, host, number)
        offers = [offer for offer in self.by_host.values() if offer]
        if not offers:
            return False
        best = min(offers, key=lambda offer: offer.key)
        board.put(Seat(self.model, best.host, best.gpus, best.fit))
        return True


def best_offer(table: Table, model: Model, host: Host, number: int) -> Offer | None:
    """The best group of open cards of one host: full before partial, fewest, smallest, side by side."""
    return min(offers(table, model, host, number), key=lambda offer: offer.key, default=None)


def offers(table: Table, model: Model, host: Host, number: int) -> Iterator[Offer]:
    """Groups of open cards that hold a replica, few before many; none after the first size that holds all."""
    tenants, closed = table.board.tenants, table.board.closed
    spots = ((gpu, (host.name, gpu.index)) for gpu in table.board.cards[host.name])
    cards = [gpu for gpu, spot in spots if not tenants[spot] and spot not in closed]
    mine = sum(seat.model is model for seat in table.board.seats_on(host))
    for size in _sizes(model, len(cards)):
        whole = False
        for gpus in _mixes(cards, size):
            room = sum(gpu.vram - gpu.reserve for gpu in gpus)
            if room < table.fitter.floor(model, host, gpus[0]):
                continue
            fit = table.fitter.fit(model, host, gpus)
            if isinstance(fit, Fit):
                held = sum(table.held.get((host.name, g.index), model.name) != model.name for g in gpus)
                spread = gpus[-1].index - gpus[0].index
                key = (held, not fit.whole, size, fit.rank, room, mine, spread, number, gpus[0].index)
                yield Offer(key, host, gpus, fit)
                whole = whole or fit.whole
        if whole:
            return


def _mixes(cards: list[Gpu], size: int) -> Iterator[tuple[Gpu, ...]]:
    """Groups of `size` cards of one vendor, each mix of kinds once, with the first cards of each kind.

    Where nearly every card is another kind, only cards next to each other in size are tried together.
    """
    kinds: dict[tuple[str, int, int], list[Gpu]] = {}
    for gpu in cards:
        kinds.setdefault((gpu.vendor, gpu.vram, gpu.reserve), []).append(gpu)
    for vendor in sorted({vendor for vendor, _, _ in kinds}):
        same = [kinds[kind] for kind in sorted(kinds) if kind[0] == vendor]
        if len(same) > _KINDS:
            row = [gpu for kind in same for gpu in kind]
            groups: Iterator[tuple[Gpu, ...]] = (tuple(row[n : n + size]) for n in range(len(row) - size + 1))
        else:
            groups = _picked(same, size)
        for gpus in groups:
            yield tuple(sorted(gpus, key=lambda gpu: gpu.index))


def _picked(kinds: list[list[Gpu]], size: int) -> Iterator[tuple[Gpu, ...]]:
    if size == 0:
        yield ()
    elif sum(map(len, kinds)) >= size:
        for count in range(min(size, len(kinds[0])), -1, -1):
            for rest in _picked(kinds[1:], size - count):
                yield (*kinds[0][:count], *rest)


def _sizes(model: Model, cards: int) -> range:
    if model.gpus_per_replica is not None:
        return range(model.gpus_per_replica, min(model.gpus_per_replica, cards) + 1)
    if len(model.shares) > 1:
        return range(len(model.shares), min(len(model.shares), cards) + 1)
    return range(2, cards + 1)


# --------------------------------------------------------------------------------------- left-over cards
def fill(table: Table, models: list[Model]) -> None:
    """Deals what is left over to the models with `replicas: fill`: who holds the fewest cards is next."""
    offers = {model.name: Offers(table, model) for model in models}
    cards: Counter[str] = Counter()
    for seat in table.board.seats.values():
        cards[seat.model.name] += len(seat.gpus)
    hungry = list(models)
    while hungry:
        model = min(hungry, key=lambda m: cards[m.name])  # the first of the file among equals
        before = len(table.board.seats)
        if _take_left_over(table, model, offers[model.name]):
            newest = next(reversed(table.board.seats.values()))
            cards[model.name] += len(newest.gpus)
        if len(table.board.seats) == before:
            hungry.remove(model)


def _take_left_over(table: Table, model: Model, offers: Offers) -> bool:
    """One more replica: whole on one card, else over several, else with parts in host memory."""
    order = table.order(model)
    if not (order and order[0][2].whole) and offers.take():
        return True
    option = _open_option(table, model)
    if option is not None:
        host, gpu, fit = option
        table.board.put(Seat(model, host, (gpu,), fit))
    return option is not None
