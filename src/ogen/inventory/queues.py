"""Queues: what they name must be there, and what their parts say to Redis must not be read by others."""

from __future__ import annotations

from ..errors import Where
from .faults import near_or_list
from .model import Inventory, Queue
from .names import Names
from .patterns import PatternError, matching

_OWN = ("port", "secret", "memory")  # settings of a Redis that ogen runs


def check(inventory: Inventory, names: Names) -> None:
    """Tells every mistake of the queues that is not one of a single value."""
    taken: dict[str, str] = {}
    for queue in inventory.queues:
        _references(queue, inventory, names, taken)
        _redis(queue, names)
        if queue.redis.host in names.hosts:
            _network(queue, inventory, names)


def _references(queue: Queue, inventory: Inventory, names: Names, taken: dict[str, str]) -> None:
    subject = f"queues.{queue.name}"
    models = names.node("queues", queue.name, "models")
    for node in models.value if models else ():
        names.model_known(node.value, f"{subject}.models", node.where)
    known = [balancer.name for balancer in inventory.balancers]
    listed = names.node("queues", queue.name, "balancers")
    for node in listed.value if listed else ():
        if node.value not in known:
            hint = near_or_list(node.value, known, "balancers")
            names.faults.add(f"{subject}: there is no balancer {node.value!r}", node.where, hint)
        first = taken.setdefault(node.value, queue.name)
        if first != queue.name:
            message = f"{subject}: balancer {node.value!r} lets in the jobs of {first!r} already"
            names.faults.add(message, node.where, "a balancer has one queue; give it a further model instead")
    host = names.node("queues", queue.name, "redis", "host")
    if host is not None and host.value not in names.hosts:
        hint = near_or_list(host.value, names.hosts, "hosts")
        names.faults.add(f"{subject}.redis: there is no host {host.value!r}", host.where, hint)


def _redis(queue: Queue, names: Names) -> None:
    """One of host and url, and what belongs to each."""
    subject, redis = f"queues.{queue.name}.redis", queue.redis
    node = names.node("queues", queue.name, "redis")
    where = node.where if node else queue.where
    written = node.keys if node else {}  # also what was told to be wrong
    if ("host" in written) == ("url" in written):
        message = f"{subject} must have one of 'host' and 'url'"
        names.faults.add(message, where, "host: edge, or url: !env REDIS_URL")
        return
    if redis.url is not None:
        for name in _OWN:
            own = names.node("queues", queue.name, "redis", name)
            if own is not None:
                names.faults.add(
                    f"{subject}: '{name}' is for a Redis that ogen runs", own.where, "leave it out with url"
                )
        return
    if "secret" not in written and redis.host is not None:
        names.faults.add(f"{subject}: 'secret' is missing", where, "give it one: !file secrets/queue")
    if redis.tls is not None and None in (redis.tls.certificate, redis.tls.key):
        names.faults.add(f"{subject}.tls must have 'certificate' and 'key'", where, "files on its host")


def _network(queue: Queue, inventory: Inventory, names: Names) -> None:
    """Jobs go over the network in the clear nowhere."""
    if queue.redis.tls is not None:
        return
    balancers = [b for b in inventory.balancers if b.name in queue.balancers]
    asking = {host.name: "its cards' workers" for host in inventory.hosts if host.gpus or host.pins}
    for balancer in balancers:
        try:
            found = matching(names.hosts, inventory.groups, balancer.hosts)
        except PatternError:
            continue  # told where it stands
        asking |= dict.fromkeys(found, f"balancer {balancer.name}")
    away = sorted(set(asking) - {queue.redis.host})
    if away:
        where: Where | None = queue.where
        node = names.node("queues", queue.name, "redis", "host")
        where = node.where if node else where
        message = (
            f"queues.{queue.name}.redis: {away[0]} ({asking[away[0]]}) reaches {queue.redis.host} over the "
            "network, and there is no 'tls'"
        )
        names.faults.add(
            message, where, "tls: {certificate: /etc/ssl/redis.pem, key: /etc/ssl/private/redis.pem}"
        )
