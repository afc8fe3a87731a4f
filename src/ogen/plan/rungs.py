"""Autofit's rungs: what an instance can be lowered to, its models together, in steps worth a reload."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from ..inventory.model import Host, Model
from .board import Board, Seat
from .fitting import Fit, Fitter
from .instances import Bundles, instance_of
from .model import Entry, Instance, Placement, Pool, Rung

MOST = 8  # rungs of an instance: each has models of its own in the store
LEAST = 128 * 2**20  # bytes that a rung must spare over the one above it

Need = tuple[int, ...]  # bytes on each card
Step = tuple[list[Seat], Need]


def with_rungs(
    board: Board,
    fitter: Fitter,
    instances: Mapping[str, tuple[Instance, ...]],
    bundles: Bundles,
    entries: Sequence[Entry],
) -> Mapping[str, tuple[Instance, ...]]:
    """The instances, each with its rungs where one of its models takes part."""

    def made(one: Instance) -> Instance:
        bundle = bundles[one.host, one.name]
        if not any(map(takes_part, bundle)):
            return one
        still = len(bundle) > 1 or not may_restart(one, entries)
        rungs = tuple(_rungs(board, fitter, one, bundle, still))
        return replace(one, rungs=rungs) if len(rungs) > 1 else one

    return {host: tuple(map(made, mine)) for host, mine in instances.items()}


def pointing(entries: Sequence[Entry], instances: Mapping[str, tuple[Instance, ...]]) -> tuple[Entry, ...]:
    """The entries, whose members are to know the rungs of what runs behind them."""
    found = {(one.host, one.name): one for mine in instances.values() for one in mine if one.rungs}
    if not found:
        return tuple(entries)

    def pointed(pool: Pool) -> Pool:
        members = (replace(m, runs=found.get((m.host, m.instance), m.runs)) for m in pool.members)
        return replace(pool, members=tuple(members))

    return tuple(replace(entry, pools=tuple(map(pointed, entry.pools))) for entry in entries)


def wanted(model: Model, host: Host) -> bool:
    """Whether the inventory wants this model to follow the memory that is free; its own word comes first."""
    here = host.autofit is not None and host.autofit.enabled
    return here if model.autofit is None else model.autofit


def takes_part(seat: Seat) -> bool:
    """Whether it is wanted, and has cards whose memory can be read."""
    return wanted(seat.model, seat.host) and bool(seat.gpus)


def may_restart(instance: Instance, entries: Iterable[Entry]) -> bool:
    """Whether the host alone can keep everybody away from it meanwhile: the balancers that list it run
    there too, and each has another instance for its requests."""
    own = (instance.host, instance.name)
    listing = [
        (entry, pool)
        for entry in entries
        for pool in entry.pools
        if own in [(member.host, member.instance) for member in pool.members]
    ]
    return all(set(e.hosts) == {instance.host} and len(p.members) > 1 for e, p in listing)


def _rungs(
    board: Board, fitter: Fitter, planned: Instance, bundle: list[Seat], still: bool
) -> Iterator[Rung]:
    """The planned configuration and those below it. OLLAMA_CONTEXT_LENGTH stays as planned: each model says
    its own context, so that less of it needs no restart."""
    yield Rung(planned.server, planned.placements, _need(bundle))
    for seats, need in list(_ladder(board, fitter, bundle, still))[1:]:
        made = instance_of(board, seats[0].host, planned.name, planned.port, seats)
        server = replace(
            made.server,
            context=planned.server.context,
            max_loaded_models=planned.server.max_loaded_models,
        )
        yield Rung(server, tuple(map(_counted, made.placements)), need)


def _counted(placement: Placement) -> Placement:
    """With its layers in the Modelfile where some stay on the host: the engine would choose others."""
    if placement.account.layers == placement.account.layers_total:
        return placement
    return replace(placement, settings=replace(placement.settings, num_gpu=placement.account.layers))


def _ladder(board: Board, fitter: Fitter, bundle: Sequence[Seat], still: bool) -> Iterator[Step]:
    """The seats of an instance at each rung, the planned one first; its models go down together."""
    whole = any(len(board.tenants[spot]) > 1 for seat in bundle for spot in seat.spots)
    chains = [_chain(fitter, seat, whole, still) for seat in bundle]
    steps: list[Step] = []
    for height in range(max(map(len, chains))):
        seats = [
            replace(seat, fit=chain[min(height, len(chain) - 1)])
            for seat, chain in zip(bundle, chains, strict=True)
        ]
        if height == 0 or _compatible(seats):
            steps.append((seats, _need(seats)))
    yield from _thinned(steps)


def _chain(fitter: Fitter, seat: Seat, whole: bool, still: bool) -> list[Fit]:
    """A model's rungs from the planned one down."""
    if not takes_part(seat):
        return [seat.fit]
    return [seat.fit, *fitter.below((seat.model, seat.host, seat.gpus, seat.pin), seat.fit, whole, still)]


def _compatible(seats: Sequence[Seat]) -> bool:
    """Whether no two models of one file have come apart: they would reload each other."""
    return all(
        one.fit.source.ref != two.fit.source.ref or one.fit.settings == two.fit.settings
        for one, two in combinations(seats, 2)
    )


def _need(seats: Sequence[Seat]) -> Need:
    """Bytes on each card: of all models together, or of the largest where they take turns."""
    cards = range(len(seats[0].gpus))
    together = max if seats[0].takes_turns else sum
    return tuple(together([seat.fit.held(card) for seat in seats]) + seats[0].fit.margin for card in cards)


def _thinned(steps: Sequence[Step]) -> Iterator[Step]:
    """At most MOST of them, each needing less on every card than the one above; the lowest is among them."""
    falling: list[Step] = []
    for step in steps:
        if not falling or _spares(falling[-1][1], step[1]) > 0:
            falling.append(step)
    lowest = falling[-1]
    stride = max(LEAST, _spares(falling[0][1], lowest[1]) // (MOST - 1))
    last = falling[0]
    yield last
    for step in falling[1:]:
        if _spares(last[1], step[1]) >= stride or (step is lowest and _spares(last[1], step[1]) >= LEAST):
            last = step
            yield step


def _spares(before: Need, after: Need) -> int:
    """Bytes that `after` needs less; nothing where it needs more on some card."""
    if any(b < a for b, a in zip(before, after, strict=True)):
        return 0
    return sum(before) - sum(after)
