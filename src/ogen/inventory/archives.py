"""Where a host's Ollama comes from: what must be said of an archive, and what can't be said together."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import Where
from .faults import Faults
from .model import Archive, Host


def check(host: Host, folder: str, faults: Faults) -> None:
    """Tells what is wrong with `ollama.source`; the same for many hosts counts once."""
    ollama = host.ollama
    if ollama.source and ollama.binary:
        message = f"hosts.{host.name}.ollama: 'binary' names a program, and 'source' installs another one"
        hint = "leave one of them out; `source: []` takes a group's away from a host"
        faults.add(message, ollama.source[0].where, hint, kind="source and binary")
    for archive in ollama.source:
        _archive(archive, ollama.version, folder, faults)


def _archive(archive: Archive, version: str, folder: str, faults: Faults) -> None:
    subject = "ollama.source"
    if (archive.url is None) == (archive.file is None):
        both = "has 'url' and 'file'" if archive.url else "has neither 'url' nor 'file'"
        hint = "url: an address that hosts fetch; file: a file of the project that is sent to them"
        faults.add(f"{subject} {both}", archive.where, hint)
    elif archive.url and not archive.digest(version):
        message = f"{subject}: there is no sha256 for Ollama {version}"
        faults.add(
            message, archive.where, f"write sha256: {{{version}: …}}; `sha256sum` tells it of the file"
        )
    if re.search(r"[{}]", archive.at(version)):
        message = f"{subject}: only {{version}} may stand between braces: {archive.at(version)}"
        faults.add(message, archive.where, "hosts of another kind have a `source` of their own")
    if archive.file is not None:
        outside(archive.at(version), f"{subject}.file", archive.where, folder, faults)


def outside(path: str, subject: str, where: Where | None, folder: str, faults: Faults) -> None:
    """Tells a path that leads out of the project's folder, also through links. Reads no file."""
    top = Path(folder).resolve()
    if path.startswith("~") or not (top / path).resolve().is_relative_to(top):
        hint = "ogen reads nothing outside of it; put the file inside"
        faults.add(f"{subject}: {path!r} is outside of the project's folder", where, hint)
