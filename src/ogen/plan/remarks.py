"""What a reviewer should know of a plan that works: figures are measured, see docs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ..inventory import notes
from ..inventory.model import Balancer, ClientOptions, Host, Inventory, Model
from .entries import EVERYTHING
from .fitting import gib
from .model import Entry, Instance, Placement, Pool, Remark
from .pins import is_out
from .rungs import wanted


def remarks_on(
    inventory: Inventory,
    instances: Mapping[str, tuple[Instance, ...]],
    pools: Mapping[str, Pool],
    entries: Iterable[Entry],
) -> tuple[Remark, ...]:
    """All remarks: the inventory's notes, cards, models on their instances, balancers; each said once."""
    found = [
        *(Remark(note.message, note.where, note.hint, note.severity) for note in notes(inventory)),
        *_cards(inventory, instances),
        *_placements(inventory, instances),
        *_contexts(inventory, instances),
        *_rungs(instances),
        *_autofit(inventory, instances),
        *(remark for entry in entries for remark in _balancer(entry, instances)),
    ]
    return tuple(dict.fromkeys(found))


# ------------------------------------------------------------------------------------ hosts and cards
_LEFT = "nothing routes to it; what runs there is left as it is until `ogen retire`"


def _cards(inventory: Inventory, instances: Mapping[str, tuple[Instance, ...]]) -> Iterator[Remark]:
    idle: dict[str, list[str]] = {}
    for host in inventory.hosts:
        if host.state == "out":
            yield Remark(f"{host.name} is out{_because(host.reason)}", host.where, _LEFT, severity="note")
            continue
        used = {gpu.index for instance in instances.get(host.name, ()) for gpu in instance.gpus}
        for gpu in host.gpus:
            if gpu.state == "out":
                yield Remark(
                    f"{host.name} card {gpu.index} is out{_because(gpu.reason)}", gpu.where, severity="note"
                )
            elif gpu.index not in used:
                idle.setdefault(gpu.model, []).append(f"{host.name}/gpu{gpu.index}")
        for pin in host.pins:
            if is_out(host, pin):
                yield Remark(
                    f"{host.name}: the pinned instance of {', '.join(pin.models)} is left out with its card",
                    pin.where,
                )
    for name, places in idle.items():
        shown = ", ".join(places[:4]) + (f" and {len(places) - 4} more" if len(places) > 4 else "")
        yield Remark(
            f"no model uses {shown} ({name})",
            hint="`replicas: fill` takes what is left over; a smaller context or quantisation may fit there",
            severity="note",
        )


def _because(reason: str | None) -> str:
    return f": {reason}" if reason else ""


# ------------------------------------------------------------------------------------------- models
def _rungs(instances: Mapping[str, tuple[Instance, ...]]) -> Iterator[Remark]:
    """How far instances may go down where memory is short; those of the same rungs in one line."""
    found: dict[str, list[Instance]] = {}
    for one in (one for mine in instances.values() for one in mine if one.rungs):
        names = ", ".join(p.model.name for p in one.placements)
        first, last = (" + ".join(gib(size) for size in one.rungs[end].need) for end in (0, -1))
        found.setdefault(
            f"{names} may go down {len(one.rungs) - 1} rungs, from {first} to {last}", []
        ).append(one)
    for text, same in found.items():
        shown = ", ".join(f"{one.host}/{one.name}" for one in same[:4])
        more = f" and {len(same) - 4} more" if len(same) > 4 else ""
        where = same[0].placements[0].model.where
        yield Remark(f"autofit: {text} ({shown}{more})", where, severity="note")


def _autofit(inventory: Inventory, instances: Mapping[str, tuple[Instance, ...]]) -> Iterator[Remark]:
    """Instances that are wanted to follow the free memory, and can't."""
    hosts = {host.name: host for host in inventory.hosts}
    for one in (one for mine in instances.values() for one in mine if one.gpus and not one.rungs):
        for model in (p.model for p in one.placements if wanted(p.model, hosts[one.host])):
            message = f"autofit: {model.name} has nothing to give up on {one.host}/{one.name}"
            hint = "allow something: context: {at_least: …}, several quantisations, gpu_layers_at_least"
            yield Remark(message, model.where, hint)


def _placements(inventory: Inventory, instances: Mapping[str, tuple[Instance, ...]]) -> Iterator[Remark]:
    hosts = {host.name: host for host in inventory.hosts}
    for mine in instances.values():
        for instance in mine:
            for placement in instance.placements:
                yield from _placement(hosts[instance.host], instance, placement)
            if len(instance.placements) > 1 and instance.server.max_loaded_models == 1:
                names = ", ".join(p.model.name for p in instance.placements)
                yield Remark(
                    f"{names} take turns: each change between them is a reload (residency: on_demand)",
                    instance.placements[0].model.where,
                    severity="note",
                )
    for model in inventory.models:
        yield from _model(model)


def _placement(host: Host, instance: Instance, placement: Placement) -> Iterator[Remark]:
    model = placement.model
    if placement.verdict == "partial":
        yield Remark(f"{model.name} on {_kind(instance)}: {_partial(placement)}", model.where)
    elif placement.verdict == "cpu" and instance.gpus:
        yield Remark(
            f"{model.name} on {host.name}/{instance.name} runs on the CPU beside a card", model.where
        )
    for note in placement.notes:
        yield Remark(f"{model.name}: {note}", model.where)


def _kind(instance: Instance) -> str:
    names = sorted({gpu.model for gpu in instance.gpus})
    return " + ".join(names) if len(instance.gpus) == 1 else f"{len(instance.gpus)} × {', '.join(names)}"


def _partial(placement: Placement) -> str:
    need = placement.account
    parts = []
    if need.layers < need.layers_total:
        parts.append(f"{need.layers} of {need.layers_total} layers on the card")
    if need.host_kv_bytes and need.layers == need.layers_total:
        parts.append("KV cache in host memory")
    if any(c.what == "experts" for c in placement.concessions):
        parts.append("experts in host memory")
    return ", ".join(parts or ["not all of it on the card"])


def _contexts(inventory: Inventory, instances: Mapping[str, tuple[Instance, ...]]) -> Iterator[Remark]:
    """Models whose instances differ in context: clients can count on the smallest only."""
    smallest: dict[str, tuple[int, str]] = {}
    largest: dict[str, int] = {}
    for mine in instances.values():
        for instance in mine:
            for placement in instance.placements:
                name, context = placement.model.name, placement.settings.context
                here = (context, f"{instance.host}/{instance.name}")
                smallest[name] = min(smallest.get(name, here), here)
                largest[name] = max(largest.get(name, 0), context)
    for model in inventory.models:
        if model.name in smallest and smallest[model.name][0] < largest[model.name]:
            context, place = smallest[model.name]
            yield Remark(
                f"{model.name}: context is {context} on {place} and {largest[model.name]} elsewhere; "
                f"clients can count on {context}",
                model.where,
                hint="raise context.at_least, or keep it off small cards with `on:`",
                severity="note",
            )


def _model(model: Model) -> Iterator[Remark]:
    if model.replicas == 0:
        yield Remark(f"{model.name} has no replicas: nobody serves it", model.where, severity="note")


# ---------------------------------------------------------------------------------------- balancers
def _balancer(entry: Entry, instances: Mapping[str, tuple[Instance, ...]]) -> Iterator[Remark]:
    balancer = entry.balancer
    several = any(len(pool.members) > 1 for pool in entry.pools)
    mixed = any(len({member.weight for member in pool.members}) > 1 for pool in entry.pools)
    if balancer.strategy == "ip_hash" and several:
        yield Remark(
            f"balancer {balancer.name}: ip_hash sends a whole /24, so a LAN or a front proxy, to one "
            "instance: one of 8 got all requests of 40 clients and drowned (docs/balancing.md)",
            balancer.where,
            hint="strategy: hash with hash_key: api_key (or header:NAME): one instance to each client",
        )
    if balancer.strategy == "round_robin" and mixed:
        yield Remark(
            f"balancer {balancer.name}: round_robin over cards of different speed waits for the slowest: "
            "mean wait 7.2 against 5.1 with least_conn and the same weights",
            balancer.where,
            hint="strategy: least_conn",
        )
    yield from _unread(balancer)
    yield from _gates(entry)
    if balancer.into == "conf.d" and several:
        yield Remark(
            f"balancer {balancer.name}: within the machine's own nginx it holds no lease, so that a restart "
            "may cut a request there",
            balancer.where,
            hint="`into: own`",
            severity="note",
        )
    single = [pool.name for pool in entry.pools if len(pool.members) == 1]
    if single:
        have = "has one instance" if len(single) == 1 else "have one instance each"
        yield Remark(
            f"balancer {balancer.name}: {', '.join(single)} {have}: nginx ignores max_fails there, "
            "and a restart is an outage",
            balancer.where,
            severity="note",
        )
    for pool in entry.pools:
        if pool.name == EVERYTHING:
            yield from _blind(entry, instances)


def _unread(balancer: Balancer) -> Iterator[Remark]:
    """What a balancer that reads no request can't keep clients from."""
    if balancer.routing == "by_model":
        return
    said = balancer.client_options != ClientOptions()
    what = "client_options can't be enforced" if said else "a client's num_ctx or num_gpu reloads the model"
    yield Remark(
        f"balancer {balancer.name}: routing {balancer.routing} does not read requests, so that {what}",
        balancer.where,
        hint="routing: by_model",
        severity="warning" if said else "note",
    )


def _gates(entry: Entry) -> Iterator[Remark]:
    """Gates divide the slots of a pool; where there are fewer slots than gates each still lets one in."""
    tight = [p.name for p in entry.pools if 0 < sum(m.slots for m in p.members) < len(entry.gates)]
    if tight:
        yield Remark(
            f"balancer {entry.balancer.name}: {', '.join(tight)} has fewer slots than there are gates "
            f"({len(entry.gates)}), and each lets one request in: some wait at an instance",
            entry.balancer.where,
            hint="more replicas, a larger `parallel`, or fewer balancers with a gate",
            severity="note",
        )


def _blind(entry: Entry, instances: Mapping[str, tuple[Instance, ...]]) -> Iterator[Remark]:
    """A balancer that can't see models is right only if every instance holds every model."""
    served = {
        frozenset(placement.model.name for placement in instance.placements)
        for mine in instances.values()
        for instance in mine
    }
    if len(served) > 1:
        yield Remark(
            f"balancer {entry.balancer.name}: routing single sends any model to any instance, but not every "
            "instance has every model: some requests are answered 404",
            entry.balancer.where,
            hint="routing: by_model, or name one pool",
        )
