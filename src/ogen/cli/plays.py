"""The playbooks of commands: the project's own or the shipped one, and what of it stands around a release."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import shipped
from ..errors import UsageError

if TYPE_CHECKING:
    from ..playbook import Course, Playbook
    from ..playbook.course import State
    from ..push.around import Around
    from ..push.pools import Pools
    from .fleet import Fleet

FILES: Mapping[State, str] = {"present": "apply.yaml", "previous": "rollback.yaml", "absent": "retire.yaml"}
#: sha256 of the shipped plays that hold nothing but what the engine does anyway: as long as they are these,
#: nobody has to load them, which takes longer than an apply that has nothing to do (a test holds them to it)
PLAIN = {
    "apply.yaml": "32a485d67df8fb6c21118733a25d47979bad24dcebbcf45f4203a04eed08d0db",
    "rollback.yaml": "1c9c64e4362dee6e404eaab5f115ee19d22a28e6fcaea6b3db73778fe0a01f2e",
}
What = tuple["Course", frozenset[str]]


def playbook(name: str, folder: str) -> Playbook:
    """The playbook `name` of the project in `folder`, else the one that ships with ogen."""
    from ..playbook import find, load

    found = find(name, Path(folder))
    own = found.is_relative_to(folder)
    return load(found, str(Path("playbooks", name)) if own else None)


def chosen(loaded: Playbook, wanted: str | None) -> frozenset[str]:
    """Those of --tags; one that no task has is an error, for it would do nothing and say "done"."""
    if wanted is None:
        return frozenset()
    tags = frozenset(tag.strip() for tag in wanted.split(",")) - {""}
    known = {tag for play in loaded.plays for task in play.tasks for tag in task.tags}
    unknown = sorted(tags - known)
    if unknown or not tags:
        hint = f"there are {', '.join(sorted(known - {'always'})) or 'none'}"
        raise UsageError(f"no task has the tag {', '.join(unknown) or wanted!r}", hint=hint)
    return tags


def of(ready: Fleet, state: State, tags: str | None) -> What | None:
    """The course of `apply`, `rollback` or `retire`, and the tags that were asked for; None where there is
    nothing to do but what the engine does anyway."""
    if tags is None and _plain(FILES[state], ready.inventory.folder):
        return None
    from ..playbook import course

    found = course(playbook(FILES[state], ready.inventory.folder), state)
    asked = chosen(found.playbook, tags)
    if asked and not (asked | {"always"}) & found.release.tags:
        hint = "give it `tags: always`"
        raise UsageError(f"--tags {tags} leaves out the release task", where=found.release.where, hint=hint)
    return found, asked


def _plain(name: str, folder: str) -> bool:
    """Whether it is the shipped play, as it was shipped."""
    if name not in PLAIN or Path(folder, "playbooks", name).exists():
        return False
    return hashlib.sha256((shipped.folder("playbooks") / name).read_bytes()).hexdigest() == PLAIN[name]


def ruled(ready: Fleet, what: What | None, given: Mapping[str, Any]) -> Fleet:
    """With `serial` and `max_fail_percentage` of the play, as far as the command line does not say. The
    shipped play has the inventory's."""
    if what is None:
        return ready
    from ..push.around import ruled

    return replace(ready, options=ruled(ready.options, what[0], given))


def around(
    ready: Fleet,
    what: What | None,
    pools: Pools,
    names: Callable[[str], Mapping[str, Any]],
) -> Around | None:
    """What the play has beside its release task; None where that is nothing."""
    if what is None or what[0].plain:
        return None
    found, tags = what
    from ..push.around import Around

    return Around(ready.inventory, found, ready.options, pools, names, tags)
