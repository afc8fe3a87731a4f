"""What hosts said about themselves, as typed values; their words are data, and any of them may be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..inventory.model import Gpu
from ..push import Comparison

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class UnitSeen:
    """A unit as systemd shows it; `age`: seconds since it became active."""

    active: str = ""
    sub: str = ""
    loaded: str = ""
    enabled: str = ""
    result: str = ""
    restarts: int = 0
    age: float | None = None

    @property
    def up(self) -> bool:
        return self.active in ("active", "reloading")


@dataclass(frozen=True, slots=True)
class CardSeen:
    """A row of nvidia-smi, or of the kernel's driver for AMD; memory in bytes, None where it is not told."""

    index: int
    uuid: str
    pci: str
    name: str
    driver: str
    total: int
    used: int
    busy: float | None = None  # percent
    temperature: float | None = None  # °C
    power: float | None = None  # W
    vendor: str = "nvidia"

    @property
    def source(self) -> str:
        return "sysfs" if self.vendor == "amd" else "nvidia-smi"


def listed(gpu: Gpu) -> bool:
    """Whether a host's look shows it: it shows whole cards."""
    return not (gpu.uuid or "").startswith("MIG-")


def match(gpu: Gpu, cards: tuple[CardSeen, ...]) -> CardSeen | None:
    """By UUID where it is known: indexes shuffle."""
    if gpu.uuid:
        return next((card for card in cards if card.uuid.lower() == gpu.uuid.lower()), None)
    return next((card for card in cards if (card.vendor, card.index) == (gpu.vendor, gpu.index)), None)


@dataclass(frozen=True, slots=True)
class Program:
    """A process that holds memory of a card."""

    pid: int
    uuid: str
    used: int  # bytes; 0 where the driver does not tell
    name: str
    unit: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model of /api/ps; sizes in bytes."""

    name: str
    size: int
    vram: int
    context: int


@dataclass(frozen=True, slots=True)
class Promise:
    """A model that the release in force promises on an instance."""

    model: str
    verdict: str
    resident: bool
    context: int = 0  # of autofit's rung; 0: as planned

    @property
    def tagged(self) -> str:
        return self.model if ":" in self.model.rsplit("/", 1)[-1] else self.model + ":latest"


@dataclass(frozen=True, slots=True)
class InstanceSeen:
    """An instance of the release in force and what it answers; `error`: why it does not."""

    name: str
    unit: str
    port: int
    gpus: tuple[str, ...]
    promised: tuple[Promise, ...]
    version: str = ""
    models: tuple[Loaded, ...] = ()
    error: str = ""
    rung: str = ""  # autofit's choice in words; "" without autofit

    def loaded(self, promise: Promise) -> Loaded | None:
        return next((m for m in self.models if m.name == promise.tagged), None)


@dataclass(frozen=True, slots=True)
class BalancerSeen:
    name: str
    unit: str
    wanted: str  # the hash of the release in force
    serves: str  # what nginx answers; "" if nothing
    running: int | None = None  # requests that instances work at; None: it does not tell
    waiting: int = 0  # in a gate's queues
    slots: int = 0  # of a gate's instances


@dataclass(frozen=True, slots=True)
class Line:
    time: float  # seconds since 1970, by the host's clock
    text: str


@dataclass(frozen=True, slots=True)
class UnitLog:
    start: tuple[Line, ...] = ()  # how the present run began
    lines: tuple[Line, ...] = ()  # what is telling in it, of the time looked at
    last: tuple[Line, ...] = ()  # of the unit, whichever run


@dataclass(frozen=True, slots=True)
class Failure:
    """A try of an instance that failed, as a balancer logged it."""

    time: float
    upstream: str  # address:port
    status: str


@dataclass(frozen=True, slots=True)
class Share:
    """How a pool's last good answers were shared; times by the host's clock."""

    pool: str  # nginx's name of it; "" where the log does not tell
    start: float
    end: float
    served: Mapping[str, int] = field(default_factory=dict)  # by address:port
    clients: int = 0
    busy: float = 0.0  # seconds that instances worked at these
    waited: int = 0  # of them waited a second or more for a slot
    longest: float = 0.0


@dataclass(frozen=True, slots=True)
class Silent:
    """Requests to a server of a pool that got no word since its last answer; times by the host's clock."""

    pool: str
    server: str  # address:port
    count: int
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Server:
    """An `ollama serve` that is none of ogen's."""

    pid: int
    port: int
    unit: str
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Disk:
    """The models' folder and its file system; bytes."""

    folder: str
    there: bool
    total: int
    free: int
    inodes: int
    inodes_free: int


@dataclass(frozen=True, slots=True)
class Deep:
    """What only a diagnosis asks for."""

    logs: Mapping[str, UnitLog] = field(default_factory=dict)  # by unit
    reached: Mapping[tuple[str, int], str] = field(default_factory=dict)  # why not; "" is reached
    listeners: tuple[str, ...] = ()  # lines of ss
    disk: Disk | None = None
    blobs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # model file → names
    lacking: tuple[tuple[str, str, str], ...] = ()  # instance, model, blob
    statuses: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # balancer → status → count
    failures: Mapping[str, tuple[Failure, ...]] = field(default_factory=dict)  # by balancer
    driver: bool = True  # the kernel's driver is loaded
    elsewhere: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # other store → lacking blobs there
    unmounted: str = ""  # a mount point of the models' folder that nothing is mounted on
    own: Mapping[str, Mapping[str, int]] = field(
        default_factory=dict
    )  # balancer → status → count, by nginx itself
    gone: Mapping[str, tuple[tuple[float, float], ...]] = field(
        default_factory=dict
    )  # when a client left, after s
    shares: Mapping[str, tuple[Share, ...]] = field(default_factory=dict)  # by balancer
    silent: Mapping[str, tuple[Silent, ...]] = field(default_factory=dict)  # by balancer
    servers: tuple[Server, ...] = ()
    peaks: Mapping[str, tuple[float, int]] = field(default_factory=dict)  # card's UUID → when, most bytes


@dataclass(frozen=True, slots=True)
class LeaseSeen:
    """A server that this host's balancers are kept away from; 0 seconds left: until it answers a probe.

    why: it is away (or, as the last one of a pool, is `kept`) since it fails the probes.
    """

    server: str
    left: float
    who: str = ""
    why: str = ""
    kept: bool = False


@dataclass(frozen=True, slots=True)
class HostSeen:
    """One host, looked at once."""

    host: str
    time: float  # the host's clock
    offset: float  # seconds that it is ahead of ours
    slack: float  # half of the time that the question took: what `offset` can be wrong by
    live: bool  # False: a folder that stands for a host
    current: str | None
    locked: str | None
    idle: bool
    stuck: str  # the alarm of a host that could not be proven; empty if there is none
    comparison: Comparison
    units: Mapping[str, UnitSeen] = field(default_factory=dict)
    cards: tuple[CardSeen, ...] = ()
    card_code: int = 0  # of nvidia-smi; 127: there is none
    card_said: tuple[str, ...] = ()
    programs: tuple[Program, ...] = ()
    instances: tuple[InstanceSeen, ...] = ()
    balancers: tuple[BalancerSeen, ...] = ()
    leases: tuple[LeaseSeen, ...] = ()
    queues: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # what their fronts here say
    deep: Deep | None = None
