"""This host as the fleet's mirror: it loads models that others lack, and gives them out by a static nginx.

nginx serves what lies under FOLDER/tree and nothing else: the manifests that the controller named, and links
to their blobs. It runs for as long as the session does. No lock of the host is held meanwhile, so that this
host's own apply, and its librarian, are not kept waiting; LOCK keeps another rollout's mirror out.
"""

from __future__ import annotations

from typing import Any, Dict

from . import librarian, modelstore, recovery, store, transient
from .disk import Disk
from .errors import AgentError, Refused
from .frames import Message
from .ledger import Ledger
from .locks import Lock
from .session import Session
from .transaction import Host, Locks

UNIT = "ogen-mirror"
FOLDER = "/run/ogen/mirror"
LOCK = "/run/ogen/mirror.lock"
CONF = FOLDER + "/nginx.conf"
START = 10.0  # seconds until nginx answers


def mirror(session: Session, message: Message, data: bytes) -> None:
    """Gets `sources` (name → bytes), then serves them until the session ends."""
    host, note = session.host, {"who": str(message.get("who", "")), "what": "mirror"}
    host.disk.folder("/run/ogen", sync=False)
    alone, held = Lock(host.disk, LOCK), Locks(host)
    alone.take(note, patience=2.0)
    session.mirror = alone  # the kernel frees it with this process
    host.disk.folder(store.RELEASES)
    held.take(note, patience=2.0)
    try:
        recovery.recover(host, session.wire.tell)
        manifest = {"models": [], "librarian": message["librarian"]}
        _load(session, manifest, message)
        texts = _lay_out(host.disk, str(message["librarian"]["models_dir"]), message["sources"])
        host.disk.create(CONF, str(message["conf"]).encode(), sync=False)
        transient.start(host.machine, UNIT, "the mirror", str(message["service"]))
        _await(host, int(message["port"]), next(iter(message["sources"])))
    finally:
        held.drop()
    session.reply(manifests=[[source, modelstore.digest(text)] for source, text in sorted(texts.items())])


def _load(session: Session, manifest: store.Manifest, message: Message) -> None:
    host, where = session.host, librarian.models_dir(manifest)
    program = store.absent(host.disk, manifest)
    if program:
        hint = "run `ogen provision` first: it puts this version beside the others"
        raise Refused("%s is not on this host" % program, hint)
    lacking = _lacking(where, message["sources"])
    if not lacking:
        return
    why = librarian.short(librarian.room_for(where, lacking))
    if why:
        raise Refused(why, librarian.NO_ROOM)
    work = librarian.Librarian(
        host.machine,
        manifest,
        str(message["unit"]),
        lambda text, part: session.wire.tell("models", text, part),
        Ledger(host.disk, where).note,
    )
    with work:
        for source in lacking:
            work.get(source)


def _lacking(where: str, sources: Dict[str, Any]) -> Dict[str, int]:
    return {s: int(size or 0) for s, size in sources.items() if modelstore.in_store(where, s) is None}


def mirror_room(session: Session, message: Message, data: bytes) -> None:
    """What the mirror would load of `sources`, and the room for it."""
    where = str(message["models_dir"])
    session.reply(room=librarian.room_for(where, _lacking(where, message["sources"])))


def _lay_out(disk: Disk, where: str, sources: Dict[str, Any]) -> Dict[str, bytes]:
    """The manifests by their sources. /run is in memory: nothing is synced."""
    texts = {}
    disk.remove_tree(FOLDER)
    disk.folder(FOLDER, sync=False)
    for source in sources:
        path = modelstore.in_store(where, source)
        if path is None:
            raise AgentError("%s was loaded, but is not in %s" % (source, where))
        with open(path, "rb") as file:
            text = texts[source] = file.read()
        _, space, model, tag = modelstore.manifest_path(source).split("/")
        top = "%s/tree/v2/%s/%s" % (FOLDER, space, model)
        for folder in ("manifests", "blobs"):
            disk.folder("%s/%s" % (top, folder), sync=False)
        with disk.together():
            disk.create("%s/manifests/%s" % (top, tag), text, sync=False)
        for blob in modelstore.blobs_of(text):
            disk.symlink("%s/blobs/%s" % (where, blob.name), "%s/blobs/%s" % (top, blob.digest), sync=False)
    return texts


def _await(host: Host, port: int, source: str) -> None:
    _, space, model, tag = modelstore.manifest_path(source).split("/")
    path = "/v2/%s/%s/manifests/%s" % (space, model, tag)
    end = host.machine.now() + START
    while True:
        answer = host.machine.ask(port, "GET", path, timeout=2.0)
        if answer.status == 200:
            return
        if host.machine.now() > end:
            said, why = transient.log(host.machine, UNIT), answer.text[:200]
            raise AgentError("the mirror does not answer on port %d: %s" % (port, why), log=said)
        host.machine.wait(0.1)


def unmirror(session: Session, message: Message, data: bytes) -> None:
    """Ends it; a session that is lost instead ends it within a second or two."""
    transient.stop(session.host.machine, UNIT)
    session.host.disk.remove_tree(FOLDER)
    if session.mirror is not None:
        session.mirror.drop()
    session.reply()
