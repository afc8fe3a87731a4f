"""The play of `apply`, `rollback` or `retire`: one release task, which ogen's own engine does, and what
stands before and after it. What that engine can't do in a play's order is an error with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..errors import PlaybookError, Problems, Where
from ..source import Node
from .model import Play, Playbook, Task
from .modules import FLEET, MODELS, RELEASE

State = Literal["present", "previous", "absent"]
COMMAND = {"present": "ogen apply", "previous": "ogen rollback", "absent": "ogen retire"}
_SRC = re.compile(r"\{\{-?\s*ogen_release\s*-?\}\}")
_ID = re.compile(r"\{\{-?\s*ogen_to\b[^{}]*\}\}")


@dataclass(frozen=True, slots=True)
class Course:
    """A play that was found to be one that the engine can run; `release` is its release task."""

    playbook: Playbook
    release: Task

    @property
    def play(self) -> Play:
        return self.playbook.plays[0]

    @property
    def plain(self) -> bool:
        """Whether there is nothing to do but what the engine does anyway."""
        return not self.release.notify and all(t.module in (RELEASE, MODELS) for t in self.play.tasks)


def course(playbook: Playbook, state: State) -> Course:
    """Raises PlaybookError, or Problems with all of them at once."""
    errors = list(_errors(playbook, state))
    if errors:
        raise errors[0] if len(errors) == 1 else Problems(errors)
    release = next(task for task in playbook.plays[0].tasks if task.module == RELEASE)
    return Course(playbook, release)


def without_release(playbook: Playbook) -> None:
    """Raises PlaybookError where a play of `ogen provision` has a task of the other commands."""
    for task in (task for play in playbook.plays for task in (*play.tasks, *play.handlers)):
        if task.module in FLEET:
            hint = "put it into playbooks/apply.yaml"
            raise PlaybookError(f"{task.module} is no task for `ogen provision`", where=task.where, hint=hint)


def _errors(playbook: Playbook, state: State) -> Iterator[PlaybookError]:
    play, *more = playbook.plays
    name = COMMAND[state]
    if more:
        yield _error(
            f"`{name}` runs one play", more[0].where, "use `when: ogen_balancer` and the like in one play"
        )
    if play.hosts != "all":
        hint = "choose hosts with --limit; a task of its own may have a `when`"
        yield _error(f"the play of `{name}` is for `hosts: all`", play.where, hint)
    if play.serial is not None and state != "present":
        yield _error(f"`serial` is for `ogen apply`: `{name}` takes its hosts at once", play.serial.where)
    releases = [task for task in play.tasks if task.module == RELEASE]
    if not releases:
        hint = f'ogen.fleet.release: {{src: "{{{{ ogen_release }}}}", state: {state}}}'
        yield _error(f"the play of `{name}` has no release task", play.where, hint)
    for task in releases[1:]:
        yield _error("there is a release task already: a host has one transaction", task.where)
    for task in releases:
        yield from _release(task, state)
    for number, task in enumerate(play.tasks):
        if task.module == MODELS:
            following = play.tasks[number + 1 : number + 2]
            yield from _models(task, following[0] if following else None, state)
    for task in play.handlers:
        if task.module in FLEET:
            yield _error(f"{task.module} can't be a handler", task.where)


def _release(task: Task, state: State) -> Iterator[PlaybookError]:
    yield from _unconditional(task)
    wanted = task.args.get("state")
    said = wanted.value if wanted else "present"
    if said != state:
        where = wanted.where if wanted else task.where
        yield _error(f"`{COMMAND[state]}` wants `state: {state}`, not {said!r}", where)
    if state == "present" and "src" not in task.args:
        yield _error(f"{RELEASE} needs `src`", task.where, 'src: "{{ ogen_release }}"')
    yield from _src(task)
    named = task.args.get("id")
    if named is not None and not (state == "previous" and _matches(_ID, named)):
        hint = "id: \"{{ ogen_to | default('') }}\" in rollback.yaml, and nowhere else"
        yield _error("which release it goes back to is `--to`'s to say", named.where, hint)


def _models(task: Task, following: Task | None, state: State) -> Iterator[PlaybookError]:
    yield from _unconditional(task)
    yield from _src(task)
    if task.notify:
        yield _error(f"{MODELS} notifies nobody: put `notify` at the release task", task.where)
    if state != "present":
        yield _error(f"{MODELS} is for `ogen apply`", task.where)
    elif following is None or following.module != RELEASE:
        hint = f"put {MODELS} directly before it, and what comes between before both"
        yield _error("models are staged with the release, in one transaction", task.where, hint)


def _unconditional(task: Task) -> Iterator[PlaybookError]:
    """The engine decides over all hosts together who goes when, and what a balancer may list."""
    if task.loop is not None:
        yield _error(f"{task.module} in a loop: a host has one release", task.loop.where)
    for condition in task.when:
        yield _error(f"{task.module} takes no `when`", condition.where, "choose hosts with --limit")
    if "never" in task.tags:
        yield _error(f"{task.module} with the tag `never` would not run", task.where)


def _src(task: Task) -> Iterator[PlaybookError]:
    node = task.args.get("src")
    if node is not None and not _matches(_SRC, node):
        yield _error(
            f"`src` of {task.module} is the host's own release", node.where, 'write "{{ ogen_release }}"'
        )


def _matches(pattern: re.Pattern[str], node: Node) -> bool:
    return isinstance(node.value, str) and bool(pattern.fullmatch(node.value.strip()))


def _error(message: str, where: Where, hint: str | None = None) -> PlaybookError:
    return PlaybookError(message, where=where, hint=hint)
