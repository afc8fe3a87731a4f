"""Models from one place: a host that gives them to the others, or a folder of the control machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..agent.modelstore import blobs_of, manifest_path
from ..errors import HostError, RemoteError
from ..inventory.model import Host
from ..release.model import Release
from ..render.models import is_file
from .contact import contact
from .results import Event, OnEvent, Options
from .supplies import Origins

if TYPE_CHECKING:
    from ..plan.model import Plan

Sources = Mapping[str, int]  # a model's name at its registry → bytes, as far as they are known


@dataclass(frozen=True, slots=True)
class Mirror:
    """The host that loads models once for all, and whether the others may do without it."""

    plan: Plan
    host: Host
    port: int
    origin: bool

    @contextmanager
    def serving(self, sources: Sources, options: Options, on_event: OnEvent) -> Iterator[dict[str, Any]]:
        """Gets the sources there, and has them served; what the other hosts' agents must know."""
        release = self._release()
        texts = {file.path: file.content.decode() for file in release.files}
        from ..render.mirror import CONF, SERVICE

        message = {
            "op": "mirror",
            "who": options.who,
            "sources": dict(sources),
            "librarian": dict(release.librarian),
            "unit": texts[str(release.librarian["unit"])],
            "service": texts[SERVICE],
            "conf": texts[CONF],
            "port": self.port,
        }
        with contact(self.host, options, on_event) as opened:
            manifests = opened.ask(message)[0]["manifests"]
            on_event(Event(self.host.name, "models", f"gives {_count(len(sources))} to the others"))
            try:
                yield {**self.supply(), "manifests": manifests}
            finally:
                with suppress(HostError):
                    opened.ask({"op": "unmirror"})

    def supply(self) -> dict[str, Any]:
        address = self.host.reached_at
        shown = f"[{address}]" if ":" in address else address
        return {"mirror": f"http://{shown}:{self.port}", "host": self.host.name, "origin": self.origin}

    def _release(self) -> Release:
        from ..render import render_host

        return render_host(self.plan, self.plan.host(self.host.name))

    def missed(self, host: str, why: str) -> RemoteError:
        """For a host that can't have its models because of the mirror."""
        hint = "mend that host, or let hosts ask the registries themselves: mirror: {fallback: origin}"
        return RemoteError(f"its models come from the mirror: {why}", host=host, hint=hint)


def _count(number: int) -> str:
    return "1 model" if number == 1 else f"{number} models"


def mirror_of(plan: Plan) -> Mirror | None:
    """The mirror of the inventory, where it is a host."""
    said = plan.inventory.mirror
    if said is None or said.host is None:
        return None
    return Mirror(plan, plan.inventory.host(said.host), said.port, said.fallback == "origin")


def origins_of(plan: Plan) -> Origins:
    """What takes the place of the registries."""
    return Origins(mirror_of(plan), shelf_of(plan))


# ------------------------------------------------------------------------------------- a folder
@dataclass(frozen=True, slots=True)
class Shelf:
    """A folder in the layout of Ollama's store."""

    folder: Path
    shown: str  # as the inventory has it
    origin: bool

    def supply(self, release: Release) -> tuple[dict[str, Any], dict[str, str]]:
        """For a host's agent: the manifests by their digests; and the files of all digests."""
        held: list[tuple[str, str]] = []
        files: dict[str, str] = {}
        for source in sorted({m.source for m in release.models if not is_file(m.source)}):
            if not source.startswith("sha256:") and not self.missing(source):
                path = self.folder / "manifests" / manifest_path(source)
                text = path.read_bytes()
                digest = f"sha256:{sha256(text).hexdigest()}"
                held.append((source, digest))
                files[digest] = str(path)
                files |= {blob.digest: str(self.folder / "blobs" / blob.name) for blob in blobs_of(text)}
        return {"folder": held, "host": self.shown, "origin": self.origin}, files

    def missing(self, source: str) -> str:
        """What of a model is not there; empty if all is."""
        path = self.folder / "manifests" / manifest_path(source)
        try:
            blobs = blobs_of(path.read_bytes())
        except OSError as error:
            return f"{self._short(path)}: {(error.strerror or '').lower()}"
        except (ValueError, json.JSONDecodeError):
            return f"{self._short(path)} is no manifest"
        for blob in blobs:
            place = self.folder / "blobs" / blob.name
            if not place.is_file() or place.stat().st_size != blob.size:
                return f"{self._short(place)} is not there, or not whole"
        return ""

    def _short(self, path: Path) -> str:
        return f"{self.shown.rstrip('/')}/{path.relative_to(self.folder)}"

    def lacks(self, host: str, sources: Sources) -> RemoteError | None:
        """Why a host can't have what it needs."""
        for source in sorted(sources):
            why = self.missing(source)
            if why and not self.origin:
                hint = f"on a machine with internet, OLLAMA_MODELS=…/{self.shown}: `ollama pull {source}`"
                return RemoteError(f"{source} is not in mirror.folder: {why}", host=host, hint=hint)
        return None


def shelf_of(plan: Plan) -> Shelf | None:
    """The folder of the inventory, where models come from one."""
    said = plan.inventory.mirror
    if said is None or said.folder is None:
        return None
    return Shelf(Path(plan.inventory.folder, said.folder), said.folder, said.fallback == "origin")
