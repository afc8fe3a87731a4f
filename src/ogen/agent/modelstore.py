"""The store of models: what is in it, and how a blob or a manifest gets into it other than through Ollama.

    blobs/sha256-<hex>                              named by what they hold
    manifests/<registry>/<namespace>/<model>/<tag>  which blobs a model consists of

Changes are made with the rights of the store's owner, so that no link in it leads to what that account may
not write. A blob is received beside its place, and takes its name when it is whole and verified; a manifest
comes after its blobs. What a broken transfer left is where the next one goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from . import disk
from .errors import AgentError

DEFAULT_HOST = "registry.ollama.ai"
PARTIAL = (
    "-ogen-partial"  # what a blob is called until it is whole; Ollama's own end in -partial and -partial-N
)
PART = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

Manifest = Dict[str, Any]  # as the registry serves it
#: the bytes of a blob from a place on
Parts = Callable[[int], Iterator[bytes]]


class Blob(NamedTuple):
    digest: str  # "sha256:…"
    size: int

    @property
    def name(self) -> str:
        return self.digest.replace(":", "-")


# ------------------------------------------------------------------------------------- reading
def manifest_path(reference: str) -> str:
    """The path of a model's manifest below `manifests/`, by Ollama's rules for names."""
    name = reference.split("://", 1)[-1]
    parts = name.split("/")
    last, _, tag = parts[-1].partition(":")
    parts = [*parts[:-1], last]
    if len(parts) < 3:
        parts = [DEFAULT_HOST, *(["library"] if len(parts) == 1 else []), *parts]
    return "/".join([*parts, tag or "latest"])


def blobs_of(text: bytes) -> List[Blob]:
    """What a manifest names; ValueError if it is none."""
    try:
        manifest: Manifest = json.loads(text.decode())
        layers = [*manifest.get("layers", ()), manifest.get("config") or {}]
        found = [Blob(str(one["digest"]), int(one.get("size") or 0)) for one in layers if one.get("digest")]
    except (AttributeError, TypeError, KeyError, ValueError):
        raise ValueError("not a manifest") from None
    for blob in found:
        if not is_digest(blob.digest):
            raise ValueError("not a digest: %.80r" % blob.digest)
    return found


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def is_digest(text: str) -> bool:
    kind, _, rest = text.partition(":")
    return kind == "sha256" and len(rest) == 64 and not set(rest) - set("0123456789abcdef")


def in_store(models_dir: str, reference: str) -> Optional[str]:
    """The manifest's path if the model is there with all of its blobs."""
    path = "%s/manifests/%s" % (models_dir, manifest_path(reference))
    try:
        with open(path, "rb") as file:
            blobs = _named(file.read())
    except (OSError, ValueError):
        return None
    return path if all(has(models_dir, name, size) for name, size in blobs) else None


def _named(text: bytes) -> List[Tuple[str, Optional[int]]]:
    """Names and sizes of blobs; more lenient than `blobs_of`, for what Ollama itself has written."""
    try:
        manifest: Manifest = json.loads(text.decode())
        layers = [*manifest.get("layers", ()), manifest.get("config") or {}]
        return [(d["digest"].replace(":", "-"), d.get("size")) for d in layers if d.get("digest")]
    except (AttributeError, TypeError, KeyError, UnicodeDecodeError):
        raise ValueError("not a manifest") from None


def stored(models_dir: str, references: Iterable[str]) -> Dict[str, Dict[str, Any]]:
    """Digest (Ollama's: sha256 of the manifest file) and bytes of those models that are in the store."""
    found = {}
    for reference in references:
        path = in_store(models_dir, reference)
        if path is None:
            continue
        with open(path, "rb") as file:
            text = file.read()
        size = sum(int(size or 0) for _, size in _named(text))
        found[reference] = {"digest": hashlib.sha256(text).hexdigest(), "size": size}
    return found


def has(models_dir: str, name: str, size: Optional[int] = None) -> bool:
    """Whether a blob is there, with the size that it should have."""
    try:
        found = os.stat("%s/blobs/%s" % (models_dir, name))
    except OSError:
        return False
    return size is None or found.st_size == size


def manifests(models_dir: str) -> Iterator[str]:
    """Paths below `manifests/` of all models in the store."""
    top = models_dir + "/manifests"
    for folder, _, files in os.walk(top):
        inner = os.path.relpath(folder, top)
        if inner.count("/") == 2:
            yield from ("%s/%s" % (inner, file) for file in sorted(files))


# ------------------------------------------------------------------------------------- writing
@contextlib.contextmanager
def acting_as(user: str, group: str) -> Iterator[None]:
    """With the rights of another account; only root has any to give away."""
    if os.geteuid() != 0:
        yield
        return
    owner, own = disk.uid(user), disk.gid(group)
    before, groups = os.getegid(), os.getgroups()
    os.setgroups([own])
    os.setegid(own)
    os.seteuid(owner)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(before)
        os.setgroups(groups)


class Shelf:
    """Puts things into a store, and takes them out."""

    def __init__(self, root: str, user: str, group: str, before: Optional[Callable[[str], None]] = None):
        self.root = root
        self.owner = (user, group)
        self._before = before  # told of each change just before it is made; stops it by raising

    def _step(self, what: str) -> None:
        if self._before:
            self._before(what)

    @contextlib.contextmanager
    def _blobs(self) -> Iterator[int]:
        with acting_as(*self.owner):
            os.makedirs(self.root + "/blobs", 0o755, exist_ok=True)
            folder = os.open(self.root + "/blobs", _FOLDER)
            try:
                yield folder
            finally:
                os.close(folder)

    def keep(self, blob: Blob, parts: Parts) -> None:
        """A blob, verified; what came of it when `parts` raises is kept for the next time."""
        with self._blobs() as folder:
            if has(self.root, blob.name, blob.size):
                return
            partial = blob.name + PARTIAL
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(partial, flags, 0o644, dir_fd=folder), "r+b") as file:
                self._receive(file, blob, parts)
                good = self._verified(file, blob)
            if not good:
                os.unlink(partial, dir_fd=folder)
                raise AgentError(
                    "%s came with another content than its name says" % blob.digest[:19],
                    "whoever sent it has a damaged copy: remove %s there, and apply again" % blob.name,
                )
            self._step("rename " + blob.name)
            os.rename(partial, blob.name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)

    def _receive(self, file: Any, blob: Blob, parts: Parts) -> None:
        at = file.seek(0, os.SEEK_END)
        if at > blob.size:
            at = file.truncate(0)
        file.seek(at)
        for part in parts(at) if at < blob.size else ():
            self._step("write " + blob.name)
            file.write(part)
        file.flush()
        os.fsync(file.fileno())

    @staticmethod
    def _verified(file: Any, blob: Blob) -> bool:
        total, size = hashlib.sha256(), file.seek(0, os.SEEK_END)
        file.seek(0)
        for part in iter(lambda: file.read(PART), b"") if size == blob.size else ():
            total.update(part)
        return size == blob.size and "sha256:" + total.hexdigest() == blob.digest

    def name(self, reference: str, text: bytes) -> None:
        """A model's manifest, when its blobs are there. It is the old one or the new one at any time."""
        path = "%s/manifests/%s" % (self.root, manifest_path(reference))
        aside = self.root + "/manifests/.ogen-new"  # not where Ollama looks for manifests
        with acting_as(*self.owner):
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            with open(aside, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            self._step("manifest " + reference)
            os.rename(aside, path)
            _sync(os.path.dirname(path))

    def forget(self, path: str) -> None:
        """Removes a manifest by its path below `manifests/`, and folders that it leaves empty."""
        top = self.root + "/manifests"
        with acting_as(*self.owner):
            self._step("forget " + path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink("%s/%s" % (top, path))
            folder = os.path.dirname("%s/%s" % (top, path))
            _sync(folder)
            while folder != top and not os.listdir(folder):
                os.rmdir(folder)
                folder = os.path.dirname(folder)

    def drop(self, name: str) -> int:
        """Removes a blob, or what was received of it; the bytes that it had."""
        with self._blobs() as folder:
            try:
                size = os.stat(name, dir_fd=folder, follow_symlinks=False).st_size
            except FileNotFoundError:
                return 0
            self._step("drop " + name)
            os.unlink(name, dir_fd=folder)
            return size


def _sync(folder: str) -> None:
    handle = os.open(folder, _FOLDER)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
