"""Seats become instances: names, ports, and which models one server can hold together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..catalog import Era, era
from ..errors import OgenError, PlanError
from ..inventory.model import Gpu, Host, Lock
from .board import Board, Seat
from .evict import eviction
from .kept import siblings
from .model import Instance, ModelSettings, Placement, ServerSettings

#: between the ports of several instances whose lowest card is the same; more than any box has cards
SIBLINGS_APART = 100
#: of an instance without a card on a host that has cards; behind the ports of 90 cards
CPU_PORT_OFFSET = 90


#: the seats of each instance, by host and name
Bundles = Mapping[tuple[str, str], list[Seat]]


def build_instances(
    board: Board,
) -> tuple[Mapping[str, tuple[Instance, ...]], Bundles, list[OgenError]]:
    """The instances of every host in the order of their cards, their seats, and conflicts that no order
    solves."""
    seats: dict[str, list[Seat]] = {host.name: [] for host in board.hosts}
    for seat in board.seats.values():
        seats[seat.host.name].append(seat)
    found: dict[str, tuple[Instance, ...]] = {}
    problems: list[OgenError] = []
    seated: dict[tuple[str, str], list[Seat]] = {}
    locked = siblings(board)
    for host in board.hosts:
        mine = sorted(seats[host.name], key=_load_order)
        bundles, conflicts = _bundles(board, mine)
        problems += conflicts
        named = list(_named(board, host, bundles, locked))
        found[host.name] = tuple(instance for instance, _ in named)
        seated.update({(host.name, instance.name): bundle for instance, bundle in named})
    return found, seated, problems


def _load_order(seat: Seat) -> tuple[object, ...]:
    """By card, then the largest first: loaded last it would find too little free memory left."""
    return (
        _first(seat),
        len(seat.gpus),
        seat.takes_turns,
        -seat.fit.account.total_gpu_bytes,
        seat.model.name,
    )


def _first(seat: Seat) -> int:
    return min((gpu.index for gpu in seat.gpus), default=-1)


# ------------------------------------------------------------------------------- who runs with whom
def _bundles(board: Board, seats: Iterable[Seat]) -> tuple[list[list[Seat]], list[OgenError]]:
    """Groups of seats for which one server will do; a pin is one server, whether it will do or not."""
    bundles: list[list[Seat]] = []
    problems: list[OgenError] = []
    for seat in seats:
        near = [b for b in bundles if b[0].gpus == seat.gpus and b[0].pin is seat.pin]
        reasons = [conflict(board, bundle, seat) for bundle in near]
        if near and None in reasons:
            near[reasons.index(None)].append(seat)
        elif near and seat.pin:
            problems.append(_pinned_together(near[0], seat, reasons[0] or ""))
        else:
            bundles.append([seat])
    return bundles, problems


def _pinned_together(bundle: list[Seat], seat: Seat, reason: str) -> PlanError:
    names = ", ".join(s.model.name for s in bundle)
    return PlanError(
        f"{seat.model.name} can't share the pinned instance on {seat.host.name} with {names}: {reason}",
        where=seat.pin.where if seat.pin else None,
        hint="pin them as two instances; several may have the same card",
    )


def conflict(board: Board, bundle: list[Seat], seat: Seat) -> str | None:
    """Why `seat` can't run on the server of `bundle`; None where it can."""
    for other in bundle:
        reason = _server_conflict(other, seat) or _file_conflict(other, seat)
        if reason:
            return reason
    return eviction(board, [*bundle, seat], in_order=seat.pin is not None)


def _server_conflict(one: Seat, two: Seat) -> str | None:
    """Settings of the server, of which there is one for all of its models."""
    if one.takes_turns != two.takes_turns:
        return "one stays loaded and the other takes turns"
    if _keep_alive(one) != _keep_alive(two):
        return f"keep_alive is {_keep_alive(one)} and {_keep_alive(two)}"
    a, b = one.fit.settings, two.fit.settings
    if a.parallel != b.parallel and not (one.fit.single_slot or two.fit.single_slot):
        return f"parallel is {a.parallel} and {b.parallel}"
    for name in ("kv_cache", "flash_attention", "kv_on_host", "experts_on_host", "split"):
        if getattr(a, name) != getattr(b, name):
            return f"{name} is {getattr(a, name)} and {getattr(b, name)}"
    return "shares differ" if one.model.shares != two.model.shares else None


def _file_conflict(one: Seat, two: Seat) -> str | None:
    """Two models of one file on one server reload each other at every change between them."""
    if one.fit.source.ref != two.fit.source.ref:
        return None
    if one.model.adapter == two.model.adapter and _model_settings(one, False) == _model_settings(two, False):
        return None
    return "both are the same file with other settings, and would reload each other"


def _keep_alive(seat: Seat) -> str:
    """How long a model stays after a request; one that takes turns leaves by itself after five minutes."""
    if seat.model.keep_alive is not None:
        return seat.model.keep_alive
    return "5m" if seat.takes_turns else seat.host.ollama.keep_alive


# --------------------------------------------------------------------------------- names and ports
def _named(
    board: Board, host: Host, bundles: Iterable[list[Seat]], locked: Mapping[tuple[str, str, str], int]
) -> Iterable[tuple[Instance, list[Seat]]]:
    """Names and ports depend on card indexes only, so that they never change with other cards.

    Servers whose lowest card is the same are siblings: gpu0, gpu0-b, gpu0-c. Which is which follows the lock,
    so that a newcomer on a card takes nobody's name and port.
    """
    families: dict[int, list[list[Seat]]] = {}
    for bundle in bundles:
        families.setdefault(_first(bundle[0]), []).append(bundle)
    for family in families.values():
        for number, bundle in _siblings(family, locked):
            gpus, pin = bundle[0].gpus, bundle[0].pin
            base = "gpu" + "-".join(str(gpu.index) for gpu in gpus) if gpus else "cpu"
            name = f"{base}-{chr(ord('a') + number)}" if number else base
            port = _base_port(host, gpus) + SIBLINGS_APART * number
            port = pin.port if pin and pin.port else port
            yield instance_of(board, host, name, port, bundle), bundle


def _siblings(
    family: list[list[Seat]], locked: Mapping[tuple[str, str, str], int]
) -> Iterable[tuple[int, list[Seat]]]:
    """Each bundle of a family with its number; 0 is the one without a letter."""
    numbers: dict[int, list[Seat]] = {}
    rest: list[list[Seat]] = []
    for bundle in family:
        cards = "-".join(str(gpu.index) for gpu in bundle[0].gpus)
        keys = ((seat.model.name, seat.host.name, cards) for seat in bundle)
        known = [locked[key] for key in keys if key in locked]
        if known and min(known) not in numbers:
            numbers[min(known)] = bundle
        else:
            rest.append(bundle)
    free = (number for number in range(len(family) + len(numbers)) if number not in numbers)
    numbers.update(zip(free, rest, strict=False))
    return sorted(numbers.items())


def _base_port(host: Host, gpus: tuple[Gpu, ...]) -> int:
    if gpus:
        return host.ollama.first_port + min(gpu.index for gpu in gpus)
    return host.ollama.first_port + (CPU_PORT_OFFSET if host.gpus else 0)


def instance_of(board: Board, host: Host, name: str, port: int, bundle: list[Seat]) -> Instance:
    """The process that serves the models of `bundle`."""
    pin = bundle[0].pin
    risk = eviction(board, bundle)  # of a pin: another server is not started for it
    alone = all(len(board.tenants[spot]) == 1 for seat in bundle for spot in seat.spots)
    return Instance(
        host=host.name,
        name=name,
        gpus=tuple(_with_uuid(board.inventory.lock, host, gpu) for gpu in bundle[0].gpus),
        port=port,
        server=_server(host, bundle),
        placements=tuple(
            Placement(
                model=seat.model,
                source=seat.fit.source,
                settings=_model_settings(seat, not alone),
                account=seat.fit.account,
                verdict=seat.fit.verdict,
                concessions=seat.fit.concessions,
                slots=1 if seat.fit.single_slot else seat.fit.settings.parallel,
                notes=(*seat.fit.notes, *((risk,) if risk and seat is bundle[0] else ())),
            )
            for seat in bundle
        ),
        env={**host.ollama.env, **host.env, **(pin.env if pin else {})},
        where=pin.where if pin else bundle[0].gpus[0].where if bundle[0].gpus else host.where,
    )


def _with_uuid(lock: Lock | None, host: Host, gpu: Gpu) -> Gpu:
    known = lock.uuids.get(host.name, {}).get(gpu.index) if lock else None
    return replace(gpu, uuid=known) if known and not gpu.uuid else gpu


def _server(host: Host, bundle: list[Seat]) -> ServerSettings:
    settings = [seat.fit.settings for seat in bundle]
    lead = settings[0]
    slots = [seat.fit.settings.parallel for seat in bundle if not seat.fit.single_slot]
    quantised = lead.kv_cache != "f16"
    asked = host.ollama.kv_cache or next((s.model.kv_cache for s in bundle if s.model.kv_cache), None)
    several = len(bundle[0].gpus) > 1
    return ServerSettings(
        parallel=max(slots, default=1),
        context=max(s.context for s in settings),
        flash_attention=True if quantised else host.ollama.flash_attention,
        kv_cache=lead.kv_cache if quantised or asked else None,
        max_loaded_models=1 if bundle[0].takes_turns else len({seat.fit.source.ref for seat in bundle}),
        keep_alive=_keep_alive(bundle[0]),
        kv_on_host=lead.kv_on_host,
        experts_on_host=lead.experts_on_host,
        split=lead.split if several else None,
        shares=bundle[0].model.shares if several and era(host.ollama.version) is Era.C else (),
    )


def _model_settings(seat: Seat, shared: bool) -> ModelSettings:
    """`num_gpu` only where the user fixed it, or where the engine's own fitting takes a neighbour's room."""
    settings, model = seat.fit.settings, seat.model
    fixed = seat.pin.num_gpu if seat.pin and seat.pin.num_gpu is not None else model.num_gpu
    if fixed is None and shared and not seat.fit.whole:
        fixed = seat.fit.account.layers
    if fixed is None:
        fixed = seat.fit.num_gpu
    conceded = any(c.what == "batch" for c in seat.fit.concessions)
    return ModelSettings(
        context=settings.context,
        batch=settings.batch if conceded or model.batch is not None else None,
        num_gpu=fixed,
        main_gpu=None,  # the card was chosen by it; within an instance there is nothing left to choose
        use_mmap=model.use_mmap,
    )
