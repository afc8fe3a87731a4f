"""What hosts said about themselves, as typed values; their words are data, and any of them may be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..inventory.model import Gpu
from ..push import Comparison
from ..release.plaintext import one_line

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
    """A row of nvidia-smi; memory in bytes, None where the card does not tell."""

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


def listed(gpu: Gpu) -> bool:
    """Whether nvidia-smi's query shows it: it shows whole NVIDIA cards."""
    return gpu.vendor == "nvidia" and not (gpu.uuid or "").startswith("MIG-")


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
    deep: Deep | None = None


# --------------------------------------------------------------------------------------- reading
def host_seen(
    host: str, said: Mapping[str, Any], comparison: Comparison, offset: float = 0.0, slack: float = 0.0
) -> HostSeen:
    """From the agent's words; what is missing or of another type becomes empty."""
    cards = _map(said.get("cards"))
    answers, hashes = _map(said.get("instances")), _map(said.get("hashes"))
    rungs = _map(said.get("rungs"))
    return HostSeen(
        host=host,
        time=_float(said.get("time")) or 0.0,
        offset=offset,
        slack=slack,
        live=bool(said.get("live")),
        current=_text(said.get("current")) or None,
        locked=_text(said.get("locked")) or None,
        idle=bool(said.get("idle", True)),
        stuck=_text(said.get("stuck")),
        comparison=comparison,
        units={_text(name): _unit(_map(one)) for name, one in _map(said.get("units")).items()},
        cards=cards_seen(said),
        card_code=_int(cards.get("code")),
        card_said=tuple(_text(line) for line in _list(cards.get("said"))),
        programs=tuple(_program(_map(row)) for row in _list(cards.get("apps"))),
        instances=tuple(
            _instance(p, *(_map(found.get(_text(p.get("instance")))) for found in (answers, rungs)))
            for p in map(_map, _list(said.get("proofs")))
        ),
        balancers=tuple(
            BalancerSeen(
                _text(p.get("balancer")),
                _text(p.get("unit")),
                _text(p.get("hash")),
                _text(hashes.get(_text(p.get("balancer")))),
            )
            for p in map(_map, _list(said.get("balancers")))
        ),
        leases=(
            *(
                LeaseSeen(_text(server), _float(one.get("left")) or 0.0, _text(one.get("who")))
                for one in map(_map, _list(said.get("leases")))
                for server in _list(one.get("servers"))
            ),
            *(LeaseSeen(_text(server), 0.0) for server in _list(said.get("returning"))),
            *(
                LeaseSeen(_text(one.get("server")), 0.0, why=_text(one.get("why")), kept=not one.get("away"))
                for one in map(_map, _list(said.get("failing")))
            ),
        ),
        deep=_deep(said) if "logs" in said else None,
    )


def cards_seen(said: Mapping[str, Any]) -> tuple[CardSeen, ...]:
    return tuple(_card(_map(row)) for row in _list(_map(said.get("cards")).get("rows")))


def _unit(said: Mapping[str, Any]) -> UnitSeen:
    words = {name: _text(said.get(name)) for name in ("active", "sub", "loaded", "enabled", "result")}
    return UnitSeen(**words, restarts=_int(said.get("restarts")), age=_float(said.get("age")))


def _card(row: Mapping[str, Any]) -> CardSeen:
    return CardSeen(
        index=_int(row.get("index")),
        uuid=_text(row.get("uuid")),
        pci=_text(row.get("pci.bus_id")),
        name=_text(row.get("name")),
        driver=_text(row.get("driver_version")),
        total=_int(row.get("memory.total")) * MIB,
        used=_int(row.get("memory.used")) * MIB,
        busy=_float(row.get("utilization.gpu")),
        temperature=_float(row.get("temperature.gpu")),
        power=_float(row.get("power.draw")),
    )


def _program(row: Mapping[str, Any]) -> Program:
    used = _int(row.get("used_memory")) * MIB
    name = _text(row.get("process_name"))
    return Program(_int(row.get("pid")), _text(row.get("gpu_uuid")), used, name, _text(row.get("unit")))


def _rung(told: Mapping[str, Any]) -> str:
    return (
        f"rung {_int(told.get('rung'))} of {_int(told.get('of'))}: {_text(told.get('about'))}" if told else ""
    )


def _instance(
    proof: Mapping[str, Any], answer: Mapping[str, Any], autofit: Mapping[str, Any]
) -> InstanceSeen:
    return InstanceSeen(
        name=_text(proof.get("instance")),
        unit=_text(proof.get("unit")),
        port=_int(proof.get("port")),
        gpus=tuple(_text(gpu) for gpu in _list(proof.get("gpus"))),
        promised=tuple(
            Promise(
                _text(m.get("model")),
                _text(m.get("verdict")),
                bool(m.get("resident", True) and m.get("stays", True)),
                _int(m.get("context")),
            )
            for m in map(_map, _list(proof.get("models")))
        ),
        rung=_rung(autofit),
        version=_text(answer.get("version")),
        models=tuple(
            Loaded(
                _text(m.get("name")),
                _int(m.get("size")),
                _int(m.get("size_vram")),
                _int(m.get("context_length")),
            )
            for m in map(_map, _list(answer.get("models")))
        ),
        error=_text(answer.get("error")),
    )


def _deep(said: Mapping[str, Any]) -> Deep:
    store, edges = _map(said.get("store")), _map(said.get("edges"))
    return Deep(
        logs={unit: _log(_map(log)) for unit, log in _map(said.get("logs")).items()},
        reached={(_text(a), _int(p)): _text(why) for a, p, why in _rows(said.get("reached"), 3)},
        listeners=tuple(_text(line) for line in _list(said.get("listeners"))),
        disk=_disk(_text(store.get("folder")), _map(store.get("disk"))) if store.get("disk") else None,
        blobs={str(k): tuple(map(_text, _list(v))) for k, v in _map(store.get("blobs")).items()},
        lacking=tuple((_text(a), _text(b), _text(c)) for a, b, c in _rows(store.get("lacking"), 3)),
        statuses={
            name: {_text(k): _int(v) for k, v in _map(_map(edge).get("statuses")).items()}
            for name, edge in edges.items()
        },
        failures={
            name: tuple(
                Failure(_float(t) or 0.0, _text(u), _text(s))
                for t, u, s in _rows(_map(edge).get("failed"), 3)
            )
            for name, edge in edges.items()
        },
        driver=bool(said.get("drivers", True)),
    )


def _log(said: Mapping[str, Any]) -> UnitLog:
    return UnitLog(**{part: _lines(said.get(part)) for part in ("start", "lines", "last")})


def _lines(said: Any) -> tuple[Line, ...]:
    return tuple(Line(_float(t) or 0.0, str(text)[:4000]) for t, text in _rows(said, 2))


def _disk(folder: str, said: Mapping[str, Any]) -> Disk:
    sizes = {name: _int(said.get(name)) for name in ("total", "free", "inodes", "inodes_free")}
    return Disk(folder, bool(said.get("there")), **sizes)


def _rows(value: Any, width: int) -> list[Any]:
    return [row for row in _list(value) if isinstance(row, (list, tuple)) and len(row) == width]


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _text(value: Any) -> str:
    return one_line(str(value)) if value is not None else ""


def _int(value: Any) -> int:
    return int(_float(value) or 0)


def _float(value: Any) -> float | None:
    """None for what is no finite number: nvidia-smi writes [N/A]."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < 1e18 else None
