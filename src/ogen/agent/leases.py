"""Operations on leases at a balancer host: take (or renew) one, end it, list them.

A lease is a file that `ogen-leases.service` reads (templates/leases.py); nginx has taken it when that
program says so. No lock of the host is needed: a lease changes no release, and a transaction may be
under way on the very host whose instance it is for.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, Sequence, Set

from . import systemd
from .errors import AgentError
from .frames import Message
from .session import Session
from .transaction import Host

FOLDER = "/run/ogen/leases"
STATE = "/run/ogen/leases.json"
UNIT = "ogen-leases.service"
ADOPTED = "/run/ogen-balancer-%s/release.conf"  # what templates/leases.py gave a balancer's nginx
RELEASED = "/etc/ogen/current/balancers/%s/nginx.conf"  # what it takes it from
TAKEN = 15.0  # seconds in which nginx must have taken a lease: it is reloaded at most once a second


def lease(session: Session, message: Message, data: bytes) -> None:
    """Keeps this host's balancers away from servers for `seconds`: `leases` are ids with a server each.
    Answers when those that run have taken it."""
    seconds = float(message["seconds"])
    take(session.host, dict(message["leases"]), seconds, str(message.get("who", "")))
    session.reply(seconds=seconds)


def take(host: Host, wanted: Mapping[str, str], seconds: float, who: str) -> None:
    """Leases (id → server), taken by the balancers that run here; AgentError if they do not."""
    host.disk.folder(FOLDER)
    until = host.machine.now() + seconds
    if host.live and not systemd.states(host.machine, [UNIT])[UNIT].up:
        host.machine.run(["systemctl", "start", UNIT])  # whoever stopped it must not stop all restarts
    for identity, server in wanted.items():
        told = {"servers": [str(server)], "until": until, "who": who[:200]}
        host.disk.replace(_file(identity), json.dumps(told, sort_keys=True).encode(), 0o644)
    servers = set(wanted.values())
    taken = _wait(host, lambda state: all(servers <= set(down) for down in _balancers(host, state)))
    if not taken:
        raise AgentError(
            "the balancers here do not take the lease of %s" % ", ".join(sorted(servers)),
            "see `journalctl -u %s` there; without it nothing keeps requests from an instance" % UNIT,
        )


def end(host: Host, identities: Sequence[str], wait: float) -> List[str]:
    """Ends leases. Those of their servers that did not come back within `wait` seconds; what somebody else
    keeps away too is not waited for."""
    servers: Set[str] = set()
    for name in [_file(identity) for identity in identities]:
        servers |= set(_read(host, name).get("servers") or ())
        host.disk.remove(name, sync=False)
    mine = servers - _leased(host)
    _wait(host, lambda state: not mine & _down(host, state), wait)
    return sorted(mine & _down(host, _state(host)))


def _down(host: Host, state: Dict[str, Any]) -> Set[str]:
    """What is to be kept away, and what a balancer that runs here still has down."""
    return set(state.get("down") or ()).union(*_balancers(host, state))


def unlease(session: Session, message: Message, data: bytes) -> None:
    """Ends the leases `ids`; `down` are those of their servers that did not come back in `wait` seconds."""
    ids = [str(identity) for identity in message["ids"]]
    session.reply(down=end(session.host, ids, float(message.get("wait") or 0.0)))


def leases(session: Session, message: Message, data: bytes) -> None:
    """Leases in force with the seconds that they have left, servers that are coming back, and those that
    fail their probes: kept away from, unless nobody else of their pool is left."""
    session.reply(**listed(session.host))


def listed(host: Host) -> Dict[str, Any]:
    found = []
    for name in host.disk.names(FOLDER):
        told = _read(host, FOLDER + "/" + name) if name.endswith(".json") else {}
        left = float(told.get("until") or 0) - host.machine.now()
        if left > 0:
            servers, who = told.get("servers", []), told.get("who", "")
            found.append({"id": name[:-5], "servers": servers, "who": who, "left": left})
    state = _state(host)
    failing, kept = state.get("failing") or {}, state.get("kept") or {}
    probed = [{"server": s, "why": why, "away": s in failing} for s, why in {**kept, **failing}.items()]
    return {"leases": found, "returning": state.get("returning") or [], "failing": probed}


def _file(name: str) -> str:
    if not name or name[0] == "." or any(not (c.isalnum() or c in "._-") for c in name):
        raise AgentError("%r is no name for a lease" % name)
    return "%s/%s.json" % (FOLDER, name)


def _read(host: Host, path: str) -> Dict[str, Any]:
    try:
        found = json.loads(host.disk.read_or(path).decode() or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _state(host: Host) -> Dict[str, Any]:
    return _read(host, STATE)


def _leased(host: Host) -> Set[str]:
    """Servers under any lease."""
    names = [n for n in host.disk.names(FOLDER) if n.endswith(".json")]
    return {s for name in names for s in _read(host, FOLDER + "/" + name).get("servers") or ()}


def _balancers(host: Host, state: Dict[str, Any]) -> List[List[str]]:
    """What each balancer that runs here has down."""
    taken = state.get("taken") or {}
    manifest = host.store.manifest(host.store.current)
    own = [p for p in manifest["balancers"] if p["unit"].startswith("ogen-balancer-")]
    seen = systemd.states(host.machine, [p["unit"] for p in own])
    return [taken.get(p["balancer"], []) for p in own if seen[p["unit"]].up]


def _wait(host: Host, fine: Any, seconds: float = TAKEN) -> bool:
    end = host.machine.now() + seconds
    while not fine(_state(host)):
        if host.machine.now() >= end:
            return False
        host.machine.wait(0.1)
    return True
