"""From an agent's words to what was seen: what is missing or of another type becomes empty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..push import Comparison
from ..release.plaintext import one_line
from .evidence import (
    MIB,
    BalancerSeen,
    CardSeen,
    Deep,
    Disk,
    Failure,
    HostSeen,
    InstanceSeen,
    LeaseSeen,
    Line,
    Loaded,
    Program,
    Promise,
    Server,
    Share,
    Silent,
    UnitLog,
    UnitSeen,
)


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
                **_under_way(_map(_map(said.get("under_way")).get(_text(p.get("balancer"))))),
            )
            for p in map(_map, _list(said.get("balancers")))
        ),
        queues={_text(name): _map(one) for name, one in _map(said.get("queues")).items()},
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


def _under_way(said: Mapping[str, Any]) -> dict[str, Any]:
    if "running" not in said:
        return {}
    return {name: max(0, _int(said.get(name))) for name in ("running", "waiting", "slots")}


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
        vendor="amd" if row.get("vendor") == "amd" else "nvidia",
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
        elsewhere={_text(k): tuple(map(_text, _list(v))) for k, v in _map(store.get("elsewhere")).items()},
        unmounted=_text(store.get("unmounted")),
        own={
            name: {_text(k): _int(v) for k, v in _map(_map(edge).get("own")).items()}
            for name, edge in edges.items()
        },
        gone={
            name: tuple((_float(t) or 0.0, _float(s) or 0.0) for t, s in _rows(_map(edge).get("gone"), 2))
            for name, edge in edges.items()
        },
        shares={
            name: tuple(_share(_map(one)) for one in _list(_map(edge).get("shares")))
            for name, edge in edges.items()
        },
        silent={
            name: tuple(
                Silent(_text(p), _text(s), _int(n), _float(a) or 0.0, _float(b) or 0.0)
                for p, s, n, a, b in _rows(_map(edge).get("silent"), 5)
            )
            for name, edge in edges.items()
        },
        servers=tuple(_server(_map(one)) for one in _list(said.get("servers"))),
        peaks={
            _text(uuid): (_float(row[0]) or 0.0, _int(row[1]))
            for uuid, row in _map(said.get("peaks")).items()
            if isinstance(row, (list, tuple)) and len(row) == 2
        },
    )


def _share(said: Mapping[str, Any]) -> Share:
    return Share(
        _text(said.get("pool")),
        _float(said.get("start")) or 0.0,
        _float(said.get("end")) or 0.0,
        {_text(k): _int(v) for k, v in _map(said.get("served")).items()},
        _int(said.get("clients")),
        _float(said.get("busy")) or 0.0,
        _int(said.get("waited")),
        _float(said.get("longest")) or 0.0,
    )


def _server(said: Mapping[str, Any]) -> Server:
    env = {_text(k): _text(v) for k, v in _map(said.get("env")).items()}
    return Server(_int(said.get("pid")), _int(said.get("port")), _text(said.get("unit")), env)


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
