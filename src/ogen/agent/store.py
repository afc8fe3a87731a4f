"""Releases on the host: which are there, which is in force, what they hold, what links to them."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zlib
from typing import Any, Callable, Dict, Iterator, List, Optional

from .disk import Disk
from .errors import AgentError

HOME = "/etc/ogen"
RELEASES = HOME + "/releases"
CURRENT = HOME + "/current"
PREVIOUS = HOME + "/previous"
UNITS = "/etc/systemd/system"
AGENTS = HOME + "/agent"
RECOVER = UNITS + "/ogen-recover.service"  # the recovery at boot; names its agent
LIBRARIES = "/opt/ogen/queue"  # what workers of queues run on, put there by `ogen provision`
PROGRAMS = "/opt/ogen/ollama"  # versions of Ollama that `ogen provision` has put side by side
MAX_TEXT = 256 * 1024  # bytes of a file whose text is kept, or sent back, for a diff

Manifest = Dict[str, Any]
Links = Dict[str, str]  # path → target
Entry = Dict[str, Any]  # a file of a manifest


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def identify(manifest: Manifest) -> str:
    """The release's id, as the controller computes it."""
    return hashlib.sha256(canonical(manifest)).hexdigest()[:16]


def tree(name: str) -> str:
    return "%s/%s/tree" % (RELEASES, name)


def absent(disk: Disk, manifest: Manifest) -> str:
    """The Ollama of a release, where `ogen provision` is to put it and has not; else empty."""
    program = str(manifest.get("librarian", {}).get("program") or "")
    return "" if not program or disk.relocated or os.access(program, os.X_OK) else program


class Store:
    """The folder /etc/ogen/releases and the links `current` and `previous`.

    A release lies in a folder named by its id; by "<id>-1" and so on when the folder with its id was
    edited on the host: what somebody wrote there is kept.
    """

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def _named(self, link: str) -> Optional[str]:
        target = self.disk.link(link) or ""
        parts = target.split("/")
        return parts[1] if len(parts) == 3 and parts[0] == "releases" and parts[2] == "tree" else None

    @property
    def current(self) -> Optional[str]:
        return self._named(CURRENT)

    @property
    def previous(self) -> Optional[str]:
        return self._named(PREVIOUS)

    def names(self) -> List[str]:
        return [n for n in self.disk.names(RELEASES) if not n.startswith(".")]

    def manifest(self, name: Optional[str]) -> Manifest:
        """A release's manifest; an empty one for None."""
        if name is None:
            return {"files": [], "units": [], "instances": [], "balancers": [], "views": [], "models": []}
        try:
            found = json.loads(self.disk.read("%s/%s/manifest.json" % (RELEASES, name)).decode())
        except (OSError, ValueError) as error:
            hint = "root is needed: set ssh.become: true" if isinstance(error, PermissionError) else None
            raise AgentError("the manifest of release %s can't be read: %s" % (name, error), hint) from None
        if not isinstance(found, dict):
            raise AgentError("the manifest of release %s is damaged" % name)
        return found

    def views(self, name: str) -> Dict[str, str]:
        """sha256 of the model manifests that were made at stage, by their path in the tree."""
        try:
            found = json.loads(self.disk.read("%s/%s/views.json" % (RELEASES, name)).decode())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def text(self, name: str, stored: str) -> str:
        return self.disk.read("%s/%s" % (tree(name), stored)).decode("utf-8", "replace")

    def version(self, name: str) -> str:
        """The folder below PROGRAMS whose Ollama a release names; empty if it is none of these."""
        program = str(self.manifest(name).get("librarian", {}).get("program") or "")
        return program[len(PROGRAMS) + 1 :].split("/")[0] if program.startswith(PROGRAMS + "/") else ""

    def links(self, name: Optional[str]) -> Links:
        """The symlinks that a release needs outside of /etc/ogen."""
        if name is None:
            return {}
        release = name
        return links(self.manifest(name), lambda stored: self.text(release, stored))

    def damage(self, name: str) -> List[str]:
        """Paths of a release whose file is not what its manifest says."""
        try:
            manifest = self.manifest(name)
        except AgentError:
            return ["%s/%s/manifest.json" % (RELEASES, name)]
        bad = [e["path"] for e in manifest["files"] if state(self.disk, name, e) != "same"]
        views = self.views(name)
        for view in manifest.get("views", ()):
            stored = view["path"][len(CURRENT) + 1 :]
            data = self.disk.read_or("%s/%s" % (tree(name), stored))
            if not data or hashlib.sha256(data).hexdigest() != views.get(stored):
                bad.append(view["path"])
        return bad

    def whole(self, release: str) -> Optional[str]:
        """The folder that holds the release `release` undamaged, if there is one."""
        for name in self.names():
            if name.split("-")[0] == release and not self.damage(name):
                return name
        return None

    def fresh(self, release: str) -> str:
        """A folder name for `release` that is not taken."""
        taken = set(self.names())
        names = (release if n == 0 else "%s-%d" % (release, n) for n in range(10_000))
        return next(n for n in names if n not in taken)

    def original(self, name: str, entry: Entry) -> Optional[bytes]:
        """What stood in a file of a release before somebody edited it; None where nothing tells it."""
        places = ["%s/%s" % (tree(name), entry["stored"])]
        places += [e["at"] for e in self.contents() if e["sha256"] == entry["sha256"]]
        for place in places:
            data = self.disk.read_or(place)
            if hashlib.sha256(data).hexdigest() == entry["sha256"]:
                return data
        return unpack(self.manifest(name), self.disk.read_or("%s/%s/%s" % (RELEASES, name, ORIGINALS)), entry)

    def contents(self) -> Iterator[Entry]:
        """Every file of every release, with its place on the host as `at`."""
        for name in self.names():
            try:
                files = self.manifest(name)["files"]
            except AgentError:  # damaged: nothing of it can be counted on
                continue
            for entry in files:
                yield {**entry, "at": "%s/%s" % (tree(name), entry["stored"])}


ORIGINALS = "originals"  # beside a release's tree: its texts as they came, for the diff of an edit


def packed(manifest: Manifest) -> List[Entry]:
    """The files whose texts are kept as they came, each content once: no secrets, nothing large."""
    chosen = {e["sha256"]: e for e in manifest["files"] if not e["secret"] and e["size"] <= MAX_TEXT}
    return [chosen[digest] for digest in sorted(chosen)]


def pack(manifest: Manifest, contents: Callable[[Entry], bytes]) -> bytes:
    return zlib.compress(b"".join(contents(entry) for entry in packed(manifest)), 1)


def unpack(manifest: Manifest, data: bytes, wanted: Entry) -> Optional[bytes]:
    """One text of what `pack` made; None if it is not there, or not as the manifest says."""
    before = 0
    for entry in packed(manifest):
        if entry["sha256"] == wanted["sha256"]:
            break
        before += entry["size"]
    else:
        return None
    try:
        text = zlib.decompressobj().decompress(data, before + wanted["size"])[before:]
    except zlib.error:
        return None
    return text if hashlib.sha256(text).hexdigest() == wanted["sha256"] else None


def state(disk: Disk, name: str, entry: Entry) -> str:
    """ "same", "missing" or "edited": a release's file against its manifest."""
    path = "%s/%s" % (tree(name), entry["stored"])
    found = disk.lstat(path)
    if found is None:
        return "missing"
    if not stat.S_ISREG(found.st_mode) or found.st_size != entry["size"]:
        return "edited"
    if stat.S_IMODE(found.st_mode) != entry["mode"] or not owned(disk, found.st_uid, found.st_gid, entry):
        return "edited"
    same = hashlib.sha256(disk.read_or(path)).hexdigest() == entry["sha256"]
    return "same" if same else "edited"


def owned(disk: Disk, owner: int, group: int, entry: Entry) -> bool:
    """Whether the owner is the manifest's; a relocated root records owners without comparing them."""
    from . import disk as names

    if disk.relocated:
        return True
    try:
        return owner == names.uid(entry["owner"]) and group == names.gid(entry["group"])
    except AgentError:
        return False


def links(manifest: Manifest, text: Callable[[str], str]) -> Links:
    """Links for the files that live outside of /etc/ogen, and those that enable units."""
    found: Links = {}
    stored = {}
    for entry in manifest["files"]:
        if entry["link"]:
            found[entry["path"]] = CURRENT + "/root" + entry["path"]
            stored[entry["path"]] = entry["stored"]
    for unit in manifest["units"]:
        path = "%s/%s" % (UNITS, unit["name"])
        if unit["enable"] and path in stored:
            for key, folder in (("WantedBy", "wants"), ("RequiredBy", "requires")):
                for target in install(text(stored[path]), key):
                    found["%s/%s.%s/%s" % (UNITS, target, folder, unit["name"])] = "../" + unit["name"]
    return found


def install(text: str, key: str) -> List[str]:
    """The values of a key in a unit's [Install] section."""
    section, values = "", []
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        elif section == "[Install]" and line.split("=", 1)[0].strip() == key and "=" in line:
            values += line.split("=", 1)[1].split()
    return values
