"""The models' disk: room, and which blobs each instance's models need and lack."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List

from .store import Manifest

Seen = Dict[str, Any]
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
    return {"folder": folder, "disk": disk(folder), "blobs": blobs, "lacking": lacking}


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
