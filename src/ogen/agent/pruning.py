"""Models that no release needs any more: which they are, and their removal when it is asked for.

Removed are ogen's immutable names that no kept release has, sources that ogen itself brought (ledger.py) and
that no kept release is made from, and the blobs that no other manifest names. First the blobs to go are
written down, then manifests go, then blobs: whoever is killed in between leaves no name without its blobs,
and the next run ends it.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List, NamedTuple, Set

from . import leftover, librarian, mirroring, modelstore, recovery, store, systemd
from .errors import AgentError
from .frames import Message
from .ledger import Ledger, own_names
from .modelstore import Shelf, manifest_path
from .session import Session
from .transaction import Host, Locks


class Unused(NamedTuple):
    """Manifests by their paths in the store, blobs and what was received of some by their file names."""

    manifests: List[str]
    blobs: List[str]
    size: int

    @property
    def names(self) -> List[str]:
        return [_name(path) for path in self.manifests]

    def plain(self) -> Dict[str, Any]:
        return {"models": self.names, "bytes": self.size}


def _name(path: str) -> str:
    """A manifest's path as people write the model's name."""
    registry, space, model, tag = path.split("/")
    short = "%s:%s" % (model, tag)
    if registry != modelstore.DEFAULT_HOST:
        return "%s/%s/%s" % (registry, space, short)
    return short if space == "library" else "%s/%s" % (space, short)


def find(host: Host, keep: Set[str]) -> Unused:
    """What the releases `keep` do not need; AgentError where that can't be told."""
    where = models_dir(host)
    if not where:
        return Unused([], [], 0)
    models, used = _needed(host, keep)
    ledger = Ledger(host.disk, where)
    texts = {path: _read("%s/manifests/%s" % (where, path)) for path in modelstore.manifests(where)}
    brought = [path for path, text in texts.items() if ledger.made(path, text)]
    gone = sorted({*own_names(texts), *brought} - models)
    candidates = set(ledger.blobs)
    for path, text in texts.items():
        names = {blob.name for blob in _blobs(path, text)}
        (candidates if path in gone else used).update(names)
    there = _files(where, candidates - used)
    return Unused(gone, sorted(there), sum(there.values()))


def models_dir(host: Host) -> str:
    """The store of the release in force; empty where there is none, or in a folder that stands for a host."""
    manifest = host.store.manifest(host.store.current)
    return str((manifest.get("librarian") or {}).get("models_dir") or "") if host.live else ""


def _needed(host: Host, keep: Set[str]) -> Any:
    """Manifests of the store, and blobs, that releases name."""
    models: Set[str] = set()
    blobs: Set[str] = set()
    for name in sorted(keep):
        manifest = host.store.manifest(name)
        for model in manifest["models"]:
            models.update(manifest_path(one) for one in (model["name"], model["source"]))
            blobs.update(digest.replace(":", "-") for digest in librarian.digests(model))
        for view in manifest["views"]:
            path = "%s/%s" % (store.tree(name), view["path"][len(store.CURRENT) + 1 :])
            blobs.update(blob.name for blob in _blobs(path, host.disk.read(path)))
    return models, blobs


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _blobs(path: str, text: bytes) -> List[modelstore.Blob]:
    try:
        return modelstore.blobs_of(text)
    except ValueError:
        hint = "remove that file, or mend it"
        raise AgentError("no model is removed: what %s names can't be told" % path, hint) from None


def _files(where: str, names: Set[str]) -> Dict[str, int]:
    """Files of these blobs with their sizes, and what was half received of them, or by ogen of any."""
    found = {}
    for file in os.listdir(where + "/blobs"):
        blob = file.partition("-partial")[0].partition(modelstore.PARTIAL)[0]
        if blob in names or file.endswith(modelstore.PARTIAL):
            found[file] = os.lstat("%s/blobs/%s" % (where, file)).st_size
    return found


def listed(host: Host) -> Dict[str, Any]:
    """For people, at the end of an apply; what can't be told is no reason to fail.

    The end of the commit removes releases at the same time: who is to go is asked before who is there.
    """
    try:
        going = leftover.needless(host)
        return find(host, set(host.store.names()) - set(going)).plain()
    except (AgentError, OSError):
        return {"models": [], "bytes": 0}


def unused(session: Session, message: Message, data: bytes) -> None:
    """What `prune` would remove now."""
    session.reply(**listed(session.host))


# ------------------------------------------------------------------------------------- removal
def prune(session: Session, message: Message, data: bytes) -> None:
    """Removes what no release on this host needs."""
    host = session.host
    held = Locks(host)
    held.take({"who": str(message.get("who", "")), "what": "prune"}, patience=2.0)
    try:
        recovery.recover(host, session.wire.tell)
        leftover.collect(host)
        _nobody_works(host)
        gone = find(host, set(host.store.names()))
        if models_dir(host):
            remove(host, gone, librarian.shelf(host.store.manifest(host.store.current)))
    finally:
        held.drop()
    session.reply(**gone.plain())


def _nobody_works(host: Host) -> None:
    units = [librarian.UNIT + ".service", mirroring.UNIT + ".service"]
    busy = [name for name, state in systemd.states(host.machine, units).items() if state.up]
    if busy:
        raise AgentError("no model is removed: %s is at work" % ", ".join(busy), "try again when it is done")


def remove(host: Host, gone: Unused, shelf: Shelf) -> None:
    """Under both locks."""
    if not gone.manifests and not gone.blobs:
        return
    ledger = Ledger(host.disk, shelf.root)
    ledger.blobs.update(gone.blobs)
    ledger.write()
    for path in gone.manifests:
        shelf.forget(path)
    for name in gone.blobs:
        shelf.drop(name)
    ledger.blobs.clear()
    for path in gone.manifests:
        ledger.sources.pop(path, None)
    ledger.write()
