"""Checked Nodes become the dataclasses of model.py; defaults are the dataclasses' own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..source import Node
from . import checks
from .cards import Cards
from .faults import Faults
from .merging import HostEntry, bare, numbered
from .model import (
    Archive,
    Autofit,
    Balancer,
    ClientOptions,
    Context,
    Gate,
    Gpu,
    Host,
    Limit,
    Limits,
    Message,
    Mirror,
    Model,
    Monitoring,
    Ollama,
    Pin,
    Queue,
    Redis,
    RedisTls,
    Rollout,
    Source,
    Ssh,
    Tls,
)

DEFAULT_CONTEXT = Context(8192, 2048)  # where a model says nothing; the ladder may go down to the second


def _fields(node: Node, *leave_out: str) -> dict[str, Any]:
    return {key: bare(child) for key, child in node.items() if key not in leave_out}


# ---------------------------------------------------------------------------------------- models
def model(name: str, node: Node, where: Any) -> Model | None:
    """The model `name`; None where its source was told to be wrong."""
    sources = node.get("from")
    if sources is None or not sources.value:
        return None
    values = _fields(node, "from", "context", "on", "messages", "num_gpu")
    if node.get("on"):
        values["on"] = ",".join(bare(node.value["on"]))
    if node.get("shares"):
        values["shares"] = tuple(float(share) for share in values["shares"])
    messages = node.get("messages")
    layers = node.get("num_gpu")
    return Model(
        name=name,
        sources=tuple(_source(item) for item in sources.value),
        context=_context(node.get("context")),
        messages=tuple(Message(**bare(m)) for m in messages.value if len(m.value) == 2) if messages else (),
        # -1 is Ollama's "automatic"; so is None
        num_gpu=layers.value if layers is not None and layers.value >= 0 else None,
        where=where,
        **values,
    )


def _source(node: Node) -> Source:
    quant, ref = node.get("quant"), node.get("ref")
    return Source(quant.value if quant else None, ref.value if ref else "", node.where)


def _context(node: Node | None) -> Context:
    if node is None or node.get("want") is None:
        return DEFAULT_CONTEXT
    want = node.value["want"].value
    least = node.get("at_least")
    return Context(want, least.value if least else want)


# ----------------------------------------------------------------------------------------- hosts
class Hosts:
    """Builds hosts; what many hosts share is built once."""

    def __init__(self, cards: Cards, faults: Faults) -> None:
        self.cards = cards
        self.faults = faults
        self._shared: dict[tuple[str, int], tuple[Node, Any]] = {}

    def host(self, entry: HostEntry, node: Node, uuids: Mapping[int, str]) -> Host | None:
        """The host, or None without an address (told)."""
        values: dict[str, Any] = {}
        for key, child in node.items():
            if key in ("gpus", "instances"):
                continue
            values[key] = self._section(key, child) if child.is_map else child.value
        gpus, pins = node.get("gpus"), node.get("instances")
        cards = self._gpus(entry, gpus, uuids) if gpus is not None else ()
        if not self._addressed(entry, node, values):
            return None
        return Host(
            name=entry.name,
            groups=tuple(entry.groups),
            gpus=cards,
            pins=tuple(_pin(p) for p in pins.value if "gpus" in p.value and "models" in p.value)
            if pins
            else (),
            where=entry.where,
            **values,
        )

    def _addressed(self, entry: HostEntry, node: Node, values: dict[str, Any]) -> bool:
        if "address" not in values:
            if "address" in node.keys:
                return False  # it was wrong, and told
            if values.get("connection") != "local":
                hint = "add address: with its IP address or name"
                self.faults.add(
                    f"hosts.{entry.name}: 'address' is missing", entry.where, hint, kind="address"
                )
                return False
            values["address"] = "127.0.0.1"
        good = True
        for key, test, words in (
            ("address", checks.is_address, "an IP address or a host name"),
            ("data_address", checks.is_ip, "an IP address"),
        ):
            if key in values and not test(values[key]):
                where = node.value[key].where
                self.faults.add(f"hosts.{entry.name}.{key} must be {words}, not {values[key]!r}", where)
                good = False
        return good

    def _section(self, key: str, node: Node) -> Any:
        """`ssh`, `ollama`, `monitoring`, `autofit` or `env`, made once per Node."""
        kept = self._shared.get((key, id(node)))
        if kept is None:
            made = _SECTIONS[key](**_fields(node, "source")) if key in _SECTIONS else bare(node)
            if key == "ollama":
                made = replace(made, source=_archives(node.get("source")))
            kept = self._shared[key, id(node)] = (node, made)
        return kept[1]

    def _gpus(self, entry: HostEntry, node: Node, uuids: Mapping[int, str]) -> tuple[Gpu, ...]:
        listed = numbered(node) if node.is_list else node
        found: list[Gpu] = []
        for key in sorted(listed.value, key=int):
            gpu = self._gpu(entry, int(key), listed, uuids.get(int(key)))
            if gpu is not None:
                found.append(gpu)
        return tuple(found)

    def _gpu(self, entry: HostEntry, index: int, listed: Node, uuid: str | None) -> Gpu | None:
        node = listed.value[str(index)]
        if "model" not in node.value:
            others = [key for key, other in listed.items() if "model" in other.value]
            hint = (
                f"its cards are {', '.join(others)}" if others else "it has no cards; give the card a model"
            )
            where = listed.keys.get(str(index), node.where)
            message = f"hosts.{entry.name} has no card {index}, or the card has no model"
            self.faults.add(message, where, hint, kind="card")
            return None
        card = self.cards.card(node)
        if card is None:
            return None
        own = node.get("uuid")
        state, reason = node.get("state"), node.get("reason")
        return Gpu(
            index=index,
            model=card.name,
            vendor=card.vendor,
            vram=card.vram,
            reserve=card.reserve,
            uuid=own.value if own else uuid,
            state=state.value if state else "in",
            reason=reason.value if reason else None,
            where=node.where,
        )


def _archives(node: Node | None) -> tuple[Archive, ...]:
    """Those of which nothing was told to be wrong."""
    good = [item for item in node.value if _whole(item)] if node else []
    return tuple(Archive(**bare(item), where=item.where) for item in good)


def _whole(node: Node) -> bool:
    return set(node.keys) == set(node.value) and all(_whole(n) for _, n in node.items() if n.is_map)


_SECTIONS: dict[str, Any] = {"ssh": Ssh, "ollama": Ollama, "monitoring": Monitoring, "autofit": Autofit}


def _pin(node: Node) -> Pin:
    values = _fields(node, "num_gpu")
    layers = node.get("num_gpu")
    values["gpus"] = tuple(sorted(values["gpus"]))
    return Pin(num_gpu=layers.value if layers and layers.value >= 0 else None, where=node.where, **values)


# ------------------------------------------------------------------------------------- balancers
def balancer(name: str, node: Node, where: Any) -> Balancer | None:
    """The balancer `name`; None where its hosts were told to be wrong."""
    hosts = node.get("hosts")
    if hosts is None or not hosts.value:
        return None
    values = _fields(node, "hosts", "tls", "client_options", "gate", "limits")
    tls, options = node.get("tls"), node.get("client_options")
    gate, limits = node.get("gate"), node.get("limits")
    if tls is not None and len(tls.value) == 2:
        values["tls"] = Tls(**bare(tls))
    if options is not None:
        values["client_options"] = ClientOptions(**bare(options))
    if gate is not None and gate.is_map:
        values["gate"] = Gate(**bare(gate))
    if limits is not None:
        values["limits"] = _limits(limits)
    return Balancer(name=name, hosts=",".join(bare(hosts)), where=where, **values)


def _limits(node: Node) -> Limits:
    named = node.get("keys")
    others = {name: Limit(**bare(child)) for name, child in named.items()} if named is not None else {}
    return Limits(Limit(**_fields(node, "keys")), others)


def mirror(node: Node | None) -> Mirror | None:
    return Mirror(**_fields(node), where=node.where) if node is not None else None


# ---------------------------------------------------------------------------------------- queues
def queue(name: str, node: Node, where: Any) -> Queue | None:
    """The queue `name`; None where its Redis or balancers were told to be wrong."""
    redis, balancers = node.get("redis"), node.get("balancers")
    if redis is None or balancers is None or not balancers.value:
        return None
    tls = redis.get("tls")
    made = Redis(tls=RedisTls(**bare(tls)) if tls is not None else None, **_fields(redis, "tls"))
    return Queue(name=name, redis=made, where=where, **_fields(node, "redis"))


def rollout(node: Node | None) -> Rollout:
    return Rollout(**_fields(node)) if node is not None else Rollout()
