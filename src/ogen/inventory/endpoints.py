"""Addresses and ports: two hosts at one address, two listeners on one port."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import Where
from .faults import Faults
from .model import Balancer, Host, Inventory, Pin
from .names import Names

LIBRARIAN = "the librarian"


def check(inventory: Inventory, names: Names) -> None:
    """Tells hosts that share an address and listeners that share a port."""
    _addresses(inventory, names.faults)
    _servers(inventory, names)
    _ports(inventory, names)


def _addresses(inventory: Inventory, faults: Faults) -> None:
    seen: dict[tuple[object, ...], Host] = {}
    for host in inventory.hosts:
        place = (host.address.lower(), host.ssh.port or 22, host.root, host.connection)
        first = seen.setdefault(place, host)
        if first is not host:
            message = f"hosts {first.name!r} and {host.name!r} have one address: {host.address}"
            faults.add(message, host.where, f"the other one is at {first.where}")


def _servers(inventory: Inventory, names: Names) -> None:
    """Instances of two hosts that balancers would reach at one place: `nginx -t` lets that pass."""
    seen: dict[tuple[str, int], Host] = {}
    for host in inventory.hosts:
        for listener in _of_host(host):
            if listener.what == LIBRARIAN:
                continue
            first = seen.setdefault((host.reached_at.lower(), listener.port), host)
            if first is not host and host.address != first.address:  # else told by _addresses
                message = (
                    f"hosts {first.name!r} and {host.name!r} are one server for balancers: "
                    f"{host.reached_at} port {listener.port}"
                )
                names.faults.add(message, host.where, "give each its own data_address, or another first_port")
                break


@dataclass(frozen=True, slots=True)
class _Listener:
    port: int
    what: str
    where: Where | None
    address: str | None = None  # None: all of the host's, as far as the inventory tells


def _ports(inventory: Inventory, names: Names) -> None:
    used: dict[tuple[str, int], _Listener] = {}
    for host in inventory.hosts:
        for listener in _of_host(host):
            _claim(used, host.name, listener, names.faults)
    mirror = inventory.mirror
    if mirror is not None and mirror.host is not None:
        _claim(used, mirror.host, _Listener(mirror.port, "the mirror", mirror.where), names.faults)
    for balancer in inventory.balancers:
        listed = names.node("balancers", balancer.name, "hosts")
        hosts = names.pattern(listed, f"balancers.{balancer.name}.hosts")
        for listener in _of_balancer(balancer, names):
            for name in hosts:
                _claim(used, name, listener, names.faults)
    for name, listener in _of_queues(inventory, names):
        _claim(used, name, listener, names.faults)


def _of_host(host: Host) -> Iterator[_Listener]:
    """The librarian and the instances, as far as the inventory alone tells their ports."""
    if host.root is not None:
        return  # nothing runs there
    if host.gpus or host.pins:
        yield _Listener(host.ollama.librarian_port, LIBRARIAN, host.where)
    for pin in host.pins:
        port = pin.port or host.ollama.first_port + min(pin.gpus, default=0)
        yield _Listener(port, f"the instance of {_cards(pin)}", pin.where)
    pinned = {index for pin in host.pins for index in pin.gpus}
    for gpu in host.gpus:
        if gpu.index not in pinned:
            yield _Listener(host.ollama.first_port + gpu.index, f"card {gpu.index}", host.where)


def _of_queues(inventory: Inventory, names: Names) -> Iterator[tuple[str, _Listener]]:
    """The Redis that ogen runs for a queue, and its host."""
    for queue in inventory.queues:
        if queue.redis.host is not None:
            node = names.node("queues", queue.name, "redis", "port")
            where = node.where if node else queue.where
            yield queue.redis.host, _Listener(queue.redis.port, f"Redis of queue {queue.name!r}", where)


def _cards(pin: Pin) -> str:
    return "card " + " and ".join(map(str, pin.gpus)) if pin.gpus else "no card"


def _of_balancer(balancer: Balancer, names: Names) -> Iterator[_Listener]:
    what = f"balancer {balancer.name!r}"
    node = names.node("balancers", balancer.name, "listen")
    if balancer.routing != "per_port":
        yield _Listener(balancer.listen, what, node.where if node else balancer.where, balancer.address)
    for model, port in balancer.ports.items():
        place = names.node("balancers", balancer.name, "ports", model)
        yield _Listener(port, what, place.where if place else balancer.where, balancer.address)


def _claim(used: dict[tuple[str, int], _Listener], host: str, listener: _Listener, faults: Faults) -> None:
    first = used.setdefault((host, listener.port), listener)
    apart = None not in (first.address, listener.address) and first.address != listener.address
    if first is not listener and not apart:
        message = f"port {listener.port} of {host!r} is taken twice: by {first.what} and {listener.what}"
        faults.add(message, listener.where, "choose another port", kind="port")
