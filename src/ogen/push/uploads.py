"""Files of the control machine that are sent to hosts, named by their digest: GGUF files and adapters that
models are made from, and archives that a playbook unpacks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import UsageError, Where
from ..plan.model import HostPlan, Plan
from ..release.model import ModelBuild, Release
from ..render.models import is_file


def resolve(plan: Plan, host: HostPlan, release: Release) -> tuple[Release, dict[str, str]]:
    """The release with digests in place of paths, and the path of each digest.

    A digest of the lock file counts; else the file is read once, which takes a while if it is large.
    """
    paths: dict[str, str] = {}
    digests: dict[str, str] = {}
    for ref, where in _files(host):
        path = Path(plan.inventory.folder, ref).expanduser()
        lock = plan.inventory.lock
        locked = lock.digests.get(ref) if lock else None
        digest = "sha256:" + (locked.removeprefix("sha256:") if locked else digest_of(path, where))
        digests[ref], paths[digest] = digest, str(path)
    if not digests:
        return release, {}
    return replace(release, models=tuple(_named(m, digests) for m in release.models)), paths


def _files(host: HostPlan) -> list[tuple[str, Where | None]]:
    found = []
    for instance in host.instances:
        for placement in instance.placements:
            refs = [placement.source.ref] if is_file(placement.source.ref) else []
            refs += [placement.model.adapter] if placement.model.adapter else []
            found += [(ref, placement.model.where) for ref in refs]
    return found


def digest_of(path: Path, where: Where | None) -> str:
    """sha256 in hexadecimal; each file is read once."""
    try:
        found = path.stat()
        return _hash(path, found.st_mtime_ns, found.st_size)
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or '').lower()}", where=where) from None


@lru_cache(maxsize=256)
def _hash(path: Path, changed: int, size: int) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 22):
            total.update(data)
    return total.hexdigest()


def _named(model: ModelBuild, digests: Mapping[str, str]) -> ModelBuild:
    request: dict[str, Any] = dict(model.request)
    for key in ("files", "adapters"):
        if key in request:
            request[key] = {name: digests.get(ref, ref) for name, ref in request[key].items()}
    return replace(model, source=digests.get(model.source, model.source), request=request)
