"""Why replicas have no seat: which model, where it came nearest, what is missing, and what would do."""

from __future__ import annotations

from ..errors import PlanError
from ..inventory.model import Gpu, Host, Model
from .board import Board
from .deal import wants_several
from .fitting import Fit, Fitter, Misfit, gib


def shortage(board: Board, fitter: Fitter, model: Model, short: int) -> PlanError:
    """The error for `short` replicas of `model` that found no card."""
    cards = [(host, gpu) for host in board.hosts_of(model) for gpu in board.cards_of(host, model)]
    if not cards:
        return _no_card(board, model)
    alone = [(host, gpu) for host, gpu in cards if isinstance(fitter.fit(model, host, (gpu,)), Fit)]
    if alone and not wants_several(model):
        return _all_taken(board, fitter, model, short, alone)
    return _too_large(fitter, model, cards)


def _no_card(board: Board, model: Model) -> PlanError:
    matched = board.hosts_of(model)
    index = f" with index {model.main_gpu} (main_gpu)" if model.main_gpu is not None else ""
    which = f"of `on: {model.on}`" if model.on != "all" else "of the inventory"
    pinned = any((h.name, g.index) in board.closed for h in matched for g in board.cards[h.name])
    reason = "all are pinned to other models" if pinned else "there is none in state `in`"
    return PlanError(
        f"{model.name} has no card{index} {which}: {reason}",
        where=model.where,
        hint="pin it to a host's CPU with `instances: [{gpus: [], models: […]}]`, or add a host with cards",
    )


def _all_taken(
    board: Board, fitter: Fitter, model: Model, short: int, alone: list[tuple[Host, Gpu]]
) -> PlanError:
    """It would fit, but others have the cards, and not enough room is left beside them."""
    best: tuple[int, str, str] | None = None
    for host, gpu in alone:
        used = board.used(host, gpu, model)
        fit = fitter.fit(model, host, (gpu,), used)
        tenants = [seat.model.name for seat in board.tenants[host.name, gpu.index]]
        if isinstance(fit, Misfit) and model.name not in tenants:
            beside = ", ".join(tenants)
            offer = (fit.missing, f"{_card(host, gpu)} beside {beside}", fit.nearest)
            best = min(best, offer) if best else offer
    holders = sorted({s.model.name for h, g in alone for s in board.tenants[h.name, g.index]})
    wanted = "any" if model.replicas == "fill" else f"{short} of {model.replicas} replicas"
    near = f"; nearest is {best[1]}, where {gib(best[0])} are missing" if best else ""
    count = f"{len(alone)} card{'s hold' if len(alone) != 1 else ' holds'} it alone"
    return PlanError(
        f"{model.name}: no room for {wanted}: {count}, taken by {', '.join(holders)}{near}",
        where=model.where,
        hint=f"{best[2]}, or fewer replicas" if best else "fewer replicas, or more cards",
    )


def _too_large(fitter: Fitter, model: Model, cards: list[tuple[Host, Gpu]]) -> PlanError:
    """It fits on no card, or only on several of one host, and those are taken."""
    best: tuple[int, str, str] | None = None
    by_host: dict[str, list[tuple[Host, Gpu]]] = {}
    for host, gpu in cards:
        by_host.setdefault(host.name, []).append((host, gpu))
    places = [[card] for card in cards if not wants_several(model)] + list(by_host.values())
    for place in places:
        host, gpus = place[0][0], tuple(g for _, g in place if g.vendor == place[0][1].vendor)
        fit = fitter.fit(model, host, gpus)
        name = _card(host, gpus[0]) if len(gpus) == 1 else f"all {len(gpus)} cards of {host.name} together"
        if isinstance(fit, Fit) and len(gpus) > 1:
            return PlanError(
                f"{model.name} needs several cards of one host; those that would do, as {name}, are taken",
                where=model.where,
                hint="fewer replicas of other models, or `on:` that keeps them off these cards",
            )
        if isinstance(fit, Misfit):
            best = min(best, (fit.missing, name, fit.nearest)) if best else (fit.missing, name, fit.nearest)
    if best is None:
        return PlanError(
            f"{model.name} wants more cards than any host of `on: {model.on}` has", where=model.where
        )
    missing, name, nearest = best
    return PlanError(
        f"{model.name} fits nowhere in `on: {model.on}`: nearest is {name}, where {gib(missing)} are missing",
        where=model.where,
        hint=nearest,
    )


def _card(host: Host, gpu: Gpu) -> str:
    return f"{host.name} card {gpu.index} ({gpu.model}, {gib(gpu.vram - gpu.reserve)})"
