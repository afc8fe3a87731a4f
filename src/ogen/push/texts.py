"""Templates of a project's plays: found as Ansible finds them, and never outside of the project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import PlaybookError
from ..source import Node

MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Texts:
    """Reads `playbooks/templates/SRC`, else `playbooks/SRC`, below the project's folder."""

    folder: str

    def __call__(self, src: str, node: Node) -> str:
        top = Path(self.folder).resolve()
        places = [top / "playbooks" / "templates" / src, top / "playbooks" / src]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            hint = f"put it at playbooks/templates/{src}"
            raise PlaybookError(f"there is no template {src}", where=node.where, hint=hint)
        if not found.resolve().is_relative_to(top):
            raise PlaybookError(f"the template {src} lies outside of the project", where=node.where)
        if found.stat().st_size > MAX_BYTES:
            raise PlaybookError(f"the template {src} is larger than 1 MiB", where=node.where)
        try:
            return found.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PlaybookError(f"the template {src} can't be read: {error}", where=node.where) from None
