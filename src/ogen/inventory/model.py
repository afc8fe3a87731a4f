"""What an inventory says, checked and merged: frozen values, sizes in bytes, times in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..errors import Where

Strategy = Literal["round_robin", "least_conn", "ip_hash", "hash", "random"]
Routing = Literal["by_model", "per_port", "single"]
KvType = Literal["f16", "q8_0", "q4_0"]
Vendor = Literal["nvidia", "amd"]
SplitMode = Literal["layer", "row", "tensor"]


@dataclass(frozen=True, slots=True)
class Secret:
    """A reference to a secret: `!env NAME`, `!file PATH` or `!command [...]`. Never its text."""

    kind: Literal["env", "file", "command"]
    argument: str | tuple[str, ...]
    where: Where | None = field(default=None, compare=False)

    def __str__(self) -> str:
        shown = self.argument if isinstance(self.argument, str) else " ".join(self.argument)
        return f"<secret !{self.kind} {shown}>"


@dataclass(frozen=True, slots=True)
class Ssh:
    """How to reach a host and become root there; None leaves it to the user's ssh_config."""

    user: str | None = None
    port: int | None = None
    key: str | None = None  # path of a private key, relative to the inventory's folder
    password: Secret | None = None
    become: bool = False
    become_password: Secret | None = None
    proxy_jump: str | None = None
    host_key: str | None = None  # "ssh-ed25519 AAAA…": pinned in the inventory
    connect_timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class Archive:
    """Where an archive of Ollama comes from: fetched by the host, or a file that is sent to it."""

    url: str | None = None
    file: str | None = None  # relative to the inventory's folder
    sha256: Mapping[str, str] = field(default_factory=dict)  # version → digest; "*": of any version
    where: Where | None = field(default=None, compare=False, repr=False)

    def at(self, version: str) -> str:
        """The address or path for a version."""
        return (self.url or self.file or "").replace("{version}", version)

    def digest(self, version: str) -> str | None:
        return self.sha256.get(version) or self.sha256.get("*")


PROGRAMS = "/opt/ogen/ollama"  # a folder for each version that ogen installed


@dataclass(frozen=True, slots=True)
class Ollama:
    """The settings of a host's Ollama servers."""

    version: str = "0.32.15"
    source: tuple[Archive, ...] = ()  # what `ogen provision` installs; () leaves that to others
    binary: str | None = None  # None: see `program`
    models_dir: str = "/var/lib/ollama/models"
    user: str = "ollama"
    group: str = "ollama"
    flash_attention: bool | None = None  # None: as the version decides
    kv_cache: KvType | None = None
    keep_alive: str = "-1"
    load_timeout: str = "5m"
    max_queue: int | None = None
    first_port: int = 11434  # an instance's port is this plus its lowest GPU index
    librarian_port: int = 11433
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Where ogen installs this version."""
        return f"{PROGRAMS}/{self.version}"

    @property
    def program(self) -> str:
        """What units start."""
        return self.binary or (f"{self.folder}/bin/ollama" if self.source else "/usr/local/bin/ollama")


@dataclass(frozen=True, slots=True)
class Monitoring:
    enabled: bool = True
    interval: float = 5.0  # seconds
    textfile_dir: str = "/var/lib/prometheus/node-exporter"
    keep_days: int = 14


@dataclass(frozen=True, slots=True)
class Autofit:
    """How a host chooses among an instance's rungs by the memory that is free on its cards."""

    enabled: bool = True
    every: float = 10.0  # seconds between two looks
    hold: float = 300.0  # seconds that a better rung must have fitted, and since the last switch
    margin: int = 512 * 2**20  # bytes that a better rung must leave free beyond what it needs
    per_hour: int = 6  # switches, after which only memory that falls short makes another


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card of a host; `index` is nvidia-smi's (PCI) order and never changes when others go out."""

    index: int
    model: str  # the catalog's name, e.g. "RTX 3090"
    vendor: Vendor
    vram: int  # bytes: the catalog's, or what the inventory says instead
    reserve: int = 0  # bytes that ogen leaves to others
    uuid: str | None = None
    state: Literal["in", "out"] = "in"
    reason: str | None = None
    where: Where | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Context:
    """Tokens per slot: what is wanted, and the least that a concession may go down to."""

    want: int
    at_least: int


@dataclass(frozen=True, slots=True)
class Source:
    """Where one quantisation of a model comes from."""

    quant: str | None  # "Q4_K_M"; None where the tag or the file decides
    ref: str  # a library tag, "hf.co/…", or a GGUF path on the control machine ("./x.gguf")
    where: Where | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Model:
    """A named model with its settings."""

    name: str
    sources: tuple[Source, ...]  # acceptable ones, best first
    context: Context
    parallel: int = 1
    replicas: int | Literal["fill"] = "fill"
    on: str = "all"  # host pattern
    aliases: tuple[str, ...] = ()
    card: str | None = None  # the catalog card, where the tag does not tell it
    batch: int | None = None
    batch_at_least: int = 128
    kv_cache: KvType | None = None
    kv_cache_at_least: KvType | None = None  # the smallest cache type that a concession may choose
    num_gpu: int | None = None  # a fixed number of layers; None leaves it to the engine
    gpu_layers_at_least: int | None = None  # None: concessions may not put layers in host memory
    low_vram: bool = False  # KV cache in host memory
    main_gpu: int | None = None
    use_mmap: bool | None = None
    split: SplitMode | None = None  # over several cards
    shares: tuple[float, ...] = ()
    gpus_per_replica: int | None = None  # None: as few as it takes
    concessions: tuple[str, ...] | None = None  # order of the ladder; None: fit's default
    system: str | None = None
    template: str | None = None
    adapter: str | None = None
    license: str | None = None
    messages: tuple[Message, ...] = ()
    parameters: Mapping[str, bool | int | float | str | tuple[str, ...]] = field(default_factory=dict)
    keep_alive: str | None = None
    residency: Literal["resident", "on_demand"] = "resident"
    hours: tuple[str, ...] = ()  # "mon-fri 08:00-18:00": when it is kept in memory; () is always
    embedding: bool = False
    autofit: bool | None = None  # None: as the host
    where: Where | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Pin:
    """An instance that the inventory prescribes instead of the planner."""

    gpus: tuple[int, ...]  # () : without a card
    models: tuple[str, ...]
    port: int | None = None
    low_vram: bool | None = None
    num_gpu: int | None = None
    context: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    where: Where | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Host:
    """One machine; defaults and groups are merged in already."""

    name: str
    address: str
    data_address: str | None = None  # an IP where balancers reach it; None: `address`
    groups: tuple[str, ...] = ()
    state: Literal["in", "out"] = "in"
    reason: str | None = None
    connection: Literal["ssh", "local"] = "ssh"
    transport: Literal["paramiko", "openssh"] = "paramiko"
    root: str | None = None  # relocates every path; systemd and owners are left alone
    ssh: Ssh = Ssh()
    ollama: Ollama = Ollama()
    monitoring: Monitoring = Monitoring()
    autofit: Autofit | None = None  # None: for models that ask for it
    gpus: tuple[Gpu, ...] = ()
    pins: tuple[Pin, ...] = ()  # `instances:`
    weight: int | None = None
    backup: bool = False  # its instances are asked only where no other one of the pool answers
    env: Mapping[str, str] = field(default_factory=dict)  # of every instance
    python: str = "python3"
    where: Where | None = field(default=None, compare=False, repr=False)

    @property
    def reached_at(self) -> str:
        return self.data_address or self.address


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """What a client may send in `options`, where requests are read (routing by_model).

    Options that shape the runner (num_gpu and the like: another value reloads the model) and keep_alive pass
    only where `allow` names them; of the others all pass where it is None.
    """

    allow: tuple[str, ...] | None = None
    max_context: int | Literal["plan"] = "plan"  # num_ctx: the plan's, or the client's up to a number


@dataclass(frozen=True, slots=True)
class Gate:
    """One queue for each pool, first come first served: no more requests at once than the pool has slots."""

    queue: int = 512  # requests that may wait in each pool's queue
    wait: float = 600.0  # seconds that one may wait
    turn: float = 30.0  # seconds that a model which takes turns keeps its instances at least; 0: no such rule


@dataclass(frozen=True, slots=True)
class Limit:
    """What one client may ask for; None does not limit."""

    rate: str | None = None  # "10/s" or "30/m"
    burst: int = 0  # requests that may come at once above the rate
    concurrent: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The limit of each key, or of each address where there are no keys; `keys`: other limits by name."""

    each: Limit = Limit()
    keys: Mapping[str, Limit] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tls:
    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class Balancer:
    """An nginx entry point over pools."""

    name: str
    hosts: str  # host pattern
    listen: int = 8080
    address: str | None = None  # None: all addresses of the host
    strategy: Strategy = "least_conn"
    hash_key: str | None = None  # "api_key" or "header:NAME"
    routing: Routing = "by_model"
    ports: Mapping[str, int] = field(default_factory=dict)  # per_port: model → port; else listen + n
    pool: str | None = None  # single: the one model; None: all instances
    max_fails: int = 2
    fail_timeout: float = 10.0
    read_timeout: float = 3600.0
    connect_timeout: float = 2.0
    max_body: int = 64 * 1024 * 1024
    into: Literal["own", "conf.d"] = "own"
    keys: Secret | None = None
    admins: tuple[str, ...] = ()  # names of keys that may pull, push, create, copy and delete models
    limits: Limits = Limits()
    gate: Gate | None = None
    tls: Tls | None = None
    allow: tuple[str, ...] = ()  # CIDR
    client_options: ClientOptions = ClientOptions()
    workers: int | None = None
    where: Where | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class RedisTls:
    certificate: str | None = None  # on Redis' host
    key: str | None = None
    ca: str | None = None  # on the hosts that ask; None: the system's authorities


@dataclass(frozen=True, slots=True)
class Redis:
    """Where a queue's jobs are kept: a Redis that ogen runs on `host`, or somebody's at `url`."""

    host: str | None = None
    port: int = 6379
    secret: Secret | None = None
    memory: int = 256 * 1024 * 1024  # bytes
    tls: RedisTls | None = None
    url: Secret | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """Jobs for models that wait until an instance is free, and are not lost."""

    name: str
    redis: Redis
    balancers: tuple[str, ...]
    models: tuple[str, ...] = ()  # (): all
    length: int = 1000  # jobs that may wait for each model
    tries: int = 3
    backoff: float = 2.0
    timeout: float = 3600.0
    expiry: float = 3600.0
    lease: float = 15.0
    dead_letters: int = 1000
    libraries: str = "wheels"  # relative to the inventory's folder
    where: Where | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Rollout:
    batches: tuple[int | str, ...] = (1, "25%", "100%")
    max_fail: int | str = 0
    downloads: int = 4  # hosts that load models at once
    drain_timeout: float = 600.0
    prove_timeout: float = 300.0
    allow_outage: bool = False


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where hosts get models from in place of the registries: one of them, or a folder of this machine."""

    host: str | None = None  # loads each model once, and gives it to the others
    port: int = 11432  # open to hosts that need a model, while a rollout runs
    folder: str | None = None  # in the layout of Ollama's store, relative to the inventory's folder
    fallback: Literal["none", "origin"] = "none"  # where the mirror can't be had
    where: Where | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Lock:
    """inventory.lock.yaml: what names resolved to when it was last reviewed."""

    uuids: Mapping[str, Mapping[int, str]] = field(default_factory=dict)  # host → index → UUID
    versions: Mapping[str, str] = field(default_factory=dict)  # host → Ollama version seen
    digests: Mapping[str, str] = field(default_factory=dict)  # source ref → model digest
    sizes: Mapping[str, int] = field(default_factory=dict)  # source ref → bytes
    placements: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # model → "host/gpu0", …


@dataclass(frozen=True, slots=True)
class Inventory:
    """The whole, in the order of the file."""

    hosts: tuple[Host, ...]
    models: tuple[Model, ...]
    balancers: tuple[Balancer, ...]
    groups: Mapping[str, tuple[str, ...]]  # group → host names
    rollout: Rollout
    folder: str  # of the inventory: paths in it are relative to this
    name: str  # as the user gave it
    lock: Lock | None = None
    registries: tuple[str, ...] = ("registry.ollama.ai", "hf.co")
    mirror: Mirror | None = None
    queues: tuple[Queue, ...] = ()

    def host(self, name: str) -> Host:
        return next(h for h in self.hosts if h.name == name)

    def model(self, name: str) -> Model:
        return next(m for m in self.models if m.name == name)

    @property
    def forgotten(self) -> tuple[str, ...]:
        """Hosts that the lock knows, and that are not in the inventory any more."""
        if self.lock is None:
            return ()
        placed = {place.split("/")[0] for places in self.lock.placements.values() for place in places}
        known = {*self.lock.uuids, *self.lock.versions, *placed}
        return tuple(sorted(known - {host.name for host in self.hosts}))
