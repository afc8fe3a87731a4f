"""Models before the flip: the librarian pulls and creates them under immutable names, views are copied.

The librarian is an Ollama of its own without a card. It runs only for this, as a transient unit made
from the [Service] lines of the release's unit file, since the release is not in force yet.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, List, Set

from . import machine as tools
from . import store, transient
from .errors import AgentError, Refused
from .machine import Machine
from .modelstore import Shelf, has, in_store
from .pulling import Stream, Tell, pull
from .supply import Supply

UNIT = "ogen-librarian-stage"
MARGIN = 1 << 30  # bytes that stay free on the models' disk
GIB = float(1 << 30)

#: told of sources that ogen itself brought into the store, and of blobs of pulls that failed
Note = Callable[[Iterable[str], Iterable[str]], None]


def missing(manifest: store.Manifest) -> List[Dict[str, Any]]:
    """The models of a release that are not in the librarian's store yet."""
    if not manifest["models"]:
        return []
    where = models_dir(manifest)
    return [m for m in manifest["models"] if in_store(where, m["name"]) is None]


def models_dir(manifest: store.Manifest) -> str:
    return str(manifest["librarian"]["models_dir"])


def shelf(manifest: store.Manifest) -> Shelf:
    librarian = manifest["librarian"]
    return Shelf(models_dir(manifest), str(librarian["user"]), str(librarian["group"]))


def is_file(source: str) -> bool:
    """Whether a source is a file of the control machine, named by its digest."""
    return source.startswith("sha256:")


def lacking(where: str, wanted: List[Dict[str, Any]]) -> Dict[str, int]:
    """Sources of models that are not in the store, with the bytes that they are known to have."""
    found: Dict[str, int] = {}
    for model in wanted:
        source = str(model["source"])
        there = has(where, source.replace(":", "-")) if is_file(source) else in_store(where, source)
        if not there:
            found[source] = max(found.get(source, 0), int(model.get("size") or 0))
    return found


# ------------------------------------------------------------------------------------- room
def room(manifest: store.Manifest) -> Dict[str, Any]:
    """What the models of a release will take on the disk, and what is free; empty where none is to come."""
    wanted = missing(manifest)
    if not wanted:
        return {}
    where = models_dir(manifest)
    return room_for(where, lacking(where, wanted))


def room_for(where: str, coming: Dict[str, int]) -> Dict[str, Any]:
    """What sources that are to come, with their bytes, will take."""
    need, free = sum(coming.values()), tools.free_bytes(where)
    return {"folder": where, "need": need, "free": free, "sources": sorted(coming)}


def short(seen: Dict[str, Any]) -> str:
    """Why it is not enough; empty where it is. Some room stays free for everything else."""
    if not seen or not seen["need"] or seen["need"] + MARGIN <= seen["free"]:
        return ""
    figures = (seen["need"] / GIB, seen["folder"], seen["free"] / GIB, MARGIN / GIB)
    return "its models need %.1f GiB in %s, %.1f GiB are free, and %.0f GiB must stay so" % figures


NO_ROOM = "free space there (`ogen apply --prune-models` removes models that no release uses), "
NO_ROOM += "or set ollama.models_dir to a larger disk"


def _check_room(manifest: store.Manifest) -> int:
    seen = room(manifest)
    why = short(seen)
    if why:
        raise Refused(why, NO_ROOM)
    return int(seen.get("need", 0))


# ---------------------------------------------------------------------------- the work at stage
def provide(
    machine: Machine, manifest: store.Manifest, unit_text: str, supply: Supply, tell: Tell, note: Note
) -> List[str]:
    """Makes all models of the release; returns the names of those that it created."""
    wanted = missing(manifest)
    if not wanted:
        return []
    where, shelved = models_dir(manifest), shelf(manifest)
    need = _check_room(manifest)
    if lacking(where, wanted):
        supply.turn(need)
    for digest in sorted({digest for model in wanted for digest in digests(model)}):
        if not has(where, digest.replace(":", "-")):
            supply.file(digest, shelved, tell)
    work = Librarian(machine, manifest, unit_text, tell, note)
    for source in (s for s in lacking(where, wanted) if not is_file(s)):
        if supply.bring(source, shelved, tell):
            note([source], set())
    with work:
        for number, model in enumerate(wanted, 1):
            work.tell = _prefixed(tell, "model %d of %d, " % (number, len(wanted)))
            work.make(model)
    return [m["name"] for m in wanted]


class Librarian:
    """The server while it runs."""

    def __init__(
        self, machine: Machine, manifest: store.Manifest, unit_text: str, tell: Tell, note: Note
    ) -> None:
        self.machine = machine
        self.where = models_dir(manifest)
        self.port = int(manifest["librarian"]["port"])
        self.unit_text = unit_text
        self.tell = tell
        self.note = note

    def __enter__(self) -> "Librarian":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def start(self) -> None:
        transient.start(self.machine, UNIT, "the librarian", self.unit_text)
        _await(self.machine, self.port)

    def stop(self) -> None:
        transient.stop(self.machine, UNIT)

    def revive(self) -> None:
        if self.machine.ask(self.port, "GET", "/api/version", timeout=2.0).status != 200:
            self.start()

    def get(self, source: str) -> None:
        """A model from its registry."""
        seen: Set[str] = set()
        try:
            pull(self.machine, self.port, source, self.tell, self.revive, seen)
        except AgentError:
            self.note([], seen)
            raise
        self.note([source], set())

    def make(self, model: Dict[str, Any]) -> None:
        source = str(model["source"])
        if not is_file(source) and in_store(self.where, source) is None:
            self.get(source)
        request = {**model["request"], "model": model["name"], "stream": True}
        created = Stream(self.tell, "create %s" % model["name"])
        created.read(self.machine.stream(self.port, "/api/create", request))
        if in_store(self.where, model["name"]) is None:
            raise AgentError("%s was created, but is not in %s" % (model["name"], self.where))


def _prefixed(tell: Tell, prefix: str) -> Tell:
    return lambda text, part: tell(prefix + text, part)


def digests(model: Dict[str, Any]) -> List[str]:
    """The files of the control machine that a model is made from."""
    parts = [*model["request"].get("files", {}).values(), *model["request"].get("adapters", {}).values()]
    return [part for part in parts if str(part).startswith("sha256:")]


def _await(machine: Machine, port: int, seconds: float = 30.0) -> None:
    end = machine.now() + seconds
    while machine.ask(port, "GET", "/api/version", timeout=2.0).status != 200:
        if machine.now() > end:
            said = transient.log(machine, UNIT)
            raise AgentError("the librarian does not answer on port %d" % port, log=said)
        machine.wait(0.1)


# ------------------------------------------------------------------------------------- views
def view(manifest: store.Manifest, one: Dict[str, Any], relocated: bool) -> bytes:
    """The manifest file of a view; in a relocated root a description in its place."""
    if relocated:
        build: Dict[str, Any] = next((m for m in manifest["models"] if m["name"] == one["model"]), {})
        return store.canonical({"model": one["model"], "build": build}) + b"\n"
    path = in_store(models_dir(manifest), one["model"])
    if path is None:
        raise AgentError("model %s is not in %s" % (one["model"], models_dir(manifest)))
    with open(path, "rb") as file:
        return file.read()
