"""What only shows when the parts are seen together: references, clashes, contradictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..source import Node
from . import archives, endpoints, environment, origins, queues
from .checks import is_file
from .faults import Faults
from .merging import HostEntry, numbered
from .model import Balancer, Host, Inventory, Model, Pin
from .names import Names
from .patterns import PatternError, matching


def check(
    inventory: Inventory, top: Node, checked: Node, hosts: Mapping[str, HostEntry], faults: Faults
) -> None:
    """Tells every mistake that concerns more than one value; `top` holds the names that were written."""
    names = Names(inventory, top, checked, hosts, faults)
    names.check()
    for model in inventory.models:
        _model(model, inventory, names)
    _clients_names(inventory, names)
    for host in inventory.hosts:
        _host(host, names)
        archives.check(host, inventory.folder, faults)
    endpoints.check(inventory, names)
    origins.check(inventory, names)
    for balancer in inventory.balancers:
        _balancer(balancer, names)
    queues.check(inventory, names)
    _environments(checked, faults)
    if "version" not in top.value:
        faults.add("'version' is missing", top.where, "an inventory begins with version: 1")


# ---------------------------------------------------------------------------------------- models
def tagged(name: str) -> str:
    """A model's name with its default tag, as Ollama compares names: without regard to case."""
    return (name if ":" in name else f"{name}:latest").lower()


def _model(model: Model, inventory: Inventory, names: Names) -> None:
    faults, subject = names.faults, f"models.{model.name}"
    names.pattern(names.node("models", model.name, "on"), f"{subject}.on")
    if model.context.at_least > model.context.want:
        node = names.node("models", model.name, "context", "at_least")
        message = (
            f"{subject}.context: at_least {model.context.at_least} is more than want {model.context.want}"
        )
        faults.add(message, node.where if node else model.where)
    batch = names.node("models", model.name, "batch_at_least")
    if batch and model.batch is not None and model.batch_at_least > model.batch:
        faults.add(
            f"{subject}: batch_at_least {model.batch_at_least} is more than batch {model.batch}", batch.where
        )
    hours = names.node("models", model.name, "hours")
    if hours and model.residency == "on_demand":
        message = f"{subject}: hours are for a model that is kept in memory; this one takes turns"
        faults.add(message, hours.where, "take out hours, or residency: on_demand")
    _sources(model, inventory, faults)
    _divided(model, names)


def _clients_names(inventory: Inventory, names: Names) -> None:
    """Tells a name that clients could mean two models by."""
    taken = {tagged(name): f"the model {name!r}" for name in names.models}
    for model in inventory.models:
        aliases = names.node("models", model.name, "aliases")
        for alias in aliases.value if aliases else ():
            owner = taken.setdefault(tagged(alias.value), f"an alias of {model.name!r}")
            first = (
                next(a for a in aliases.value if tagged(a.value) == tagged(alias.value)) if aliases else alias
            )
            if owner != f"an alias of {model.name!r}" or first is not alias:
                message = f"models.{model.name}: the alias {alias.value!r} is taken: it is {owner}"
                names.faults.add(message, alias.where, "clients could not tell them apart")


def _sources(model: Model, inventory: Inventory, faults: Faults) -> None:
    subject = f"models.{model.name}"
    for source in model.sources:
        if is_file(source.ref):
            archives.outside(source.ref, f"{subject}.from", source.where, inventory.folder, faults)
    if model.adapter is not None:
        archives.outside(model.adapter, f"{subject}.adapter", model.where, inventory.folder, faults)
    quants = [s.quant for s in model.sources if s.quant]
    if len(quants) != len(set(quants)):
        faults.add(f"{subject}.from: a quantisation is listed twice", model.where)


def _divided(model: Model, names: Names) -> None:
    shares = names.node("models", model.name, "shares")
    if shares and model.gpus_per_replica not in (None, len(model.shares)):
        message = f"models.{model.name}: {len(model.shares)} shares for {model.gpus_per_replica} cards"
        names.faults.add(message, shares.where, "give as many shares as gpus_per_replica")
    if shares and not sum(model.shares) > 0:
        names.faults.add(f"models.{model.name}.shares are all 0", shares.where)
    split = names.node("models", model.name, "split")
    if split and model.gpus_per_replica == 1:
        names.faults.add(f"models.{model.name}: split over one card", split.where, "gpus_per_replica is 1")


# ----------------------------------------------------------------------------------------- hosts
def _host(host: Host, names: Names) -> None:
    ollama = host.ollama
    if ollama.flash_attention is False and ollama.kv_cache in ("q8_0", "q4_0"):
        names.faults.add(
            f"hosts.{host.name}: kv_cache {ollama.kv_cache} needs flash attention",
            host.where,
            "set flash_attention: true, or kv_cache: f16",
        )
    seen: dict[str, int] = {}
    for gpu in host.gpus:
        if gpu.uuid and gpu.uuid in seen:
            message = f"hosts.{host.name}: cards {seen[gpu.uuid]} and {gpu.index} have one uuid"
            names.faults.add(message, gpu.where, "`nvidia-smi -L` shows them")
        seen[gpu.uuid or ""] = gpu.index
    taken: dict[int, Pin] = {}
    for pin in host.pins:
        _pin(host, pin, taken, names)


def _pin(host: Host, pin: Pin, taken: dict[int, Pin], names: Names) -> None:
    faults, subject = names.faults, f"hosts.{host.name}.instances"
    cards = {gpu.index: gpu for gpu in host.gpus}
    for index in pin.gpus:
        if index not in cards:
            has = f"its cards are {', '.join(map(str, cards))}" if cards else "it has no cards"
            faults.add(f"{subject}: there is no card {index}", pin.where, has)
        elif cards[index].state == "out":
            faults.add(
                f"{subject}: card {index} is out", cards[index].where or pin.where, cards[index].reason
            )
        if index in taken:
            faults.add(
                f"{subject}: card {index} is in two instances", pin.where, "an instance has its cards alone"
            )
        taken[index] = pin
    for name in pin.models:
        names.model_known(name, subject, pin.where)
        _allowed(host, pin, name, names)


def _allowed(host: Host, pin: Pin, name: str, names: Names) -> None:
    terms = names.node("models", name, "on")
    if terms is None:
        return
    try:
        on = matching(names.hosts, names.groups, ",".join(t.value for t in terms.value))
    except PatternError:
        return  # told where it stands
    if host.name not in on:
        message = f"hosts.{host.name}.instances: model {name!r} is kept to other hosts"
        names.faults.add(message, pin.where, f"its 'on' at {terms.where} does not have {host.name!r}")


# ------------------------------------------------------------------------------------- balancers
#: nginx refuses `backup` beside these
NO_BACKUP = ("ip_hash", "hash", "random")


def _balancer(balancer: Balancer, names: Names) -> None:
    faults, subject = names.faults, f"balancers.{balancer.name}"
    for model in balancer.ports:
        place = names.node("balancers", balancer.name, "ports", model)
        names.model_known(model, f"{subject}.ports", place.where if place else balancer.where)
    pool = names.node("balancers", balancer.name, "pool")
    if pool:
        names.model_known(pool.value, f"{subject}.pool", pool.where)
    for key, setting, needed in (
        ("ports", "routing", "per_port"),
        ("pool", "routing", "single"),
        ("hash_key", "strategy", "hash"),
    ):
        node = names.node("balancers", balancer.name, key)
        if node and getattr(balancer, setting) != needed:
            faults.add(
                f"{subject}: '{key}' is for {setting}: {needed}", node.where, f"set {setting}: {needed}"
            )
    into = names.node("balancers", balancer.name, "into")
    if into and balancer.into == "conf.d" and balancer.routing == "by_model":
        message = f"{subject}: a file in conf.d can't load the module that routing by_model needs"
        faults.add(message, into.where, "set routing: per_port or single, or leave 'into' out")
    backups = [host.name for host in names.inventory.hosts if host.backup]
    if backups and balancer.strategy in NO_BACKUP:
        node = names.node("balancers", balancer.name, "strategy")
        message = (
            f"{subject}: nginx knows no backup instances with {balancer.strategy}, and {backups[0]} is one"
        )
        faults.add(message, node.where if node else balancer.where, "strategy: least_conn or round_robin")
    _gate(balancer, names)
    _clients(balancer, names)
    record = names.node("balancers", balancer.name)
    if balancer.strategy == "hash" and not (record and "hash_key" in record.keys):
        node = names.node("balancers", balancer.name, "strategy")
        hint = "write hash_key: api_key or hash_key: header:NAME"
        faults.add(f"{subject}: strategy hash needs 'hash_key'", node.where if node else None, hint)


def _gate(balancer: Balancer, names: Names) -> None:
    node = names.node("balancers", balancer.name, "gate")
    if node is None or balancer.gate is None:
        return
    subject = f"balancers.{balancer.name}"
    if balancer.routing != "by_model":
        message = f"{subject}: 'gate' is for routing: by_model, whose router has the queues"
        names.faults.add(message, node.where, "set routing: by_model, or leave 'gate' out")
    if balancer.workers not in (None, 1):
        message = f"{subject}: a gate's queue is in one worker, not {balancer.workers}"
        names.faults.add(message, node.where, "leave 'workers' out")


def _clients(balancer: Balancer, names: Names) -> None:
    """What is said of keys needs keys; a burst needs a rate."""
    subject = f"balancers.{balancer.name}"
    for said in (("admins",), ("limits", "keys")):
        node = names.node("balancers", balancer.name, *said)
        if node is not None and node.value and balancer.keys is None:
            message = f"{subject}: '{'.'.join(said)}' names keys, but there are none"
            names.faults.add(message, node.where, "give it keys: !file secrets/keys.yaml")
    for name, limit in (("", balancer.limits.each), *balancer.limits.keys.items()):
        path: tuple[str, ...] = ("limits", "keys", name) if name else ("limits",)
        node = names.node("balancers", balancer.name, *path, "burst")
        if node is not None and limit.rate is None:
            names.faults.add(
                f"{subject}: '{'.'.join(path)}.burst' is above a rate, and there is none", node.where
            )


# ----------------------------------------------------------------------------------- environments
def _environments(checked: Node, faults: Faults) -> None:
    for subject, node in environments(checked):
        for name, value in node.items():
            where = node.keys.get(name, value.where)
            instead = environment.owned(name)
            if instead:
                faults.add(f"{subject}: {name} is set by ogen", where, instead)
            elif name in environment.BOOLEANS and value.value not in environment.BOOLEAN_TEXTS:
                message = f"{subject}: Ollama takes {name}={value.value!r} for true"
                faults.add(message, value.where, 'write "1" or "0"')


def environments(checked: Node) -> Iterator[tuple[str, Node]]:
    """Every `env` of the inventory with its path."""
    yield from _of("", checked)
    for section in ("groups", "hosts"):
        for name, node in (checked.get(section) or Node({}, checked.where)).items():
            subject = f"{section}.{name}."
            yield from _of(subject, node)
            pins = node.get("instances")
            if pins is not None:
                listed = numbered(pins) if pins.is_list else pins
                for number, pin in listed.items():
                    yield from _of(f"{subject}instances[{number}].", pin)


def _of(subject: str, node: Node) -> Iterator[tuple[str, Node]]:
    for path in (("env",), ("ollama", "env")):
        found: Node | None = node
        for step in path:
            found = found.get(step) if found else None
        if found is not None:
            yield subject + ".".join(path), found
