"""The cards of the fleet while they are dealt: who sits where, and how much room is left."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from ..inventory import hosts_matching
from ..inventory.model import Gpu, Host, Inventory, Model, Pin
from .fitting import Fit

#: a card of the fleet: host name and index
Spot = tuple[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Seat:
    """One replica of a model on the cards of one host."""

    model: Model
    host: Host
    gpus: tuple[Gpu, ...]
    fit: Fit
    pin: Pin | None = None
    kept: bool = False  # where the lock file has it

    @property
    def spots(self) -> tuple[Spot, ...]:
        return tuple((self.host.name, gpu.index) for gpu in self.gpus)

    @property
    def takes_turns(self) -> bool:
        return self.model.residency == "on_demand"


class Board:
    """All cards in state `in`, with the seats on them. Hosts and cards keep the inventory's order."""

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self.hosts = tuple(h for h in inventory.hosts if h.state == "in")
        self.cards = {h.name: tuple(g for g in h.gpus if g.state == "in") for h in self.hosts}
        self.tenants: defaultdict[Spot, list[Seat]] = defaultdict(list)
        self.closed: set[Spot] = set()  # pinned: the inventory says what runs there, and nothing else
        self.seats: dict[int, Seat] = {}  # by id: in the order in which they were put
        self.replicas: Counter[str] = Counter()  # by model, pinned ones included
        self._hosts_of: dict[str, tuple[Host, ...]] = {}

    def hosts_of(self, model: Model) -> tuple[Host, ...]:
        """The hosts in state `in` that `on` matches."""
        if model.on not in self._hosts_of:
            names = {h.name for h in hosts_matching(self.inventory, model.on)}
            self._hosts_of[model.on] = tuple(h for h in self.hosts if h.name in names)
        return self._hosts_of[model.on]

    def cards_of(self, host: Host, model: Model) -> tuple[Gpu, ...]:
        """The cards of `host` that `model` may be dealt: not pinned, and its `main_gpu` where it has one."""
        return tuple(
            gpu
            for gpu in self.cards[host.name]
            if (host.name, gpu.index) not in self.closed and model.main_gpu in (None, gpu.index)
        )

    def put(self, seat: Seat) -> None:
        self.seats[id(seat)] = seat
        self.replicas[seat.model.name] += 1
        for spot in seat.spots:
            self.tenants[spot].append(seat)

    def remove(self, seat: Seat) -> None:
        del self.seats[id(seat)]
        self.replicas[seat.model.name] -= 1
        for spot in seat.spots:
            self.tenants[spot].remove(seat)

    def restore(self, seats: Iterable[Seat]) -> None:
        """Brings back an earlier state: exactly `seats`, in that order."""
        wanted = list(seats)
        for seat in list(self.seats.values()):
            self.remove(seat)
        for seat in wanted:
            self.put(seat)

    def seats_on(self, host: Host) -> list[Seat]:
        """The seats on a host's cards, each once, in the order of the cards."""
        found = {
            id(s): s for gpu in self.cards[host.name] for s in self.tenants.get((host.name, gpu.index), ())
        }
        return list(found.values())

    def used(self, host: Host, gpu: Gpu, model: Model) -> int:
        """Bytes of a card that its tenants hold while `model` runs; models that take turns count once."""
        resident, turns = 0, 0
        for seat in self.tenants[host.name, gpu.index]:
            held = seat.fit.held(seat.gpus.index(gpu))
            if seat.takes_turns:
                turns = max(turns, held)
            else:
                resident += held
        return resident if model.residency == "on_demand" else resident + turns
