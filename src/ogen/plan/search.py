"""A bounded search for tight fleets, where dealing one replica after the other leaves some without a seat.

Depth first over replicas, the hardest first, each on the cards that would hold it: alone, over several,
or beside others where the least that all of them need still fits. It keeps the best complete seating by
fewest shared seats, then fewest cards, and stops after a number of steps: for a few boxes that is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..fit.account import margin
from ..inventory.model import Gpu, Host, Model
from .board import Seat
from .deal import Table, offers, wants_several
from .fitting import Fit
from .share import settle

STEPS = 4000

#: cards of one host for a replica; the number of replicas that it would share with
_Move = tuple[Host, tuple[Gpu, ...], bool]


@dataclass(slots=True)
class _Search:
    """The seats tried so far are on the board itself, and are taken back on the way up."""

    table: Table
    replicas: Sequence[Model]
    limit: tuple[int, int]  # shared seats and cards of the best seating that is known
    steps: int = STEPS
    best: list[Seat] | None = None
    path: list[Seat] = field(default_factory=list)

    def run(self, at: int, shared: int, cards: int, last: _Move | None) -> None:
        if (shared, cards + len(self.replicas) - at) >= self.limit or self.steps <= 0:
            return
        self.steps -= 1
        if at == len(self.replicas):
            self.limit, self.best = (shared, cards), list(self.path)
            return
        model = self.replicas[at]
        same = at > 0 and self.replicas[at - 1] is model
        for host, gpus, beside in self._moves(model):
            if same and last and not beside and _before(self.table, (host, gpus), last):
                continue  # replicas of one model are alike: one order of them is enough
            fit = self.table.fitter.fit(model, host, gpus)
            assert isinstance(fit, Fit)
            seat = Seat(model, host, gpus, fit)
            self.table.board.put(seat)
            self.path.append(seat)
            self.run(at + 1, shared + beside, cards + len(gpus), None if beside else (host, gpus, beside))
            self.path.pop()
            self.table.board.remove(seat)

    def _moves(self, model: Model) -> Iterator[_Move]:
        """Cards for one replica: alone, then over several, then beside others; of equal cards the first."""
        seen: set[tuple[object, ...]] = set()
        beside: list[_Move] = []
        for host, gpu, _ in self.table.order(model):
            tenants = self.table.board.tenants[host.name, gpu.index]
            key = (host.name, gpu.vram, gpu.reserve, tuple(sorted(seat.model.name for seat in tenants)))
            if key in seen:
                continue
            seen.add(key)
            if self.table.is_open((host.name, gpu.index), model):
                yield host, (gpu,), False
            elif self._has_room(host, gpu, model):
                beside.append((host, (gpu,), True))
        for number, host in enumerate(self.table.board.hosts_of(model)):
            for offer in offers(self.table, model, host, number):
                yield host, offer.gpus, False
        yield from beside

    def _has_room(self, host: Host, gpu: Gpu, model: Model) -> bool:
        """Whether the least that the tenants and `model` need fits; what a lock placed stays as it is."""
        tenants = self.table.board.tenants[host.name, gpu.index]
        if wants_several(model) or any(len(s.gpus) > 1 or s.model is model for s in tenants):
            return False
        least = [self.table.fitter.least(m, host, gpu) for m in (*(s.model for s in tenants), model)]
        return sum(least) + margin(host.ollama.version) <= gpu.vram - gpu.reserve


def _before(table: Table, move: tuple[Host, tuple[Gpu, ...]], last: _Move) -> bool:
    hosts = table.board.hosts
    return (hosts.index(move[0]), move[1][0].index) < (hosts.index(last[0]), last[1][0].index)


def search(table: Table, replicas: Sequence[Model], limit: tuple[int, int]) -> bool:
    """Seats all `replicas`, with less sharing or fewer cards than `limit`; False where it finds no way."""
    found = _Search(table, replicas, limit)
    found.run(0, 0, 0, None)
    if found.best is None:
        return False
    for seat in found.best:
        table.board.put(seat)
    for spot in dict.fromkeys(spot for seat in found.best for spot in seat.spots):
        settle(table.board, table.fitter, spot)
    return True
