"""The host against a release, three-way: each file's base, wish and state on the host. Changes nothing."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

from . import admission, alarm, drift, journal, keys, librarian, locks, prove, store, systemd
from . import disk as names
from .disk import Disk
from .machine import Machine

MAX_TEXT = store.MAX_TEXT  # of one file that is sent back
MAX_ALL = 16 * 1024 * 1024

Report = Dict[str, Any]


class Version(NamedTuple):
    """A file as one side has it. Two that are equal need nothing done."""

    kind: str  # file | link | other
    sha256: str  # of the content, or of a link's target
    mode: int
    owner: str
    group: str
    linked: bool  # reached through a link of ogen's


def compare(disk: Disk, machine: Machine, wish: store.Manifest, want_text: bool) -> Tuple[Report, bytes]:
    """The report, and the texts of files that differ one after the other.

    `text` and `base_text` are sizes: of the host's text, and of the one that ogen had put there.
    """
    held = store.Store(disk)
    current = held.current
    own = held.manifest(current)
    report: Report = {
        "current": current,
        "release": current.split("-")[0] if current else None,
        "locked": locked(disk),
        "stuck": alarm.heard(disk),
        "idle": journal.Journal(disk).state() == "idle",
        "instances": [i["instance"] for i in own["instances"]],
        "serving": {
            i["instance"]: {
                "port": i["port"],
                "models": [m["model"] for m in i["models"]],
                "admits": i.get("admits"),
            }
            for i in own["instances"]
        },
        "pools": {b["balancer"]: b.get("pools", {}) for b in own["balancers"]},
        "files": Files(disk, held, own, wish).report() + _foreign(disk, own, wish),
        "missing": _missing(held, wish),
        "absent": store.absent(disk, wish),
    }
    data = _texts(held, report["files"], own) if want_text else b""
    report["why"] = {}
    report.update(_running(disk, machine, wish, own))
    others = keys.others(held, wish)
    if not disk.relocated:
        units = [p["unit"] for p in wish["balancers"] if p["balancer"] in others]
        report["reload"] += [unit for unit in units if unit not in (*report["reload"], *report["restart"])]
    report["links"] = _links(disk, held, wish, current)
    if current is not None:
        report["why"].update({path: drift.link_reason(disk, path) for path in report["links"]})
    report["whole"] = (
        current is not None and report["release"] == store.identify(wish) and not held.damage(current)
    )
    report["unchanged"] = bool(
        report["whole"]
        and report["idle"]
        and not report["stuck"]
        and not report["links"]
        and not others
        and not any(report[k] for k in ("restart", "reload", "stop"))
    )
    return report, data


def locked(disk: Disk) -> Optional[str]:
    """Who holds the host, if somebody does."""
    for path in (locks.SESSION, locks.JOURNAL):
        lock = locks.Lock(disk, path)
        if lock.held():
            return lock.note()
    return None


# ---------------------------------------------------------------------------------------- files
class Files:
    """The files of the release in force and of the wish, each as one line of the report."""

    def __init__(self, disk: Disk, held: store.Store, own: store.Manifest, wish: store.Manifest) -> None:
        self.disk = disk
        self.current = held.current
        self.own = {e["path"]: e for e in own["files"]}
        self.wish = {e["path"]: e for e in wish["files"]}

    def report(self) -> List[Report]:
        return [self._file(path) for path in sorted({*self.own, *self.wish})]

    def _file(self, path: str) -> Report:
        """Path and state; what else there is to know, unless it is the same."""
        own, wish = self.own.get(path), self.wish.get(path)
        entry = own or wish
        assert entry is not None
        place, found, linked = self._place(own, entry)
        base, mine = self._wanted(own), self._wanted(wish)
        report = {"at": place, **_seen(self.disk, place, found)} if found else {}
        theirs = self._there(report, [e for e in (own, wish) if e], linked) if found else None
        replaced = theirs is not None and bool(entry["link"]) and not linked
        state = drift.classify(base, mine, theirs, replaced and report["kind"] != "file")
        if state == drift.SAME:
            return {"path": path, "state": state}
        secret = bool((own and own["secret"]) or (wish and wish["secret"]))
        report.update({"path": path, "state": state, "secret": secret})
        if replaced:
            report["replaced"] = True  # what is there took the place of the link
        if base and state in drift.EDITS:
            report["base"] = {k: getattr(base, k) for k in ("sha256", "mode", "owner", "group")}
        return report

    def _place(
        self, own: Optional[store.Entry], entry: store.Entry
    ) -> Tuple[str, Optional[os.stat_result], bool]:
        """Where the content is: in the tree in force, or at its path if that is no link of ours."""
        inside = "%s/%s" % (store.tree(self.current), entry["stored"]) if self.current else ""
        linked = bool(entry["link"]) and self.disk.link(entry["path"]) == (
            store.CURRENT + "/root" + entry["path"]
        )
        if entry["link"] and not linked:
            return entry["path"], self.disk.lstat(entry["path"]), False
        return inside, self.disk.lstat(inside) if own and self.current else None, linked

    def _wanted(self, entry: Optional[store.Entry]) -> Optional[Version]:
        if entry is None:
            return None
        owner, group = ("", "") if self.disk.relocated else (entry["owner"], entry["group"])
        return Version("file", entry["sha256"], entry["mode"], owner, group, bool(entry["link"]))

    def _there(self, seen: Report, entries: List[store.Entry], linked: bool) -> Version:
        """An owner known by several names has the manifest's; a relocated root compares none."""
        owner, group = ("", "") if self.disk.relocated else (seen["owner"], seen["group"])
        for entry in [] if self.disk.relocated else entries:
            if store.owned(self.disk, seen["uid"], seen["gid"], entry):
                owner, group = entry["owner"], entry["group"]
        return Version(seen["kind"], seen["sha256"], seen["mode"], owner, group, linked)


def _foreign(disk: Disk, own: store.Manifest, wish: store.Manifest) -> List[Report]:
    found = []
    for path in drift.dropins(disk, own, wish):
        there = disk.lstat(path)
        if there is not None and not (stat.S_ISREG(there.st_mode) and drift.meant(disk, path)):
            seen = _seen(disk, path, there)
            found.append({"at": path, **seen, "path": path, "state": drift.FOREIGN, "secret": False})
    return found


def _seen(disk: Disk, place: str, found: os.stat_result) -> Report:
    kind = "file" if stat.S_ISREG(found.st_mode) else "link" if stat.S_ISLNK(found.st_mode) else "other"
    data = disk.read_or(place) if kind == "file" else (disk.link(place) or "").encode()
    seen: Report = {
        "kind": kind,
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "mode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
        "owner": names.user_name(found.st_uid),
        "group": names.group_name(found.st_gid),
    }
    return {**seen, "target": data.decode("utf-8", "replace")[:4096]} if kind == "link" else seen


def _texts(held: store.Store, files: List[Report], own: store.Manifest) -> bytes:
    """Contents of what differs; a secret's or a large file's content stays on the host."""
    parts: List[bytes] = []
    entries = {e["path"]: e for e in own["files"]}
    room = MAX_ALL

    def add(report: Report, key: str, data: Optional[bytes]) -> None:
        nonlocal room
        if data is not None and len(data) <= min(MAX_TEXT, room):
            parts.append(data)
            report[key] = len(data)
            room -= len(data)

    for report in files:
        if report.get("secret", True) or report["state"] == drift.CONVERGED:
            continue
        if report.get("kind") == "file" and report["size"] <= MAX_TEXT:
            add(report, "text", held.disk.read_or(report["at"]))
        if report["state"] in (drift.CONFLICT, drift.REMOVED_EDITED) and held.current:
            add(report, "base_text", held.original(held.current, entries[report["path"]]))
    return b"".join(parts)


def _missing(held: store.Store, wish: store.Manifest) -> List[str]:
    """Hashes of contents that no release on the host holds intact; an edit may be of the same size."""
    wanted: Set[str] = {e["sha256"] for e in wish["files"]}
    for entry in held.contents():
        if entry["sha256"] in wanted:
            data = held.disk.read_or(entry["at"])
            if hashlib.sha256(data).hexdigest() == entry["sha256"]:
                wanted.remove(entry["sha256"])
    return sorted(wanted)


def _links(disk: Disk, held: store.Store, wish: store.Manifest, current: Optional[str]) -> List[str]:
    """Links that are missing or wrong, as far as the release in force tells them."""
    if current is None:
        return sorted(e["path"] for e in wish["files"] if e["link"])
    return sorted(path for path, target in held.links(current).items() if disk.link(path) != target)


# --------------------------------------------------------------------------------------- running
def _running(disk: Disk, machine: Machine, wish: store.Manifest, own: store.Manifest) -> Report:
    """What an apply would start, restart, reload, stop and make; `why` a unit is not as the release says."""
    report: Report = {
        "restart": [],
        "reload": [],
        "stop": systemd.removed(wish, own),
        "models": [],
        "skipped": [],
        "admission": {},
    }
    if disk.relocated:
        report["admission"] = admission.behind(disk, admission.leaving(disk))
        report["reload"], report["why"] = sorted(report["admission"]), dict(report["admission"])
        nothing: Report = {"stop": [], "room": {}, "short": ""}
        return {**report, **nothing, "skipped": ["systemd", "models", "nginx -t"]}
    asked = sorted({*drift.names_of(wish), *drift.names_of(own)})
    seen = systemd.states(machine, asked)
    held = store.Store(disk)
    damage = held.damage(held.current) if held.current else []
    seen = systemd.edited(seen, own, damage)
    decisions = systemd.plan(wish, own, seen, {})
    served = {
        proof["unit"]: prove.balancer_hash(machine, proof)
        for proof in {p["unit"]: p for p in [*own["balancers"], *wish["balancers"]]}.values()
        if proof["unit"] not in seen or seen[proof["unit"]].up
    }
    report["restart"] = [name for name, what in decisions.items() if what != "keep"]
    report["reload"] = [
        proof["unit"]
        for proof in wish["balancers"]
        if decisions.get(proof["unit"], "keep") == "keep" and served.get(proof["unit"]) != proof["hash"]
    ]
    report["models"] = [m["name"] for m in librarian.missing(wish)]
    report["room"] = librarian.room(wish)
    report["short"] = librarian.short(report["room"])
    report["admission"] = _admission(disk, own, wish, seen)
    units = {unit["name"] for unit in wish["units"]} - {*report["restart"], *report["reload"]}
    report["reload"] += sorted(units & set(report["admission"]))
    report["why"] = {**report["admission"], **drift.reasons(own, seen, served)}
    return report


def _admission(
    disk: Disk, own: store.Manifest, wish: store.Manifest, seen: Dict[str, systemd.State]
) -> Dict[str, str]:
    """Why instances let in others than the release in force says, by unit."""
    beside = admission.leaving(disk)
    foreign = list(drift.dropins(disk, own, wish))
    return {**admission.behind(disk, beside), **admission.reasons(own, seen, beside, foreign)}
