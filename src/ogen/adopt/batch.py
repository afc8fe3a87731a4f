"""Several edits of one host, one after another; proven together, with what else they change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..release.change import Change, Diff, HostDiff
from ..release.diff import diff
from . import overriding
from .project import Project
from .search import Found, Tick, Wanted, search, settled


@dataclass(frozen=True, slots=True)
class Batch:
    """What came of the edits. `also`: files that change beside them, on whichever hosts."""

    before: Project
    after: Project
    found: tuple[Found, ...]
    also: Diff

    def written(self) -> dict[Path, tuple[str, str]]:
        """Old and new text of each file of the project that changes."""
        folder = self.before.path if self.before.path.is_dir() else self.before.path.parent
        files = {
            file: (self.before.texts[file], text)
            for file, text in self.after.texts.items()
            if text != self.before.texts[file]
        }
        for name, text in self.after.templates.items():
            own = folder / "templates" / name
            old = overriding.source_of(self.before, name) if own.is_file() else None
            files[own] = (old or "", text)
        return files


def adopt(
    project: Project, wanted: Iterable[Wanted], *, override: bool = False, tick: Tick = lambda: None
) -> Batch:
    """Each edit on top of those before it; one that a later one spoils is refused in the end."""
    now, found = project, []
    for one in wanted:
        result = search(now, one, override=override, tick=tick)
        now = result.project if result.done else now
        found.append(result)
    for number, made in enumerate(found):
        text = now.text(made.wanted.host, made.wanted.path) or ""
        if made.done and not settled(text, made.goal):
            rest = [other.wanted for other in found if other is not made]
            batch = adopt(project, rest, override=override, tick=tick)
            spoilt = replace(made, project=batch.after, why=_SPOILT, remaining=(text, made.goal))
            return replace(batch, found=(*batch.found[:number], spoilt, *batch.found[number:]))
    return Batch(project, now, tuple(found), _also(project, now, found))


_SPOILT = "another of these edits says otherwise"


def _also(before: Project, after: Project, found: Iterable[Found]) -> Diff:
    """What the changed project renders otherwise, without the edits themselves."""
    edits = {(one.wanted.host, one.wanted.path) for one in found if one.done}
    if not edits:
        return Diff(())
    whole = diff(before.releases(), after.releases(), names=("before", "adopted"))

    def other(host: str, change: Change) -> bool:
        return (host, change.path) not in edits

    hosts = (
        HostDiff(host.host, tuple(c for c in host.changes if other(host.host, c)), host.items, host.note)
        for host in whole.hosts
    )
    return replace(whole, hosts=tuple(host for host in hosts if host.changed))
