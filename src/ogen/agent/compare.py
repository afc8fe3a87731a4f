"""The host against a release: same, missing, not yet applied, or edited on the host. Changes nothing."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import Any, Dict, List, Optional, Set, Tuple

from . import disk as names
from . import journal, librarian, locks, prove, store, systemd
from .disk import Disk
from .machine import Machine

MAX_TEXT = 256 * 1024  # of one file that is sent back
MAX_ALL = 16 * 1024 * 1024

Report = Dict[str, Any]


def compare(disk: Disk, machine: Machine, wish: store.Manifest, want_text: bool) -> Tuple[Report, bytes]:
    """The report, and the texts of files that differ one after the other (`text` is their size)."""
    held = store.Store(disk)
    current = held.current
    own = held.manifest(current)
    records = journal.Journal(disk).records()
    report: Report = {
        "current": current,
        "release": current.split("-")[0] if current else None,
        "locked": locked(disk),
        "idle": journal.idle(records),
        "instances": [i["instance"] for i in own["instances"]],
        "files": _files(disk, current, own, wish),
        "missing": _missing(held, wish, _unfinished(records, current)),
    }
    data = _texts(disk, report["files"]) if want_text else b""
    report.update(_running(disk, machine, wish, own))
    report["links"] = _links(disk, held, wish, current)
    report["whole"] = (
        current is not None and report["release"] == store.identify(wish) and not held.damage(current)
    )
    report["unchanged"] = bool(
        report["whole"]
        and report["idle"]
        and not report["links"]
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
def _files(disk: Disk, current: Optional[str], own: store.Manifest, wish: store.Manifest) -> List[Report]:
    ours = {e["path"]: e for e in own["files"]}
    wanted = {e["path"]: e for e in wish["files"]}
    return [_file(disk, current, ours.get(path), wanted.get(path)) for path in sorted({*ours, *wanted})]


def _file(
    disk: Disk, current: Optional[str], own: Optional[store.Entry], wish: Optional[store.Entry]
) -> Report:
    entry = own or wish
    assert entry is not None
    place, found = _place(disk, current, own, entry)
    secret = bool((own and own["secret"]) or (wish and wish["secret"]))
    report: Report = {"path": entry["path"], "at": place, "secret": secret}
    if found is None:
        return {**report, "state": "missing" if wish else "gone"}
    seen = _seen(disk, place, found)
    report.update(seen)
    if wish and _equal(disk, seen, wish):
        return {**report, "state": "same"}
    edited = own is None or not _equal(disk, seen, own)
    if wish is None:
        return {**report, "state": "removed", "edited": edited}
    return {**report, "state": "edited" if edited else "differs"}


def _place(
    disk: Disk, current: Optional[str], own: Optional[store.Entry], entry: store.Entry
) -> Tuple[str, Optional[os.stat_result]]:
    """Where the file's content is: in the tree in force, or at its path if that is no link of ours."""
    inside = "%s/%s" % (store.tree(current), entry["stored"]) if current else ""
    if entry["link"]:
        target = disk.link(entry["path"])
        if target != store.CURRENT + "/root" + entry["path"]:
            return entry["path"], disk.lstat(entry["path"])
    if own and current:
        return inside, disk.lstat(inside)
    return inside, None


def _seen(disk: Disk, place: str, found: os.stat_result) -> Report:
    kind = "file" if stat.S_ISREG(found.st_mode) else "link" if stat.S_ISLNK(found.st_mode) else "other"
    data = disk.read_or(place) if kind == "file" else (disk.link(place) or "").encode()
    return {
        "kind": kind,
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "mode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
        "owner": names.user_name(found.st_uid),
        "group": names.group_name(found.st_gid),
    }


def _equal(disk: Disk, seen: Report, entry: store.Entry) -> bool:
    return (
        seen["kind"] == "file"
        and seen["sha256"] == entry["sha256"]
        and seen["mode"] == entry["mode"]
        and store.owned(disk, seen["uid"], seen["gid"], entry)
    )


def _texts(disk: Disk, files: List[Report]) -> bytes:
    """Contents of what differs; a secret's or a large file's content stays on the host."""
    parts: List[bytes] = []
    room = MAX_ALL
    for report in files:
        if report["state"] in ("same", "missing", "gone") or report["secret"] or report["kind"] != "file":
            continue
        if report["size"] <= min(MAX_TEXT, room):
            parts.append(disk.read_or(report["at"]))
            report["text"] = len(parts[-1])
            room -= len(parts[-1])
    return b"".join(parts)


def _unfinished(records: List[journal.Record], current: Optional[str]) -> Optional[str]:
    """A release that was staged and is not in force: recovery may remove it before the next apply."""
    return None if journal.idle(records) or records[0]["to"] == current else records[0]["to"]


def _missing(held: store.Store, wish: store.Manifest, unfinished: Optional[str]) -> List[str]:
    """Hashes of contents that no release on the host holds intact (as far as sizes tell)."""
    there: Set[str] = set()
    for entry in held.contents():
        if unfinished and entry["at"].startswith(store.tree(unfinished) + "/"):
            continue
        found = held.disk.lstat(entry["at"])
        if found and found.st_size == entry["size"]:
            there.add(entry["sha256"])
    return sorted({e["sha256"] for e in wish["files"]} - there)


def _links(disk: Disk, held: store.Store, wish: store.Manifest, current: Optional[str]) -> List[str]:
    """Links that are missing or wrong, as far as the release in force tells them."""
    if current is None:
        return sorted(e["path"] for e in wish["files"] if e["link"])
    return sorted(path for path, target in held.links(current).items() if disk.link(path) != target)


# --------------------------------------------------------------------------------------- running
def _running(disk: Disk, machine: Machine, wish: store.Manifest, own: store.Manifest) -> Report:
    report: Report = {
        "restart": [],
        "reload": [],
        "stop": systemd.removed(wish, own),
        "models": [],
        "skipped": [],
    }
    if disk.relocated:
        return {**report, "stop": [], "skipped": ["systemd", "models", "nginx -t"]}
    seen = systemd.states(machine, [u["name"] for u in wish["units"]])
    held = store.Store(disk)
    damage = held.damage(held.current) if held.current else []
    decisions = systemd.plan(wish, own, systemd.edited(seen, own, damage), {})
    report["restart"] = [name for name, what in decisions.items() if what != "keep"]
    report["reload"] = [
        proof["unit"]
        for proof in wish["balancers"]
        if decisions.get(proof["unit"], "keep") == "keep"
        and prove.balancer_hash(machine, proof) != proof["hash"]
    ]
    report["models"] = [m["name"] for m in librarian.missing(wish)]
    return report
