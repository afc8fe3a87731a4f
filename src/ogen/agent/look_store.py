"""The models' disk: room, which blobs each instance's models need and lack, and where they may be instead."""

from __future__ import annotations

import glob
import json
import os
from typing import Any, Dict, List, Set

from .store import Manifest

Seen = Dict[str, Any]
#: where `ollama pull` puts models for other users than ogen's
STORES = ("/usr/share/ollama/.ollama/models", "/root/.ollama/models", "/home/*/.ollama/models")
MODEL_LAYER = "application/vnd.ollama.image.model"


def store(manifest: Manifest) -> Seen:
    """Empty on a host without instances."""
    folder = str((manifest.get("librarian") or {}).get("models_dir") or "")
    if not folder:
        return {}
    blobs: Dict[str, List[str]] = {}
    lacking: List[List[str]] = []
    for view in manifest["views"]:
        model = "/".join(view["path"].rsplit("/", 2)[1:]).replace("/", ":")
        for digest, is_model in _layers(view["path"]):
            if is_model:
                blobs.setdefault(digest, []).append(model)
            if not os.path.exists("%s/blobs/%s" % (folder, digest)):
                lacking.append([view["path"].split("/instances/")[-1].split("/")[0], model, digest])
    return {
        "folder": folder,
        "disk": disk(folder),
        "blobs": blobs,
        "lacking": lacking,
        "elsewhere": elsewhere(folder, {digest for _, _, digest in lacking}),
        "unmounted": unmounted(folder),
    }


def elsewhere(folder: str, digests: Set[str]) -> Dict[str, List[str]]:
    """Other stores that hold some of these blobs: the folder within, or those of other users."""
    found = {}
    others = [path for pattern in STORES for path in glob.glob(pattern)] if digests else []
    for other in [folder.rstrip("/") + "/models", *others] if digests else []:
        blobs = other + "/blobs"
        if os.path.isdir(blobs) and not (os.path.isdir(folder) and os.path.samefile(other, folder)):
            held = sorted(digests.intersection(os.listdir(blobs)))
            if held:
                found[other] = held
    return found


def unmounted(folder: str, fstab: str = "/etc/fstab", mounts: str = "/proc/mounts") -> str:
    """The mount point of /etc/fstab at or above the folder that nothing is mounted on; empty if none is."""
    there = {words[1] for words in _words(mounts) if len(words) > 1}
    path = folder.rstrip("/") + "/"
    wanted = [
        words[1].rstrip("/")
        for words in _words(fstab)
        if len(words) > 3 and "noauto" not in words[3].split(",") and words[1].strip("/")
    ]
    above = [point for point in wanted if path.startswith(point + "/")]
    return next((point for point in sorted(above, key=len, reverse=True) if point not in there), "")


def _words(path: str) -> List[List[str]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return [line.split() for line in file if line.strip() and not line.startswith("#")]
    except OSError:
        return []


def _layers(path: str) -> Any:
    """(file name of the blob, whether it is the model itself) for each layer of a manifest."""
    try:
        with open(path, "rb") as file:
            manifest = json.load(file)
        layers = [*manifest.get("layers", ()), manifest.get("config") or {}]
        return [
            (str(one["digest"]).replace(":", "-"), one.get("mediaType") == MODEL_LAYER)
            for one in layers
            if one.get("digest")
        ]
    except (OSError, ValueError, AttributeError, TypeError):
        return []


def disk(path: str) -> Seen:
    """Bytes and inodes of the file system of `path`; `there` is False where the folder is missing."""
    there = os.path.isdir(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    found = os.statvfs(path)
    return {
        "there": there,
        "total": found.f_blocks * found.f_frsize,
        "free": found.f_bavail * found.f_frsize,
        "inodes": found.f_files,
        "inodes_free": found.f_favail,
    }
