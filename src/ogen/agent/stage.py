"""Stage: the release's tree is written beside the one in force, whole and on the disk, and then checked."""

from __future__ import annotations

import hashlib
import os
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from . import librarian, store, validate
from .disk import Disk, above
from .errors import AgentError, Changed, Refused
from .ledger import Ledger
from .machine import Machine
from .store import Store
from .supply import Supply

Tell = Callable[[str, str, Optional[float]], None]
Contents = Dict[str, bytes]  # sha256 → content

RESERVE = 16 * 1024 * 1024  # bytes and
INODES = 256  # files that must stay free for the rest of the transaction


class Stage:
    """Writes a release into `releases/.new`, and gives it its name when it is complete."""

    def __init__(
        self,
        disk: Disk,
        tools: Machine,
        manifest: store.Manifest,
        contents: Contents,
        supply: Supply,
    ) -> None:
        self.disk = disk
        self.machine = tools
        self.store = Store(disk)
        self.manifest = manifest
        self.contents = contents
        self.supply = supply
        self.release = store.identify(manifest)
        self.folder = store.RELEASES + "/.new"
        self.folders: Set[str] = set()  # to be synced

    def run(self, tell: Tell) -> Tuple[str, List[str]]:
        """The name of the complete release, and what could not be checked here."""
        self.check_room()
        self.check_program()
        self.disk.remove_tree(self.folder)
        try:
            skipped = self.make(tell)
        except (AgentError, OSError):
            self.disk.remove_tree(self.folder)
            raise
        return self.name(), skipped

    def make(self, tell: Tell) -> List[str]:
        tell("stage", "%d files" % len(self.manifest["files"]), None)
        with self.disk.together():
            self.write()
            skipped = self.models(tell)
        tell("validate", "checking the staged files", None)
        return skipped + validate.validate(self.disk, self.machine, self.manifest, self.folder + "/tree")

    def check_room(self) -> None:
        need = sum(e["size"] + 4096 for e in self.manifest["files"]) + RESERVE
        found = os.statvfs(_existing(self.disk.real(store.HOME)))
        if found.f_bavail * found.f_frsize < need or (found.f_files > 0 and found.f_favail < INODES):
            raise AgentError("no room in %s for a release" % store.HOME, "free some space on its file system")

    def check_program(self) -> None:
        """Where ogen installs Ollama, the version must be there before anything names it."""
        program = store.absent(self.disk, self.manifest)
        if program:
            hint = "run `ogen provision` first: it puts this version beside the others"
            raise Refused("%s is not on this host" % program, hint)

    # ----------------------------------------------------------------------------- writing
    def write(self) -> None:
        self._folder(self.folder + "/tree")
        written: Dict[str, bytes] = {}
        for entry in self.manifest["files"]:
            data = written[entry["sha256"]] = self._content(entry)
            self._file(entry["stored"], data, entry)
        originals = store.pack(self.manifest, lambda entry: written[entry["sha256"]])
        self._create("%s/%s" % (self.folder, store.ORIGINALS), originals, 0o600)
        self._create(self.folder + "/manifest.json", store.canonical(self.manifest), 0o600)

    def _folder(self, path: str) -> None:
        if path not in self.folders:
            self.disk.folder(path, sync=False)
            while path != store.RELEASES:
                self.folders.add(path)
                path = above(path)

    def _file(self, stored: str, data: bytes, entry: Dict[str, Any]) -> None:
        path = "%s/tree/%s" % (self.folder, stored)
        self._folder(above(path))
        self._create(path, data, entry["mode"], entry["owner"], entry["group"])

    def _create(
        self, path: str, data: bytes, mode: int = 0o644, owner: str = "root", group: str = "root"
    ) -> None:
        self.disk.create(path, data, mode, owner, group, sync=False)

    def _content(self, entry: store.Entry) -> bytes:
        data = self.contents.get(entry["sha256"])
        if data is None:
            data = self._on_host(entry["sha256"])
        if len(data) != entry["size"] or hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise AgentError("%s came with another content than its manifest says" % entry["path"])
        return data

    def _on_host(self, wanted: str) -> bytes:
        for entry in self.store.contents():
            if entry["sha256"] == wanted:
                data = self.disk.read_or(entry["at"])
                if hashlib.sha256(data).hexdigest() == wanted:
                    return data
        raise Changed("a file that the host had is gone or edited", "run the command again")

    def _sync(self) -> None:
        """Bottom-up, and once: nothing of it counts before it has its name."""
        for folder in sorted(self.folders, key=len, reverse=True):
            self.disk.sync_folder(folder)

    # ------------------------------------------------------------------------------ models
    def models(self, tell: Tell) -> List[str]:
        """Creates what is missing, then copies the views."""
        skipped = []
        if self.disk.relocated:
            skipped = ["models"] if self.manifest["models"] else []
        elif self.manifest["models"]:
            librarian.provide(
                self.machine,
                self.manifest,
                self._librarian_unit(),
                self.supply,
                lambda text, part: tell("models", text, part),
                Ledger(self.disk, librarian.models_dir(self.manifest)).note,
            )
        self._views()
        return skipped

    def _librarian_unit(self) -> str:
        path = str(self.manifest["librarian"]["unit"])
        entry = next((e for e in self.manifest["files"] if e["path"] == path), None)
        if entry is None:
            raise AgentError("the release names %s as the librarian's unit, but does not hold it" % path)
        return self.disk.read("%s/tree/%s" % (self.folder, entry["stored"])).decode()

    def _views(self) -> None:
        made: Dict[str, str] = {}
        for one in self.manifest["views"]:
            if not one["path"].startswith(store.CURRENT + "/"):
                raise AgentError("%s: a view lies outside of the release" % one["path"])
            stored = one["path"][len(store.CURRENT) + 1 :]
            data = librarian.view(self.manifest, one, self.disk.relocated)
            self._file(stored, data, {"mode": 0o644, "owner": "root", "group": "root"})
            made[stored] = hashlib.sha256(data).hexdigest()
        self._create(self.folder + "/views.json", store.canonical(made), 0o600)

    def name(self) -> str:
        """Gives the release its name: from here on it is a release like any other."""
        self._sync()
        name = self.store.fresh(self.release)
        self.disk.rename(self.folder, "%s/%s" % (store.RELEASES, name))
        return name


def _existing(path: str) -> str:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path
