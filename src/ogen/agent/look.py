"""The operation `look`: what runs on the host right now, and with `deep` the evidence for a diagnosis.

Nothing is written and no lock is taken. What can't be asked is told as text, never guessed.
"""

from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, Tuple

from . import (
    alarm,
    compare,
    leases,
    look_access,
    look_cards,
    look_log,
    look_others,
    look_store,
    prove,
    queues,
    rungs,
)
from .disk import Disk
from .frames import Message
from .machine import Machine
from .session import Session
from .store import Manifest
from .transaction import Host

Seen = Dict[str, Any]
STOCK = "ollama.service"
_UNIT = (
    "LoadState,ActiveState,SubState,MainPID,InvocationID,NRestarts,Result,UnitFileState,"
    "ActiveEnterTimestampMonotonic"
)
WAIT = 4.0  # seconds for an answer of an instance
LISTENERS = ["ss", "-Hltnp"]


def look(session: Session, message: Message, data: bytes) -> None:
    """`deep` adds journals, disk, ports and what the balancers reach; `reach`: their [address, port]s."""
    host = session.host
    seen: Seen = {"time": time.time(), "live": host.live}
    if message.get("clock"):  # the controller measures the way there and back
        session.reply(seen=seen)
        return
    if "load" in message:
        session.reply(seen={**seen, **_load(host, message["load"])})
        return
    name = host.store.current
    manifest = host.store.manifest(name)
    seen.update(
        current=name,
        previous=host.store.previous,
        locked=compare.locked(host.disk),
        idle=host.journal.state() == "idle",
        stuck=alarm.heard(host.disk),
        proofs=[_promised(proof) for proof in manifest["instances"]],
        balancers=manifest["balancers"],
    )
    if host.live:
        seen.update(_live(host.disk, host.machine, manifest))
        if message.get("deep"):
            seen.update(_deep(host.machine, manifest, message, seen["units"]))
    session.reply(seen=seen)


def _promised(proof: Seen) -> Seen:
    """An instance's promises, as the rung has them that is in force."""
    return {**proof, "models": [rungs.served(proof["instance"], served) for served in proof["models"]]}


def _live(disk: Disk, machine: Machine, manifest: Manifest) -> Seen:
    """Units, cards, what each instance answers, the hash that each balancer serves, leases."""
    proven = [proof["unit"] for proof in [*manifest["instances"], *manifest["balancers"]]]
    names = sorted({u["name"] for u in manifest["units"] if "@" not in u["name"]} | {*proven, STOCK})
    with ThreadPoolExecutor(16) as pool:
        cards = pool.submit(look_cards.cards, machine)
        answers = pool.map(lambda proof: _instance(machine, proof), manifest["instances"])
        hashes = pool.map(lambda proof: prove.balancer_hash(machine, proof), manifest["balancers"])
        units = _units(machine, names)
        return {
            "units": units,
            "cards": cards.result(),
            **leases.listed(Host(disk, machine)),
            "queues": queues.fronts(machine),
            "instances": {p["instance"]: a for p, a in zip(manifest["instances"], answers)},  # noqa: B905
            "rungs": {p["instance"]: rungs.chosen(p["instance"]) for p in manifest["instances"]},
            "hashes": {p["balancer"]: h for p, h in zip(manifest["balancers"], hashes)},  # noqa: B905
            "under_way": {p["balancer"]: _under_way(machine, p) for p in manifest["balancers"]},
        }


def _units(machine: Machine, names: List[str]) -> Seen:
    """Each unit as systemd shows it; `since` is the age of its active state in seconds."""
    done = machine.run(["systemctl", "show", "--property=" + _UNIT, "--", *names])
    blocks = [
        dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        for block in done.text.strip().split("\n\n")
    ]
    return {name: _unit(machine, block) for name, block in zip(names, blocks)}  # noqa: B905


def _unit(machine: Machine, block: Dict[str, str]) -> Seen:
    entered = block.get("ActiveEnterTimestampMonotonic", "")
    age = machine.now() - int(entered) / 1e6 if entered.isdigit() and int(entered) else None
    return {
        "active": block.get("ActiveState", ""),
        "sub": block.get("SubState", ""),
        "loaded": block.get("LoadState", ""),
        "enabled": block.get("UnitFileState", ""),
        "result": block.get("Result", ""),
        "pid": _number(block.get("MainPID")),
        "restarts": _number(block.get("NRestarts")),
        "invocation": block.get("InvocationID", ""),
        "age": age,
    }


def _number(text: Any) -> int:
    return int(text) if str(text).isdigit() else 0


def _instance(machine: Machine, proof: Seen) -> Seen:
    """Version and loaded models; `error` says why there is no answer."""
    version = machine.ask(proof["port"], "GET", "/api/version", timeout=WAIT)
    if version.status != 200:
        return {"error": "HTTP %d" % version.status if version.status else version.text[:200]}
    running = machine.ask(proof["port"], "GET", "/api/ps", timeout=WAIT)
    models = running.json().get("models")
    return {
        "version": str(version.json().get("version", "")),
        "models": models if isinstance(models, list) else [],
        "error": ""
        if running.status == 200
        else "/api/ps: HTTP %d %s" % (running.status, running.text[:200]),
    }


def _under_way(machine: Machine, proof: Seen) -> Seen:
    """Requests that instances work at, at a gate those that wait too; empty if nginx can't tell."""
    queues = machine.ask_socket(proof["socket"], "/queues")
    pools = [one for one in queues.json().values() if isinstance(one, dict)] if queues.status == 200 else []
    if pools:
        return {
            name: sum(_number(one.get(name)) for one in pools) for name in ("running", "waiting", "slots")
        }
    told = machine.ask_socket(proof["socket"], "/load")
    writing = re.search(r"Writing: (\d+)", told.text) if told.status == 200 else None
    return {"running": max(0, int(writing.group(1)) - 1)} if writing else {}  # 1: this question


# ------------------------------------------------------------------------------ while load is measured
def _load(host: Host, wanted: Dict[str, Any]) -> Seen:
    """`cards`: how busy they are now; `served`: what balancers logged since a mark, by its name."""
    if not host.live:
        return {}
    served = (wanted.get("served") or {}).items()
    return {
        "cards": look_cards.cards(host.machine) if wanted.get("cards") else {},
        "served": {str(name): look_access.served(str(name), mark) for name, mark in served},
    }


# ------------------------------------------------------------------------------------- the deep look
def _deep(machine: Machine, manifest: Manifest, message: Message, units: Seen) -> Seen:
    since = float(message.get("since") or 86400.0)
    reach: List[Tuple[str, int]] = [(str(a), int(p)) for a, p in message.get("reach") or ()]
    proofs = [*manifest["instances"], *manifest["balancers"]]
    with ThreadPoolExecutor(16) as pool:
        logs = pool.map(
            lambda proof: look_log.evidence(machine, proof["unit"], units.get(proof["unit"]) or {}, since),
            proofs,
        )
        reached = pool.map(lambda place: _reach(*place), reach)
        found = {
            "logs": {p["unit"]: lines for p, lines in zip(proofs, logs)},  # noqa: B905
            "reached": [[*place, why] for place, why in zip(reach, reached)],  # noqa: B905
        }
    listeners = machine.run(LISTENERS, timeout=10.0)
    return {
        **found,
        "listeners": listeners.lines if listeners.code == 0 else [],
        "store": look_store.store(manifest),
        "edges": {
            p["balancer"]: look_access.access(str(p["balancer"]), since) for p in manifest["balancers"]
        },
        "servers": look_others.servers(machine, listeners.lines if listeners.code == 0 else ()),
        "peaks": look_others.peaks(_steady(manifest, units, since)),
        "drivers": os.path.exists("/proc/driver/nvidia/version"),
    }


def _steady(manifest: Manifest, units: Seen, since: float) -> float:
    """Seconds for which no instance has been started: what cards held before may have been another plan's."""
    ages = [(units.get(proof["unit"]) or {}).get("age") for proof in manifest["instances"]]
    return min([since, *(float(age) for age in ages if age is not None)])


def _reach(address: str, port: int) -> str:
    """Why an instance does not answer to a balancer here; empty if it does."""
    import http.client

    link = http.client.HTTPConnection(address, port, timeout=WAIT)
    try:
        link.request("GET", "/api/version", headers={"Host": "localhost:%d" % port})
        status = link.getresponse().status
        return "" if status == 200 else "HTTP %d" % status
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        link.close()
