"""Instances that the inventory prescribes: seated before anything else, their cards closed to others."""

from __future__ import annotations

from ..errors import OgenError, PlanError
from ..inventory.model import Gpu, Host, Model, Pin
from .board import Board, Seat
from .fitting import Fitter, Misfit, gib
from .share import together


def seat_pins(board: Board, fitter: Fitter) -> tuple[list[OgenError], set[str]]:
    """Seats every pinned instance of hosts in state `in`; a pin on a card that is out is left out.

    Returns what is wrong with pins, and the models concerned: that these lack a seat is no second error.
    """
    problems: list[OgenError] = []
    concerned: set[str] = set()
    models = {model.name: model for model in board.inventory.models}
    for host in board.hosts:
        for pin in host.pins:
            try:
                _seat_pin(board, fitter, models, host, pin)
            except OgenError as problem:
                problems.append(problem)
                concerned.update(pin.models)
    return problems, concerned


def is_out(host: Host, pin: Pin) -> bool:
    """Whether a card of the pin is out of service."""
    return any(gpu.state == "out" for gpu in host.gpus if gpu.index in pin.gpus)


def _seat_pin(board: Board, fitter: Fitter, models: dict[str, Model], host: Host, pin: Pin) -> None:
    if is_out(host, pin):
        return
    gpus = _cards(board, host, pin)
    unknown = [name for name in pin.models if name not in models]
    if unknown:
        raise PlanError(f"{host.name}: no model is named {unknown[0]!r}", where=pin.where)
    board.closed.update((host.name, gpu.index) for gpu in gpus)
    wanted = [models[name] for name in pin.models]
    if len(gpus) == 1 and len(wanted) > 1 and not board.tenants[host.name, gpus[0].index]:
        fits = together(fitter, wanted, host, gpus[0], pin)
        if fits is not None:
            for model, fit in zip(wanted, fits, strict=True):
                board.put(Seat(model, host, gpus, fit, pin))
            return
    for model in wanted:
        _seat_one(board, fitter, host, gpus, model, pin)


def _seat_one(
    board: Board, fitter: Fitter, host: Host, gpus: tuple[Gpu, ...], model: Model, pin: Pin
) -> None:
    """Seats a pinned model beside what sits on its cards already."""
    used = max((board.used(host, gpu, model) for gpu in gpus), default=0)
    fit = fitter.fit(model, host, gpus, used, pin)
    if isinstance(fit, Misfit):
        beside = f" beside {gib(used)} of other models" if used else ""
        cards = ", ".join(f"card {gpu.index} ({gpu.model})" for gpu in gpus)
        raise PlanError(
            f"{model.name} does not fit where it is pinned, on {host.name} {cards}{beside}: "
            f"{gib(fit.missing)} are missing",
            where=pin.where,
            hint=fit.nearest,
        )
    board.put(Seat(model, host, gpus, fit, pin))


def _cards(board: Board, host: Host, pin: Pin) -> tuple[Gpu, ...]:
    gpus = tuple(gpu for gpu in board.cards[host.name] if gpu.index in pin.gpus)
    unknown = sorted(set(pin.gpus) - {gpu.index for gpu in gpus})
    if unknown:
        known = ", ".join(str(gpu.index) for gpu in host.gpus) or "none"
        raise PlanError(
            f"{host.name} has no card {', '.join(map(str, unknown))}",
            where=pin.where,
            hint=f"its cards: {known}",
        )
    vendors = {gpu.vendor for gpu in gpus}
    if len(vendors) > 1:
        raise PlanError(
            f"{host.name}: one instance can't span cards of {' and '.join(sorted(vendors))}",
            where=pin.where,
            hint="Ollama never splits a model over CUDA and ROCm; pin one instance for each",
        )
    return gpus
