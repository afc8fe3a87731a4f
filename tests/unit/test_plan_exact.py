"""Placement against an exact solver on small random fleets."""

from __future__ import annotations

import itertools
import random

from fleets import fleet, host, model

from ogen.plan.fitting import Fit, Fitter
from ogen.plan.place import place
from ogen.plan.sources import candidates_of

CARDS = ("RTX 3060", "RTX 3070", "RTX 3090", "RTX 4070 Ti SUPER", "A100 80GB")


def small_fleet(seed):
    """Up to seven cards on up to four hosts, up to six replicas of up to four models."""
    dice = random.Random(seed)
    hosts = []
    left = dice.randint(3, 7)
    for name in "abcd":
        count = min(left, dice.randint(1, 3))
        left -= count
        if count:
            kinds = dice.choices(CARDS, weights=(2, 2, 5, 4, 2), k=count)
            hosts.append(host(name, *kinds))
    names = dice.sample(["tiny", "chat", "writer", "coder", "large"], k=dice.randint(2, 4))
    models = [
        model(
            name,
            context=dice.choice((4096, 16384)),
            replicas=dice.randint(1, 2),
            parallel=dice.choice((1, 2)),
        )
        for name in names
    ]
    return fleet(hosts, models)


class Exact:
    """Least (replicas without a seat, replicas beside others, cards in use), by trying everything."""

    def __init__(self, inventory):
        candidates, _ = candidates_of(inventory)
        self.fitter = Fitter(candidates)
        self.hosts = {h.name: h for h in inventory.hosts}
        self.room = {(h.name, g.index): g for h in inventory.hosts for g in h.gpus}
        self.replicas = [m for m in inventory.models for _ in range(m.replicas)]
        self.options = {m.name: self._options(inventory, m) for m in inventory.models}
        self.best = (len(self.replicas) + 1, 0, 0)

    def _options(self, inventory, wanted):
        """Sets of cards of one host that hold the model alone: single ones, else the fewest together."""
        found = []
        for one in inventory.hosts:
            for size in range(1, len(one.gpus) + 1):
                for group in itertools.combinations(one.gpus, size):
                    if isinstance(self.fitter.fit(wanted, one, group), Fit):
                        found.append((one.name, group))
        return found

    def solve(self):
        self._try(0, {}, 0, 0, 0, 0)
        return self.best

    def _try(self, at, on, missing, shared, cards, first):
        if (missing, shared, cards) >= self.best:
            return
        if at == len(self.replicas):
            self.best = (missing, shared, cards)
            return
        wanted = self.replicas[at]
        again = at > 0 and self.replicas[at - 1] is wanted
        options = self.options[wanted.name]
        for number, (name, group) in enumerate(options):
            if again and number < first:
                continue  # replicas of one model are the same: only one order of them is tried
            spots = [(name, gpu.index) for gpu in group]
            tenants = [on[s] for s in spots if s in on]
            if tenants and (len(spots) > 1 or not self._together(spots[0], on[spots[0]], wanted)):
                continue
            grown = dict(on)
            for spot in spots:
                grown[spot] = (*on.get(spot, ()), (wanted, len(spots)))
            more = 1 if tenants else 0
            self._try(at + 1, grown, missing, shared + more, cards + len(spots), number + 1)
        self._try(at + 1, on, missing + 1, shared, cards, len(options))

    def _together(self, spot, tenants, wanted):
        """Whether the least that all of them need fits on the card."""
        if any(size > 1 or other is wanted for other, size in tenants):
            return False
        gpu, one = self.room[spot], self.hosts[spot[0]]
        least = [self.fitter.least(m, one, gpu) for m in (*(m for m, _ in tenants), wanted)]
        return sum(least) + 1024 * 2**20 <= gpu.vram


def ours(inventory):
    candidates, _ = candidates_of(inventory)
    board, _ = place(inventory, Fitter(candidates))
    seats = list(board.seats.values())
    wanted = sum(m.replicas for m in inventory.models)
    shared = sum(max(0, len(tenants) - 1) for tenants in board.tenants.values())
    return (wanted - len(seats), shared, sum(len(seat.gpus) for seat in seats))


def compare(seed):
    inventory = small_fleet(seed)
    return ours(inventory), Exact(inventory).solve()


def test_fifty_small_fleets_are_placed_as_well_as_by_an_exact_solver():
    results = [compare(seed) for seed in range(50)]
    feasible = [(mine, exact) for mine, exact in results if exact[0] == 0]
    assert len(feasible) >= 25, "the fleets are too crowded to tell anything"
    assert sum(exact[1] > 0 for _, exact in feasible) >= 3, "too few fleets on which models share cards"
    assert sum(mine == exact for mine, exact in feasible) >= len(feasible) - 5
    for mine, exact in feasible:
        assert mine[0] == 0
        assert mine[1] <= exact[1] + 1
        assert mine[2] <= exact[2] + 1
    assert all(mine[0] > 0 for mine, exact in results if exact[0] > 0)  # nothing is placed that can't be
