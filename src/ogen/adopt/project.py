"""An inventory with changes that are not written yet, and what it renders to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ..errors import OgenError
from ..inventory.loading import files, load
from ..inventory.model import Inventory
from ..plan import plan
from ..plan.model import Plan
from ..release.model import File, Release
from ..render import render
from .document import Document, Key, Unfit, Value


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of the inventory: the value at `key`, or, for None, that there is none."""

    key: Key
    value: Value | None

    def __str__(self) -> str:
        name = ".".join(map(str, self.key))
        return f"{name} removed" if self.value is None else f"{name}: {self.value}"


@dataclass(frozen=True)
class Project:
    """The inventory at `path`; `texts` and `templates` stand for files that would be written."""

    path: Path
    texts: Mapping[Path, str] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Project:
        """Raises SourceError and the like where `load` would."""
        load(path)  # says properly what is wrong with it
        return cls(path, {file: file.read_text(encoding="utf-8") for file in files(path)})

    @cached_property
    def inventory(self) -> Inventory:
        return load(self.path, self.texts)

    @cached_property
    def plan(self) -> Plan:
        return plan(self.inventory)

    def releases(self, host: str | None = None) -> tuple[Release, ...]:
        """Rendered without secrets: placeholders stand for them."""
        return render(self.plan, host=host, templates=self.templates)

    def file(self, host: str, path: str) -> File | None:
        for release in self.releases(host):
            return next((file for file in release.files if file.path == path), None)
        return None

    def text(self, host: str, path: str) -> str | None:
        """A file's text; None where it is not rendered, or the project is wrong with its changes."""
        try:
            found = self.file(host, path)
            return found.content.decode() if found else None
        except (OgenError, UnicodeDecodeError):
            return None

    def edited(self, edit: Edit) -> Project:
        """With one change, in the file that has most of the way to it. Raises Unfit."""
        documents = {file: Document(text) for file, text in self.texts.items()}
        file = max(documents, key=lambda one: documents[one].depth(edit.key))
        old = documents[file]
        new = old.unset(edit.key) if edit.value is None else old.set(edit.key, edit.value)
        if new == old:
            raise Unfit("nothing changes")
        return replace(self, texts={**self.texts, file: new.text})

    def values(self) -> Iterator[tuple[Key, str]]:
        """Every scalar of the inventory with its key."""
        for text in self.texts.values():
            yield from Document(text).scalars()

    def overridden(self, name: str, text: str) -> Project:
        """With a template of its own in place of the shipped one."""
        return replace(self, templates={**self.templates, name: text})
