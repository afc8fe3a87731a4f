"""What a transaction is: its BEGIN record, its folders, its tools; and how it begins, aborts and ends."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from . import admission, journal, keys, links, locks, store, systemd
from .disk import Disk
from .errors import Changed
from .machine import Machine
from .prove import Patience

AUDIT = "/etc/ogen/audit.jsonl"

Tell = Callable[[str, str, Optional[float]], None]
Result = Dict[str, Any]


def quiet(phase: str, text: str, percent: Optional[float] = None) -> None:
    """For work that nobody watches."""


class Host(NamedTuple):
    """What the agent works with."""

    disk: Disk
    machine: Machine
    agent: str = ""  # sha256 of the running agent

    @property
    def live(self) -> bool:
        """Whether there is a systemd to talk to; not so in a folder that stands for a host."""
        return not self.disk.relocated

    @property
    def store(self) -> store.Store:
        return store.Store(self.disk)

    @property
    def journal(self) -> journal.Journal:
        return journal.Journal(self.disk)


class Request(NamedTuple):
    """Who wants what, from the controller."""

    who: str = ""
    git: str = ""
    base: Optional[str] = None  # the folder name of the release that the plan was made against
    check_base: bool = True
    patience: Patience = Patience()
    local: bool = False  # and these are this host's own
    gated: bool = False  # the controller keeps balancers away from instances that go down
    applies: bool = False  # and brings its keys; a rollback leaves those in force

    @classmethod
    def of(cls, message: Dict[str, Any]) -> "Request":
        fields = {k: float(v) for k, v in message.get("patience", {}).items() if k in Patience._fields}
        return cls(
            who=str(message.get("who", ""))[:200],
            git=str(message.get("git", ""))[:80],
            base=message.get("base"),
            check_base="base" in message,
            patience=Patience(**fields),
            local=bool(message.get("local")),
            gated=bool(message.get("gated")),
            applies=message.get("op") == "apply",
        )


class Locks:
    """Both locks of the host, taken in order."""

    def __init__(self, host: Host) -> None:
        self.session = locks.Lock(host.disk, locks.SESSION)
        self.journal = locks.Lock(host.disk, locks.JOURNAL)

    def take(self, note: Dict[str, Any], patience: float = 0.0) -> None:
        self.session.take(note, patience)
        try:
            self.journal.take(note, patience)
        except BaseException:
            self.session.drop()
            raise

    def drop(self) -> None:
        self.journal.drop()
        self.session.drop()


def check_base(host: Host, request: Request, before: Optional[str]) -> None:
    """`before` was in force when this session came: recovery, under the locks, may have moved it since."""
    if request.check_base and request.base not in (host.store.current, before):
        raise Changed(
            "the host changed since the plan: %s is in force instead of %s"
            % (host.store.current or "nothing", request.base or "nothing"),
            "run the command again",
        )


def begin(host: Host, request: Request, to: str, staged: bool) -> Dict[str, Any]:
    """Writes BEGIN: all that recovery needs to know."""
    records = host.journal.records()
    current = host.store.current
    add, remove = links.links_of(host.disk, to)
    damage = host.store.damage(current) if current else []
    links.keep_aside(host.disk, add, damage)
    wish, force = host.store.manifest(to), host.store.manifest(current)
    record = {
        "tx": os.urandom(8).hex(),
        "epoch": journal.epoch(records) + 1,
        "who": request.who,
        "git": request.git,
        "from": current,
        "to": to,
        "staged": staged,
        "add": add,
        "remove": remove,
        "keys": keys.links(host.disk, wish) if request.applies else {},
        "active": _active(host, wish, force),
        "edited": damage,
        "leaving": admission.leaving(host.disk),
        "boot": host.machine.boot(),
        "patience": request.patience._asdict(),
        "gated": request.gated,
        "local": request.local,
    }
    host.journal.begin(record)
    return {"rec": "BEGIN", **record}


def _active(host: Host, wish: store.Manifest, force: store.Manifest) -> List[str]:
    """Units that run now: those of the old release, and services that the new one holds off."""
    if not host.live:
        return []
    names = [u["name"] for u in force["units"]] + systemd.held_off(wish)
    names += [p["unit"] for p in force["balancers"] if p["unit"] not in names]  # the machine's own nginx
    found = systemd.states(host.machine, names)
    return [name for name in names if found[name].up]


def abort(host: Host, first: Dict[str, Any], why: str) -> None:
    """Back from before the flip: links are as they were; what was staged is left to `leftover.collect`."""
    keys.give_back(host.disk, first)
    kept = host.store.links(first["from"])
    links.drop_links(host.disk, {p: t for p, t in first["add"].items() if p not in kept})
    gone = {p: t for p, t in first["remove"].items() if host.disk.lstat(p) is None}
    for after_flip in (False, True):
        links.add_links(host.disk, gone, after_flip)
    admission.put_back(host.disk, host.machine, first)
    host.journal.add("END", how="aborted", why=why)


def flip(host: Host, name: Optional[str]) -> None:
    """The one rename that puts a release in force; where that was done, it is only made sure of."""
    if host.store.current == name:
        host.disk.sync_folder(store.HOME)
    elif name is None:
        host.disk.remove(store.CURRENT)
    else:
        host.disk.symlink("releases/%s/tree" % name, store.CURRENT)


def audit(host: Host, first: Dict[str, Any], result: Result, seconds: float) -> None:
    """One line for how it ended; a run that was killed right after it finds it there."""
    known = [(entry.get("tx"), entry.get("status")) for entry in history(host)]
    if (first["tx"], result["status"]) in known:
        return
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),  # for people; nothing is decided by it
        "tx": first["tx"],
        "who": first["who"],
        "git": first["git"],
        "from": first["from"],
        "to": first["to"],
        "status": result["status"],
        "message": result.get("message", ""),
        "hint": result.get("hint"),
        "seconds": round(seconds, 1),
    }
    torn = host.disk.read_or(AUDIT)[-1:] not in (b"", b"\n")
    host.disk.append(AUDIT, b"\n" * torn + json.dumps(entry, sort_keys=True).encode() + b"\n")


def history(host: Host) -> List[Dict[str, Any]]:
    """The audit's entries, oldest first; damaged lines are skipped."""
    found = []
    for text in host.disk.read_or(AUDIT).decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(text)
            if isinstance(entry, dict):
                found.append(entry)
    return found
