"""Placements of the lock file, kept where they still hold."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..inventory.model import Gpu, Host, Model
from .board import Board, Seat, Spot
from .fitting import Fit, Fitter
from .share import together

_PLACE = re.compile(r"(?P<host>.+)/gpu(?P<cards>\d+(?:-\d+)*)(?:-(?P<letter>[b-z]))?")


#: models that the lock has on the same cards of a host
Group = tuple[Host, tuple[Gpu, ...], tuple[Model, ...]]


def keep(board: Board, fitter: Fitter) -> list[Group]:
    """Seats replicas where the lock has them, as many as are still wanted.

    Returns the placements of `fill` models beyond their first: they stand back for replicas that a
    number demands, and are seated by `keep_left_over` when those have their cards.
    """
    held: list[Group] = []
    for host, gpus, models in _groups(board):
        spots = tuple((host.name, gpu.index) for gpu in gpus)
        if any(board.tenants[spot] or spot in board.closed for spot in spots):
            continue
        if all(model.replicas == "fill" and board.replicas[model.name] for model in models):
            held.append((host, gpus, models))
        else:
            _seat(board, fitter, host, gpus, models)
    return held


def keep_left_over(board: Board, fitter: Fitter, held: Iterable[Group]) -> None:
    """Seats what `keep` held back, where the cards are still open."""
    for host, gpus, models in held:
        if not any(board.tenants[host.name, gpu.index] for gpu in gpus):
            _seat(board, fitter, host, gpus, models)


def _groups(board: Board) -> Iterable[Group]:
    """The lock's placements by cards; numbers first, cut to the replicas that are still wanted."""
    lock = board.inventory.lock
    if lock is None:
        return
    found: dict[tuple[Spot, ...], Group] = {}
    for model in sorted(board.inventory.models, key=lambda m: m.replicas == "fill"):
        places = list(_places(board, model, lock.placements.get(model.name, ())))
        if model.replicas != "fill":
            places = places[: max(0, model.replicas - board.replicas[model.name])]
        for host, gpus in places:
            spots = tuple((host.name, gpu.index) for gpu in gpus)
            _, _, models = found.get(spots, (host, gpus, ()))
            found[spots] = (host, gpus, (*models, model))
    yield from found.values()


def _places(board: Board, model: Model, texts: Iterable[str]) -> Iterable[tuple[Host, tuple[Gpu, ...]]]:
    """Placements whose host and cards are there, in state `in`, and open to the model."""
    hosts = {host.name: host for host in board.hosts_of(model)}
    for text in texts:
        match = _PLACE.fullmatch(text)
        host = hosts.get(match["host"]) if match else None
        if match and host:
            indexes = {int(index) for index in match["cards"].split("-")}
            gpus = tuple(gpu for gpu in board.cards[host.name] if gpu.index in indexes)
            allowed = len(gpus) > 1 or all(gpu in board.cards_of(host, model) for gpu in gpus)
            if len(gpus) == len(indexes) and allowed:
                yield host, gpus


def _seat(board: Board, fitter: Fitter, host: Host, gpus: tuple[Gpu, ...], models: tuple[Model, ...]) -> None:
    """Seats all models that the lock has on the same cards; those without room are dealt anew."""
    if len(models) > 1 and len(gpus) == 1:
        fits = together(fitter, models, host, gpus[0])
        if fits is not None:
            for model, fit in zip(models, fits, strict=True):
                board.put(Seat(model, host, gpus, fit, kept=True))
            return
    alone = fitter.fit(models[0], host, gpus)
    if isinstance(alone, Fit):
        board.put(Seat(models[0], host, gpus, alone, kept=True))


def siblings(board: Board) -> dict[tuple[str, str, str], int]:
    """By model, host and cards which of the servers there the lock has a replica on: 0 gpu0, 1 gpu0-b."""
    lock = board.inventory.lock
    found: dict[tuple[str, str, str], int] = {}
    for model, texts in (lock.placements if lock else {}).items():
        for match in filter(None, map(_PLACE.fullmatch, texts)):
            number = ord(match["letter"]) - ord("a") if match["letter"] else 0
            found[model, match["host"], match["cards"]] = number
    return found
