"""What only shows when the parts are seen together: references, clashes, contradictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import Where
from ..source import Node
from . import environment
from .checks import is_file
from .faults import Faults, near_or_list
from .merging import HostEntry, numbered
from .model import Balancer, Host, Inventory, Model, Pin
from .patterns import PatternError, matching


def check(
    inventory: Inventory, top: Node, checked: Node, hosts: Mapping[str, HostEntry], faults: Faults
) -> None:
    """Tells every mistake that concerns more than one value; `top` holds the names that were written."""
    names = _Names(inventory, top, checked, hosts, faults)
    names.check()
    for model in inventory.models:
        _model(model, inventory, checked, names)
    for host in inventory.hosts:
        _host(host, names)
    _addresses(inventory, faults)
    _ports(inventory, names)
    for balancer in inventory.balancers:
        _balancer(balancer, checked, names)
    _environments(checked, faults)
    if "version" not in top.value:
        faults.add("'version' is missing", top.where, "an inventory begins with version: 1")


class _Names:
    """The names that the inventory defines, whether or not what they name is good."""

    def __init__(
        self, inventory: Inventory, top: Node, checked: Node, hosts: Mapping[str, HostEntry], faults: Faults
    ) -> None:
        self.inventory = inventory
        self.top = top
        self.checked = checked
        self.faults = faults
        self.hosts = list(hosts)
        self.groups = inventory.groups
        self.models = [name for name, _ in (top.get("models") or Node({}, top.where)).items()]

    def check(self) -> None:
        groups = self.checked.get("groups")
        for name in self.groups:
            where = groups.keys.get(name) if groups else None
            if name == "all":
                self.faults.add("a group can't be named 'all': that is every host", where)
            if name in self.hosts:
                self.faults.add(f"{name!r} is a group and a host", where, "rename one of them")

    def node(self, *path: str) -> Node | None:
        node: Node | None = self.checked
        for step in path:
            node = node.get(step) if node else None
        return node

    def pattern(self, terms: Node | None, subject: str) -> tuple[str, ...]:
        """The hosts of a list of patterns; tells those without a match."""
        good = []
        for term in terms.value if terms else ():
            try:
                matching(self.hosts, self.groups, term.value.lstrip("!"))
                good.append(term.value)
            except PatternError as error:
                self.faults.add(f"{subject}: {error}", term.where, error.hint)
        try:
            return matching(self.hosts, self.groups, ",".join(good)) if good else ()
        except PatternError as error:
            assert terms is not None
            self.faults.add(f"{subject}: {error}", terms.where)
            return ()

    def model_known(self, name: str, subject: str, where: Where | None) -> None:
        if name not in self.models:
            hint = near_or_list(name, self.models, "models")
            self.faults.add(f"{subject}: there is no model {name!r}", where, hint)


# ---------------------------------------------------------------------------------------- models
def tagged(name: str) -> str:
    """A model's name with its default tag, as Ollama compares names: without regard to case."""
    return (name if ":" in name else f"{name}:latest").lower()


def _model(model: Model, inventory: Inventory, checked: Node, names: _Names) -> None:
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
    _sources(model, inventory, faults)
    _divided(model, names)


def _sources(model: Model, inventory: Inventory, faults: Faults) -> None:
    subject = f"models.{model.name}"
    for source in model.sources:
        if is_file(source.ref):
            outside(source.ref, f"{subject}.from", source.where, inventory.folder, faults)
    if model.adapter is not None:
        outside(model.adapter, f"{subject}.adapter", model.where, inventory.folder, faults)
    quants = [s.quant for s in model.sources if s.quant]
    if len(quants) != len(set(quants)):
        faults.add(f"{subject}.from: a quantisation is listed twice", model.where)


def outside(path: str, subject: str, where: Where | None, folder: str, faults: Faults) -> None:
    """Tells a path that leads out of the project's folder, also through links. Reads no file."""
    top = Path(folder).resolve()
    if path.startswith("~") or not (top / path).resolve().is_relative_to(top):
        hint = "ogen reads nothing outside of it; put the file inside"
        faults.add(f"{subject}: {path!r} is outside of the project's folder", where, hint)


def _divided(model: Model, names: _Names) -> None:
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
def _host(host: Host, names: _Names) -> None:
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


def _pin(host: Host, pin: Pin, taken: dict[int, Pin], names: _Names) -> None:
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


def _allowed(host: Host, pin: Pin, name: str, names: _Names) -> None:
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


def _addresses(inventory: Inventory, faults: Faults) -> None:
    seen: dict[tuple[object, ...], Host] = {}
    for host in inventory.hosts:
        place = (host.address.lower(), host.ssh.port or 22, host.root, host.connection)
        first = seen.setdefault(place, host)
        if first is not host:
            message = f"hosts {first.name!r} and {host.name!r} have one address: {host.address}"
            faults.add(message, host.where, f"the other one is at {first.where}")


# ----------------------------------------------------------------------------------------- ports
def _ports(inventory: Inventory, names: _Names) -> None:
    used: dict[tuple[str, int], tuple[str, str | None]] = {}
    for host in inventory.hosts:
        for port, what, where in _own_ports(host):
            _claim(used, host.name, port, (what, None), where, names.faults)
    for balancer in inventory.balancers:
        hosts = names.pattern(
            names.node("balancers", balancer.name, "hosts"), f"balancers.{balancer.name}.hosts"
        )
        for port, where in _listens(balancer, names):
            for host_name in hosts:
                what = (f"balancer {balancer.name!r}", balancer.address)
                _claim(used, host_name, port, what, where, names.faults)


def _own_ports(host: Host) -> Iterator[tuple[int, str, Where | None]]:
    """Ports of the librarian and of instances, as far as the inventory alone tells them."""
    if host.root is not None:
        return  # nothing runs there
    if host.gpus or host.pins:
        yield host.ollama.librarian_port, "the librarian", host.where
    pinned = {index for pin in host.pins for index in pin.gpus}
    for pin in host.pins:
        lowest = min(pin.gpus, default=0)
        yield pin.port or host.ollama.first_port + lowest, f"the instance of {_cards(pin)}", pin.where
    for gpu in host.gpus:
        if gpu.index not in pinned:
            yield host.ollama.first_port + gpu.index, f"card {gpu.index}", host.where


def _cards(pin: Pin) -> str:
    return "card " + " and ".join(map(str, pin.gpus)) if pin.gpus else "no card"


def _listens(balancer: Balancer, names: _Names) -> Iterator[tuple[int, Where | None]]:
    node = names.node("balancers", balancer.name, "listen")
    if balancer.routing != "per_port":
        yield balancer.listen, node.where if node else balancer.where
    for model, port in balancer.ports.items():
        place = names.node("balancers", balancer.name, "ports", model)
        yield port, place.where if place else balancer.where


def _claim(
    used: dict[tuple[str, int], tuple[str, str | None]],
    host: str,
    port: int,
    what: tuple[str, str | None],
    where: Where | None,
    faults: Faults,
) -> None:
    name, address = what
    first = used.setdefault((host, port), what)
    apart = address is not None and first[1] is not None and address != first[1]
    if first is not what and not apart:
        hint = "choose another port"
        faults.add(
            f"port {port} of host {host!r} is used twice: by {first[0]} and {name}", where, hint, kind="port"
        )


# ------------------------------------------------------------------------------------- balancers
def _balancer(balancer: Balancer, checked: Node, names: _Names) -> None:
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
    if balancer.strategy == "hash" and balancer.hash_key is None:
        node = names.node("balancers", balancer.name, "strategy")
        hint = "write hash_key: api_key or hash_key: header:NAME"
        faults.add(f"{subject}: strategy hash needs 'hash_key'", node.where if node else None, hint)


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
