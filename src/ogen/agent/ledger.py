"""What ogen itself has brought into a host's store of models: only that is ever removed from it.

`sources` are manifests below `manifests/` with their sha256: somebody who pulls the model anew makes it
theirs. `blobs` are those that may go as soon as no manifest names them: of pulls that failed, and of
models whose removal was interrupted.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Dict, Iterable, List, Set

from . import store
from .disk import Disk
from .modelstore import manifest_path

PATH = store.HOME + "/models.json"


class Ledger:
    """The file that holds it."""

    def __init__(self, disk: Disk, models_dir: str) -> None:
        self.disk = disk
        self.models_dir = models_dir
        self.sources: Dict[str, str] = {}
        self.blobs: Set[str] = set()
        try:
            found: Dict[str, Any] = json.loads(disk.read_or(PATH).decode())
            if found["models_dir"] == models_dir:  # of another store nothing is known
                self.sources = {str(path): str(digest) for path, digest in found["sources"].items()}
                self.blobs = {str(name) for name in found["blobs"]}
        except (ValueError, KeyError, TypeError, AttributeError):
            pass  # none, or damaged: then nothing of it is known to be ogen's

    def note(self, sources: Iterable[str], digests: Iterable[str]) -> None:
        """Sources that came just now, and blobs of a pull that failed."""
        for source in sources:
            path = manifest_path(source)
            with open("%s/manifests/%s" % (self.models_dir, path), "rb") as file:
                self.sources[path] = hashlib.sha256(file.read()).hexdigest()
        self.blobs.update(digest.replace(":", "-") for digest in digests)
        self.write()

    def write(self) -> None:
        held: Dict[str, Any] = {"models_dir": self.models_dir, "sources": self.sources}
        held["blobs"] = sorted(self.blobs)
        self.disk.replace(PATH, store.canonical(held) + b"\n", 0o600)

    def made(self, path: str, text: bytes) -> bool:
        """Whether a manifest is one that ogen brought, and that nobody has changed since."""
        return self.sources.get(path) == hashlib.sha256(text).hexdigest()


def own_names(paths: Iterable[str]) -> List[str]:
    """Those of the manifests in a store that bear ogen's immutable names."""
    return [path for path in paths if path.startswith("registry.ollama.ai/ogen/")]
