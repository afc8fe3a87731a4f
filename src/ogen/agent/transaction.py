"""What a transaction is: its BEGIN record, its folders, its tools; and how it begins, aborts and ends."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from . import journal, locks, store, systemd
from .disk import Disk
from .errors import AgentError, Changed
from .machine import Machine
from .prove import Patience

AUDIT = "/etc/ogen/audit.jsonl"
EDITED = "/etc/ogen/edited"  # what stood in the place of a link of ours, by its path
LATE = ("/etc/nginx/conf.d/",)  # a link that dangles here fails every `nginx -t`: made after the flip

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

    @classmethod
    def of(cls, message: Dict[str, Any]) -> "Request":
        fields = {k: float(v) for k, v in message.get("patience", {}).items() if k in Patience._fields}
        return cls(
            who=str(message.get("who", ""))[:200],
            git=str(message.get("git", ""))[:80],
            base=message.get("base"),
            check_base="base" in message,
            patience=Patience(**fields),
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
        except AgentError:
            self.session.drop()
            raise

    def drop(self) -> None:
        self.journal.drop()
        self.session.drop()


def check_base(host: Host, request: Request) -> None:
    if request.check_base and host.store.current != request.base:
        raise Changed(
            "the host changed since the plan: %s is in force instead of %s"
            % (host.store.current or "nothing", request.base or "nothing"),
            "run the command again",
        )


def links_of(host: Host, to: str) -> Tuple[store.Links, store.Links]:
    """Links to add, and links to remove, for the way from the release in force to `to`."""
    old, new = host.store.links(host.store.current), host.store.links(to)
    add = {path: target for path, target in new.items() if host.disk.link(path) != target}
    for path in add:
        _ours_or_free(host, path, old)
    return add, {path: target for path, target in old.items() if path not in new}


def _ours_or_free(host: Host, path: str, old: store.Links) -> None:
    """Somebody else's file is never replaced. One that took the place of a link in force is an edit
    (`sed -i` and `systemctl edit --full` do that): it is kept aside, and the link comes back."""
    if host.disk.lstat(path) is None or (host.disk.link(path) is not None and _is_ours(host, path)):
        return
    if path in old and _is_file(host, path):
        return
    raise AgentError(
        "%s exists and is not ogen's" % path,
        "move it away, or take its content into the inventory; then apply again",
    )


def _is_file(host: Host, path: str) -> bool:
    found = host.disk.lstat(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def keep_aside(host: Host, links: store.Links) -> None:
    """Copies of edited files that links of ours are about to replace."""
    for path in links:
        if _is_file(host, path):
            host.disk.folder((EDITED + path).rpartition("/")[0])
            host.disk.replace(EDITED + path, host.disk.read(path))


def _is_ours(host: Host, path: str) -> bool:
    target = host.disk.link(path) or ""
    name = path.rsplit("/", 1)[1]
    return target.startswith(store.CURRENT + "/") or target == "../" + name


def begin(host: Host, request: Request, to: str, staged: bool) -> Dict[str, Any]:
    """Writes BEGIN: all that recovery needs to know."""
    records = host.journal.records()
    current = host.store.current
    add, remove = links_of(host, to)
    keep_aside(host, add)
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
        "active": _active(host, wish, force),
        "edited": host.store.damage(current) if current else [],
        "boot": host.machine.boot(),
        "patience": request.patience._asdict(),
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


def late(links: store.Links) -> store.Links:
    return {path: target for path, target in links.items() if path.startswith(LATE)}


def add_links(host: Host, links: store.Links, after_flip: bool) -> None:
    """Those that may dangle for a moment before the flip; the others, and what replaces a file, after it.

    One that is right is left alone: a way back needs no room on the disk where nothing was changed.
    """
    for path, target in sorted(links.items()):
        if host.disk.link(path) == target:
            host.disk.sync_folder(path.rsplit("/", 1)[0])  # whoever made it may have died before that
            continue
        if (path.startswith(LATE) or _is_file(host, path)) == after_flip:
            host.disk.folder(path.rsplit("/", 1)[0])
            host.disk.symlink(target, path)


def drop_links(host: Host, links: store.Links) -> None:
    """Removes links, if they are still what they were made as; folders that this empties go too."""
    for path, target in sorted(links.items()):
        if host.disk.link(path + ".new") == target:  # a crash between its making and its renaming
            host.disk.remove(path + ".new")
        if host.disk.link(path) == target:
            host.disk.remove(path)
            folder = path.rsplit("/", 1)[0]
            if folder.startswith(store.UNITS + "/"):
                host.disk.remove_empty(folder)


def abort(host: Host, first: Dict[str, Any], why: str) -> None:
    """Back from before the flip: links and the staged tree go, nothing else has changed."""
    kept = host.store.links(first["from"])
    drop_links(host, {p: t for p, t in first["add"].items() if p not in kept})
    if first["staged"] and first["to"] not in (host.store.current, host.store.previous):
        discard(host, first["to"])
    host.journal.add("END", how="aborted", why=why)


def discard(host: Host, name: str) -> None:
    host.disk.remove_tree("%s/%s" % (store.RELEASES, name))


def flip(host: Host, name: Optional[str]) -> None:
    """The one rename that puts a release in force."""
    if name is not None and host.store.current == name:
        host.disk.sync_folder(store.HOME)
        return
    if name is None:
        host.disk.remove(store.CURRENT)
    else:
        host.disk.symlink("releases/%s/tree" % name, store.CURRENT)


def audit(host: Host, first: Dict[str, Any], result: Result, seconds: float) -> None:
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
    host.disk.append(AUDIT, json.dumps(entry, sort_keys=True).encode() + b"\n")


def history(host: Host) -> List[Dict[str, Any]]:
    """The audit's entries, oldest first; damaged lines are skipped."""
    found = []
    for text in host.disk.read_or(AUDIT).decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(text)
            if isinstance(entry, dict):
                found.append(entry)
    return found


def collect(host: Host) -> List[str]:
    """Removes releases that nobody needs: kept are the one in force, the one before, and what runs."""
    keep = {host.store.current, host.store.previous}
    running = "".join(_mounts(host)) if host.live else ""
    gone = []
    for name in host.disk.names(store.RELEASES):
        if name not in keep and "/releases/%s/" % name not in running:
            discard(host, name)
            gone.append(name)
    return gone


def _mounts(host: Host) -> Iterator[str]:
    done = host.machine.run(["systemctl", "show", "--property=MainPID", "--value", "--", "ogen-*.service"])
    for text in done.lines:
        if text.strip().isdigit() and int(text):
            yield host.machine.mounts(int(text))
