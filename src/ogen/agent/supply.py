"""Where the models of a release come from, as the controller says: their registries, a mirror on the fleet's
own network, or a folder of the control machine. From the last two they go straight into the store, under
the names that they have at their registry; Ollama takes no part in it.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Tuple

from . import frames, modelstore, parts
from .errors import AgentError
from .machine import Machine
from .modelstore import Blob, Shelf
from .session import Session
from .wire import Silence

Tell = Callable[[str, Optional[float]], None]
PAUSES = (1.0, 2.0, 4.0)  # seconds before a mirror is asked again
PATIENCE = 30.0  # seconds without a byte
MAX_MANIFEST = 4 << 20


class Plan(NamedTuple):
    """What the controller says about it."""

    mirror: str = ""  # "http://192.0.2.11:11432"
    host: str = ""  # the mirror's name
    manifests: Tuple[Tuple[str, str], ...] = ()  # source, digest of the manifest that the mirror has of it
    origin: bool = False  # where the mirror can't be had, the registry may be asked
    folder: Tuple[Tuple[str, str], ...] = ()  # source, digest of its manifest: the controller has them

    @classmethod
    def of(cls, message: Dict[str, Any]) -> "Plan":
        said = message.get("supply") or {}
        pairs = {
            key: tuple((str(source), str(digest)) for source, digest in said.get(key) or ())
            for key in ("folder", "manifests")
        }
        mirror, host = str(said.get("mirror") or ""), str(said.get("host") or "")
        return cls(mirror, host, pairs["manifests"], bool(said.get("origin")), pairs["folder"])


class Supply:
    """Brings models to a host, through the session with its controller."""

    def __init__(self, session: Session, plan: Plan, machine: Machine) -> None:
        self.session = session
        self.plan = plan
        self.machine = machine

    def turn(self, need: int) -> None:
        """Waits until this host may load: only so many of the fleet do at once."""
        self.session.wire.send({"reply": "turn", "bytes": need})
        while True:
            try:
                frame = self.session.wire.receive(parts.SILENCE)
            except (Silence, frames.FrameError) as error:
                raise AgentError("waiting for a turn to load models: %s" % error, "apply again") from None
            if frame is None:
                raise AgentError("the controller is gone")
            if frame[0].get("op") == "turn":
                return

    def file(self, digest: str, shelf: Shelf, tell: Tell) -> None:
        """A file of the control machine, into the store."""
        blob = Blob(digest, parts.size(self.session, digest))
        shelf.keep(blob, self._sent(blob, tell))

    def _sent(self, blob: Blob, tell: Tell) -> modelstore.Parts:
        return lambda at: counted(parts.fetch(self.session, blob.digest, at)[1], at, blob.size, tell)

    def bring(self, source: str, shelf: Shelf, tell: Tell) -> bool:
        """A model that is no file; False leaves it to its registry."""
        kept = dict(self.plan.folder)
        if source in kept:
            self._from_folder(source, kept[source], shelf, tell)
            return True
        if not self.plan.mirror:
            return False
        try:
            self._from_mirror(source, shelf, tell)
        except MirrorFailed as error:
            if not self.plan.origin:
                raise
            tell("%s; asking its registry" % error.message, None)
            return False
        return True

    # ---- a folder of the control machine
    def _from_folder(self, source: str, digest: str, shelf: Shelf, tell: Tell) -> None:
        text = b"".join(parts.fetch(self.session, digest)[1])
        if modelstore.digest(text) != digest:
            raise AgentError("the manifest of %s came damaged" % source, "apply again")
        self._blobs(source, text, shelf, tell, self._sent)

    # ---- the mirror
    def _from_mirror(self, source: str, shelf: Shelf, tell: Tell) -> None:
        _, space, model, tag = modelstore.manifest_path(source).split("/")
        base = "%s/v2/%s/%s" % (self.plan.mirror, space, model)
        url = "%s/manifests/%s" % (base, tag)
        mirror = Mirror(self.plan.host, self.machine, tell)
        text = b"".join(mirror.get(url, 0, None))
        wanted = dict(self.plan.manifests).get(source)
        if wanted and modelstore.digest(text) != wanted:  # the way there is plain HTTP; wanted came over SSH
            said = (self.plan.host, source)
            raise AgentError("the mirror %s sent another manifest of %s than it has" % said)

        def content(blob: Blob, told: Tell) -> modelstore.Parts:
            where = "%s/blobs/%s" % (base, blob.digest)
            return lambda at: counted(mirror.get(where, at, blob.size), at, blob.size, told)

        self._blobs(source, text, shelf, tell, content)

    def _blobs(
        self,
        source: str,
        text: bytes,
        shelf: Shelf,
        tell: Tell,
        content: Callable[[Blob, Tell], modelstore.Parts],
    ) -> None:
        """The blobs of a manifest, then the manifest itself."""
        try:
            blobs = modelstore.blobs_of(text)
        except ValueError as error:
            raise AgentError("%s: its manifest can't be read: %s" % (source, error)) from None
        whole, done = sum(blob.size for blob in blobs), 0
        for blob in blobs:
            shelf.keep(blob, content(blob, _share(tell, source, done, blob.size, whole)))
            done += blob.size
        shelf.name(source, text)


def _share(tell: Tell, what: str, before: int, size: int, whole: int) -> Tell:
    """Percent of one blob as percent of the model."""

    def told(text: str, percent: Optional[float]) -> None:
        got = before + size * (percent or 0.0) / 100.0
        tell("%s %s" % (text, what), round(100.0 * got / whole, 1) if whole else None)

    return told


def counted(content: Iterator[bytes], at: int, size: int, tell: Tell) -> Iterator[bytes]:
    for part in content:
        yield part
        at += len(part)
        tell("load", round(100.0 * at / size, 1) if size else None)


class MirrorFailed(AgentError):
    """The mirror does not give what it should."""


class Mirror:
    """HTTP to the mirror: ranges, and patience with a connection that breaks."""

    def __init__(self, name: str, machine: Machine, tell: Tell) -> None:
        self.name = name
        self.machine = machine
        self.tell = tell

    def get(self, url: str, at: int, size: Optional[int]) -> Iterator[bytes]:
        """The content from `at` on; after a break it goes on where that was. `size` None: a small file."""
        import http.client

        tries = 0
        while True:
            try:
                for part in self._once(url, at, size):
                    at, tries = at + len(part), 0
                    yield part
                if size is None or at >= size:
                    return
                raise OSError("the answer ended early")
            except (OSError, http.client.HTTPException) as error:
                if tries >= len(PAUSES):
                    raise self._failed(str(error) or type(error).__name__) from None
                self.tell("the mirror %s: %s; again in %d s" % (self.name, error, PAUSES[tries]), None)
                self.machine.wait(PAUSES[tries])
                tries += 1

    def _once(self, url: str, at: int, size: Optional[int]) -> Iterator[bytes]:
        import http.client

        place, _, path = url.partition("://")[2].partition("/")
        link = http.client.HTTPConnection(place, timeout=PATIENCE)
        try:
            link.request("GET", "/" + path, headers={"Range": "bytes=%d-" % at} if at else {})
            answer = link.getresponse()
            if answer.status != (206 if at else 200):
                raise self._failed("HTTP %d for /%s" % (answer.status, path))
            if size is None:
                yield answer.read(MAX_MANIFEST)
                return
            yield from iter(lambda: answer.read(modelstore.PART), b"")
        finally:
            link.close()

    def _failed(self, why: str) -> MirrorFailed:
        return MirrorFailed(
            "the mirror %s: %s" % (self.name, why),
            "see that %s is up and reached from here, or let hosts ask the registries themselves: "
            "mirror: {fallback: origin}" % self.name,
        )
