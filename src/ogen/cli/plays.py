"""The playbooks of commands: the project's own or the shipped one, and what of it stands around a release."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..playbook import Course, Playbook, course, find, load

if TYPE_CHECKING:
    from ..playbook.course import State
    from ..push.around import Around
    from ..push.pools import Pools
    from .fleet import Fleet

FILES: Mapping[State, str] = {"present": "apply.yaml", "previous": "rollback.yaml", "absent": "retire.yaml"}


def playbook(name: str, folder: str) -> Playbook:
    """The playbook `name` of the project in `folder`, else the one that ships with ogen."""
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


def of(ready: Fleet, state: State, tags: str | None) -> tuple[Course, frozenset[str]]:
    """The course of `apply`, `rollback` or `retire`, and the tags that were asked for."""
    found = course(playbook(FILES[state], ready.inventory.folder), state)
    asked = chosen(found.playbook, tags)
    if asked and not (asked | {"always"}) & found.release.tags:
        hint = "give it `tags: always`"
        raise UsageError(f"--tags {tags} leaves out the release task", where=found.release.where, hint=hint)
    return found, asked


def ruled(ready: Fleet, found: Course, given: Mapping[str, Any]) -> Fleet:
    """With `serial` and `max_fail_percentage` of the play, as far as the command line does not say."""
    play = found.play
    if play.serial is None and play.max_fail_percentage is None:
        return ready
    from ..push.around import ruled

    return replace(ready, options=ruled(ready.options, found, given))


def around(
    ready: Fleet,
    what: tuple[Course, frozenset[str]],
    pools: Pools,
    names: Callable[[str], Mapping[str, Any]],
) -> Around | None:
    """What the play has beside its release task; None where that is nothing."""
    found, tags = what
    if found.plain:
        return None
    from ..push.around import Around

    return Around(ready.inventory, found, ready.options, pools, names, tags)
