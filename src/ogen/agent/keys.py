"""Whose keys are in force at a balancer: those of the last apply, whatever release is in force.

KEYS/NAME.conf is a link to the keys of the release that was applied last and has any for the balancer
NAME. An apply sets it just before its flip, and back if it does not come to its end. A rollback leaves
it alone: it revives no key that was revoked since, and loses none that was given out. Nor does it end with
the balancer, for a rollback to a release that has it. A release that KEYS leads to is kept.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Dict, List, Optional, Set

from . import store
from .disk import Disk
from .errors import Refused

KEYS = store.HOME + "/keys"
TAKEN = "/run/ogen-balancer-%s/keys.conf"  # what templates/leases.py gave a balancer's nginx
_STORED = re.compile(r"balancers/([^/]+)/keys\.conf\Z")
_READ = re.compile(r"map\s+(\S+)\s+\S+\s*\{\s*include\s+\S*keys\S*;")  # what is looked up in them

Begin = Dict[str, Any]
Entries = Dict[str, store.Entry]  # by balancer


def entries(manifest: store.Manifest) -> Entries:
    """The files of keys that a release holds."""
    found = {}
    for entry in manifest["files"]:
        match = _STORED.match(entry["stored"])
        if match:
            found[match.group(1)] = entry
    return found


def place(name: str) -> str:
    return "%s/%s.conf" % (KEYS, name)


def _target(release: str, entry: store.Entry) -> str:
    return "../releases/%s/tree/%s" % (release, entry["stored"])


def _release(target: Optional[str]) -> Optional[str]:
    parts = (target or "").split("/")
    return parts[2] if parts[:2] == ["..", "releases"] and len(parts) > 3 else None


# ------------------------------------------------------------------------------- the transaction
def links(disk: Disk, manifest: store.Manifest) -> Dict[str, Optional[str]]:
    """For BEGIN: the links that an apply sets, as they are before it."""
    return {name: disk.link(place(name)) for name in entries(manifest)}


def take(disk: Disk, first: Begin) -> None:
    """Puts the keys of an apply's release in force."""
    names = first.get("keys") or {}
    if names:
        disk.folder(KEYS, sync=False)  # the flip syncs the folder above
        held = entries(store.Store(disk).manifest(first["to"]))
        _set(disk, {name: _target(first["to"], held[name]) for name in names})


def give_back(disk: Disk, first: Begin) -> None:
    """Puts those in force that were so before an apply."""
    if disk.lstat(KEYS) is not None:
        _set(disk, first.get("keys") or {})


def _set(disk: Disk, wanted: Dict[str, Optional[str]]) -> None:
    """One link after another: all are made, or the journal tells who has to go on."""
    for name, target in wanted.items():
        if target is None:
            disk.remove(place(name), sync=False)
        elif disk.link(place(name)) != target:
            disk.symlink(target, place(name), sync=False)
    if wanted:
        disk.sync_folder(KEYS)


# ---------------------------------------------------------------------------------- who looks
def releases(disk: Disk) -> Set[str]:
    """Releases whose keys are in force."""
    found = (_release(disk.link("%s/%s" % (KEYS, name))) for name in disk.names(KEYS))
    return {release for release in found if release}


def others(held: store.Store, wish: store.Manifest) -> List[str]:
    """Balancers of `wish` whose keys in force are those of a release that is not in force, and are not what
    it wants: as a rollback leaves them."""
    found = []
    for name, entry in entries(wish).items():
        release = _release(held.disk.link(place(name)))
        if release not in (None, held.current):
            data = held.disk.read_or(place(name))
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                found.append(name)
    return found


def untaken(disk: Disk, proof: store.Entry, first: Begin) -> bool:
    """Whether a balancer that serves the right configuration has other keys than those in force."""
    name = proof["balancer"]
    if proof["unit"].startswith("ogen-balancer-"):
        wanted = disk.read_or(place(name))
        return wanted not in (b"", disk.read_or(TAKEN % name))
    before = (first.get("keys") or {}).get(name)  # nobody can see what the machine's own nginx has read
    return bool(before) and disk.read_or("%s/%s" % (KEYS, before)) != disk.read_or(place(name))


def check(held: store.Store, name: str) -> None:
    """Raises Refused if a release can't do with the keys in force: it looks up something else in them."""
    manifest = held.manifest(name)
    for balancer in sorted(entries(manifest)):
        other = _release(held.disk.link(place(balancer)))
        if other in (None, name):
            continue
        wanted, there = _read(held, name, balancer), _read(held, str(other), balancer)
        if wanted != there:
            raise Refused(
                "release %s can't read the keys of balancer %s that are in force, those of release %s: it "
                "wants %s, and they are for %s" % (name, balancer, other, wanted or "none", there or "none"),
                "apply an older revision of the inventory instead: an apply brings its own keys",
            )


def _read(held: store.Store, release: str, balancer: str) -> str:
    """The variable that a release's nginx looks up in a balancer's keys."""
    manifest = held.manifest(release)
    paths = {p["config"] for p in manifest["balancers"] if p["balancer"] == balancer}
    for entry in manifest["files"]:
        if entry["path"] in paths:
            found = _READ.search(held.text(release, entry["stored"]))
            return found.group(1) if found else ""
    return ""
