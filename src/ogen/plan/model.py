"""The plan: which model on which card, under which name and port, and who balances over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ..errors import Where
from ..inventory.model import Balancer, Gpu, Host, Inventory, KvType, Model, Queue, Source

if TYPE_CHECKING:
    from ..fit import Account, Concession, Verdict


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What goes into the Modelfile: settings of the model, not of the server."""

    context: int  # tokens per slot
    batch: int | None  # None: the engine's own choice
    num_gpu: int | None  # None: automatic
    main_gpu: int | None = None
    use_mmap: bool | None = None


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What goes into the unit: settings of the server, the same for all of its models."""

    parallel: int
    context: int  # OLLAMA_CONTEXT_LENGTH: the largest of the models'
    flash_attention: bool | None
    kv_cache: KvType | None
    max_loaded_models: int
    keep_alive: str
    kv_on_host: bool = False
    experts_on_host: int = 0
    split: str | None = None
    shares: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    """One model on one instance."""

    model: Model
    source: Source
    settings: ModelSettings
    account: Account
    verdict: Verdict
    concessions: tuple[Concession, ...] = ()
    slots: int = 1  # requests that the instance serves at once with this model
    notes: tuple[str, ...] = ()  # what of the wishes the host's Ollama can't do


@dataclass(frozen=True, slots=True)
class Rung:
    """A configuration of an instance that its host may choose; `need`: bytes on each card with the margin."""

    server: ServerSettings
    placements: tuple[Placement, ...]
    need: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Instance:
    """One `ollama serve` process. `name` is unique on its host: "gpu0", "gpu0-1", "cpu"."""

    host: str
    name: str
    gpus: tuple[Gpu, ...]
    port: int
    server: ServerSettings
    placements: tuple[Placement, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    rungs: tuple[Rung, ...] = ()  # the planned one and those below it, best first; () without autofit
    where: Where | None = field(default=None, compare=False, repr=False)

    @property
    def unit(self) -> str:
        return f"ogen-ollama-{self.name}.service"


@dataclass(frozen=True, slots=True)
class Member:
    """One instance as a balancer sees it."""

    host: str
    instance: str
    address: str  # an IP or a name
    port: int
    slots: int  # requests that it serves at once
    weight: int = 1
    backup: bool = False  # asked only where no other one answers
    runs: Instance | None = field(default=None, compare=False, repr=False)  # what is behind it


@dataclass(frozen=True, slots=True)
class Pool:
    """The instances that serve one model (or, for `routing: single`, any)."""

    name: str  # the model's
    names: tuple[str, ...]  # what clients may call it: name and aliases, with default tags
    context: int  # the smallest planned context among the members, per slot
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A balancer with its pools, the same on each of its hosts; `ports` for routing per_port."""

    balancer: Balancer
    hosts: tuple[str, ...]
    pools: tuple[Pool, ...]
    ports: Mapping[str, int] = field(default_factory=dict)  # pool → port
    gates: tuple[str, ...] = ()  # "balancer@host": the gates of the fleet, which share the pools' slots

    @property
    def ways(self) -> tuple[str, ...]:
        """How a request finds its instance, in words: for people who read a plan."""
        gate = ("gate",) if self.balancer.gate else ()
        return (self.balancer.strategy, f"routing {self.balancer.routing}", *gate)


@dataclass(frozen=True, slots=True)
class Work:
    """A queue with the pools whose jobs it holds, and the hosts that its parts run on."""

    queue: Queue
    pools: tuple[Pool, ...]
    fronts: tuple[str, ...]  # hosts of its balancers: there jobs come in

    @property
    def workers(self) -> tuple[str, ...]:
        """Hosts with an instance that serves one of the pools."""
        return tuple(dict.fromkeys(member.host for pool in self.pools for member in pool.members))


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that a reviewer should know: a warning, with its place."""

    message: str
    where: Where | None = None
    hint: str | None = None
    severity: Literal["warning", "note"] = "warning"


@dataclass(frozen=True, slots=True)
class HostPlan:
    host: Host
    instances: tuple[Instance, ...]
    entries: tuple[Entry, ...]  # the balancers that run here
    works: tuple[Work, ...] = ()  # the queues of which a part runs here


@dataclass(frozen=True, slots=True)
class Plan:
    inventory: Inventory
    hosts: tuple[HostPlan, ...]  # `state: out` hosts are left out
    entries: tuple[Entry, ...]
    remarks: tuple[Remark, ...] = ()
    works: tuple[Work, ...] = ()

    def host(self, name: str) -> HostPlan:
        return next(h for h in self.hosts if h.host.name == name)
