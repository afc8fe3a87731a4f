"""An edit of what a template itself says → a template of the project's own that says it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from .. import shipped
from .lines import split
from .project import Project

_BY_ENDING = (
    ("/ogen-monitor.service", ("monitor.service.j2", "sandbox-small.j2")),
    ("/ogen-preload@.service", ("preload.service.j2", "sandbox-small.j2")),
    ("/ogen-preload@.timer", ("preload.timer",)),
    ("/librarian/ogen-librarian.service", ("librarian.service.j2",)),
    ("/mirror/ogen-mirror.service", ("mirror.service.j2", "sandbox-small.j2")),
    ("/mirror/nginx.conf", ("mirror.nginx.conf.j2",)),
    ("/ollama.service.d/ogen.conf", ("stock-ollama.conf",)),
    ("/logrotate.d/ogen", ("logrotate.j2",)),
    ("/ogen.target", ("ogen.target.j2",)),
    (".Modelfile", ("Modelfile.j2",)),
    ("/nginx.conf", ("nginx.conf.j2", "nginx-balancer.j2")),
    ("/router.js", ("router.js.j2",)),
    ("/monitor.py", ("monitor.py",)),
    ("/preload.py", ("preload.py",)),
)
_BY_PART = (
    ("/ogen-ollama-", ("ollama.service.j2",)),
    ("/ogen-balancer-", ("balancer.service.j2",)),
    ("/nginx/conf.d/", ("nginx-conf.d.conf.j2", "nginx-balancer.j2")),
)
_DEAD = ("{{", "{%", "{#", "…")  # what a template would take for its own, and hashes


def templates(path: str) -> tuple[str, ...]:
    """The templates that a file is made from; none for what is made without one."""
    for ending, names in _BY_ENDING:
        if path.endswith(ending):
            return names
    return next((names for part, names in _BY_PART if part in path), ())


def overrides(project: Project, path: str, rendered: str, goal: str) -> Iterator[tuple[str, str]]:
    """Names and texts of templates that may render `goal`; each is to be tried."""
    for name in templates(path):
        source = source_of(project, name)
        if source == rendered:  # a script, a fixed unit: no template at all
            yield name, goal
        elif source is not None:
            changed = _carried(source, rendered, goal)
            if changed is not None:
                yield name, changed


def source_of(project: Project, name: str) -> str | None:
    """The template's text: the changed one, the project's own, or the shipped one."""
    if name in project.templates:
        return project.templates[name]
    folder = project.path if project.path.is_dir() else project.path.parent
    for place in (folder / "templates", shipped.folder("templates")):
        if (place / name).is_file():
            return (place / name).read_text(encoding="utf-8")
    return None


def _carried(source: str, rendered: str, goal: str) -> str | None:
    """Every change from `rendered` to `goal` made in the template, where its lines stand as they are."""
    lines = source.split("\n")
    old, new = split(rendered), split(goal)
    codes = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    for word, i1, i2, j1, j2 in codes:
        if word == "equal":
            continue
        before = old[i1 - 1 : i1]
        place = _place(lines, [*before, *old[i1:i2]])
        if place is None or any(mark in line for mark in _DEAD for line in new[j1:j2]):
            return None
        lines[place + len(before) : place + len(before) + i2 - i1] = new[j1:j2]
    return "\n".join(lines)


def _place(lines: list[str], wanted: list[str]) -> int | None:
    """Where the lines stand one after another, if that is one place."""
    size = len(wanted)
    found = [n for n in range(len(lines) - size + 1) if lines[n : n + size] == wanted]
    return found[0] if len(found) == 1 else None
