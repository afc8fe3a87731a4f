"""The search: propose a change, render, keep what comes closer to the edit, until nothing is left of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..errors import Where
from ..release.redaction import suspicious
from . import lines, overriding, settings
from .document import Unfit
from .project import Edit, Project

MAX_STEPS = 20  # changes of the inventory for one file
MAX_TRIALS = 400  # renderings for one file

Tick = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that somebody edited: the texts of its three versions, where they are known."""

    host: str
    path: str
    theirs: str
    base: str | None = None  # None: the inventory's own text was edited
    dropin: str = ""  # the path of a drop-in for the unit `path`; `theirs` is its text

    @property
    def shown(self) -> str:
        return self.dropin or self.path


@dataclass(frozen=True, slots=True)
class Found:
    """How far the project comes. `remaining`: rendered text and edit, where they differ."""

    wanted: Wanted
    project: Project  # with the changes, if `done`
    goal: str = ""  # what is to be rendered
    edits: tuple[Edit, ...] = ()
    templates: tuple[str, ...] = ()  # overridden ones
    why: str = ""  # it can't be done
    remaining: tuple[str, str] | None = None
    offer: str = ""  # a template of which an own copy would do it
    where: Where | None = None  # the inventory line that the file comes from

    @property
    def done(self) -> bool:
        return not self.why


def search(project: Project, wanted: Wanted, *, override: bool = False, tick: Tick = lambda: None) -> Found:
    """The changes from which the project renders the edit; `override` allows templates of its own.

    The result is proven by rendering: the file is the edit byte for byte, but for hashes that ogen
    computes itself, and for the order of lines whose order means nothing.
    """
    file = project.file(wanted.host, wanted.path)
    if file is None:
        return Found(wanted, project, why="the inventory does not render this file any more")
    mine = file.content.decode()
    goal, why = _goal(wanted, mine)
    if goal is None:
        return Found(wanted, project, why=why, where=file.where)
    if any(suspicious(pair.new) for pair in lines.pairs(mine, goal)):
        return Found(wanted, project, why=_SECRET, where=file.where)
    climb = _Climb(project, wanted, goal, mine, tick)
    climb.run()
    found = Found(wanted, climb.project, goal, climb.edits, where=file.where)
    if settled(climb.text, goal):
        return found if lines.equal(climb.text, goal) else replace(found, remaining=(climb.text, goal))
    refused = replace(found, project=project, why=_REST, remaining=(climb.text, goal))
    for name, text in overriding.overrides(climb.project, wanted.path, climb.text, goal):
        changed = climb.project.overridden(name, text)
        rendered = changed.text(wanted.host, wanted.path)
        if rendered is not None and lines.equal(rendered, goal):
            own = replace(found, project=changed, templates=(name,))
            return own if override else replace(refused, offer=name)
    return refused


_REST = "no change of the inventory renders this edit"
_SECRET = "it looks like a secret, and what is in an inventory or a unit is none"  # noqa: S105 — words


def _goal(wanted: Wanted, mine: str) -> tuple[str | None, str]:
    """The text that is to be rendered; else why there is none."""
    if wanted.dropin:
        goal = merged(mine, wanted.theirs)
        return goal, "only `Environment=` lines of a [Service] section can be taken from a drop-in"
    if wanted.base is None or lines.equal(wanted.base, mine):
        return wanted.theirs, ""
    goal = lines.carried(wanted.base, wanted.theirs, mine)
    return goal, "the inventory has changed the same lines; `ogen diff` shows both changes"


class _Climb:
    """Steps of the search: each takes the change that leaves the least to explain."""

    def __init__(self, project: Project, wanted: Wanted, goal: str, mine: str, tick: Tick) -> None:
        self.project = project
        self.wanted = wanted
        self.goal = goal
        self.text = mine
        self.edits: tuple[Edit, ...] = ()
        self.tick = tick
        self.left = MAX_TRIALS
        self.about = settings.scope(project, wanted.host, wanted.path)

    def run(self) -> None:
        while len(self.edits) < MAX_STEPS and not lines.equal(self.text, self.goal):
            best = self._best(lines.distance(self.text, self.goal))
            if best is None:
                return
            self.project, self.text, edit = best
            self.edits = (*self.edits, edit)

    def _best(self, far: int) -> tuple[Project, str, Edit] | None:
        best = None
        for changed, text, edit in self._trials():
            now = lines.distance(text, self.goal)
            if now < far:
                best, far = (changed, text, edit), now
            if now == 0:
                break
        return best

    def _trials(self) -> Iterator[tuple[Project, str, Edit]]:
        pairs = lines.pairs(self.text, self.goal)
        for edit in settings.proposals(self.project, self.about, pairs):
            if self.left <= 0:
                return
            try:
                changed = self.project.edited(edit)
            except Unfit:
                continue
            self.left -= 1
            self.tick()
            text = changed.text(self.wanted.host, self.wanted.path)
            if text is not None:
                yield changed, text, edit


_ORDERLESS = re.compile(r"Environment=(?!OGEN_).*|PARAMETER .*")


def settled(text: str, goal: str) -> bool:
    """Whether nothing is left but the order of lines whose order means nothing."""
    if lines.equal(text, goal):
        return True
    if lines.distance(text, goal):
        return False
    kept = ([one for one in lines.split(each) if not _ORDERLESS.fullmatch(one)] for each in (text, goal))
    first, second = kept
    return first == second


def merged(unit: str, dropin: str) -> str | None:
    """The unit as a drop-in of variables makes it; None for any other drop-in."""
    section = ""
    found = unit.rstrip("\n").split("\n")
    for line in map(str.strip, dropin.split("\n")):
        if line.startswith("["):
            section = line
        elif not line or line.startswith(("#", ";")):
            continue
        elif section == "[Service]" and re.fullmatch(r'Environment="?\w+=.*', line):
            found = _with(found, line)
        else:
            return None
    return "\n".join(found) + "\n"


def _with(unit: list[str], line: str) -> list[str]:
    """The variable's line replaced, or added before those that ogen writes last."""
    name = re.split('[="]+', line)[1]
    same = re.compile(rf'Environment="?{re.escape(name)}=.*')
    places = [n for n, one in enumerate(unit) if same.fullmatch(one)]
    if places:
        return [line if n == places[0] else one for n, one in enumerate(unit)]
    last = next((n for n, one in enumerate(unit) if re.match('Environment="?OGEN_', one)), len(unit))
    return [*unit[:last], line, *unit[last:]]
