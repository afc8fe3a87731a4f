"""The archives that a playbook unpacks: what a host's Ollama is made from, and which files are sent to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import UsageError
from ..inventory.model import Host, Inventory
from ..playbook import Step
from .uploads import digest_of


def wanted(inventory: Inventory, host: Host) -> list[dict[str, str]]:
    """Archives of the host's Ollama: name, sha256, and url or file. A file without a digest is read once."""
    version = host.ollama.version
    found = []
    for archive in host.ollama.source:
        path, digest = archive.at(version), archive.digest(version)
        if digest is None:
            digest = digest_of(Path(inventory.folder, path), archive.where)
        name = path.split("?")[0].rstrip("/").rpartition("/")[2]
        url, file = (path, "") if archive.url else ("", str(Path(inventory.folder, path).absolute()))
        found.append({"name": name, "sha256": digest, "url": url, "file": file})
    return found


def sent(inventory: Inventory, host: Host, steps: Sequence[Step]) -> tuple[tuple[Step, ...], dict[str, str]]:
    """The steps with digests and sizes in place of the project's files, and the path of each digest."""
    paths: dict[str, str] = {}

    def one(step: Step) -> Step:
        if step.module != "unarchive" or step.args.get("remote_src"):
            return step
        path = Path(inventory.folder, str(step.args["src"]))
        if not path.resolve().is_relative_to(Path(inventory.folder).resolve()):
            hint = "ogen sends nothing from outside of it; put the file inside"
            message = f"`src` of unarchive: {step.args['src']!r} is outside of the project's folder"
            raise UsageError(message, where=step.where, hint=hint)
        digest = f"sha256:{digest_of(path, step.where)}"
        _as_stated(digest, path, host)
        paths[digest] = str(path)
        return replace(step, args={**step.args, "src": digest, "size": path.stat().st_size})

    return tuple(one(step) for step in steps), paths


def _as_stated(digest: str, path: Path, host: Host) -> None:
    """Tells a file that is not the one whose digest the inventory has, before it goes anywhere."""
    version = host.ollama.version
    for archive in host.ollama.source:
        stated = archive.digest(version)
        if archive.file and stated and path.name == Path(archive.at(version)).name and digest[7:] != stated:
            message = f"{path}: its sha256 is {digest[7:]}, and the inventory says {stated}"
            raise UsageError(message, where=archive.where)
