"""The words of a playbook: plays, tasks and the steps that they compile to for one host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import Where
from ..source import Node


@dataclass(frozen=True, slots=True)
class Task:
    """One task or handler as it was written; expressions are not resolved yet."""

    name: str | None
    module: str  # the short name: "apt" for ansible.builtin.apt
    args: Mapping[str, Node]
    where: Where = field(compare=False, repr=False)
    when: tuple[Node, ...] = ()  # all must hold
    loop: Node | None = None
    notify: tuple[str, ...] = ()
    tags: frozenset[str] = frozenset()  # with those of the play
    register: str = ""  # what the result of a look goes by
    changed_when: bool | None = None  # of a command: whether it counts as a change

    @property
    def title(self) -> str:
        return self.name or self.module


@dataclass(frozen=True, slots=True)
class Play:
    """One play; `serial` and `max_fail_percentage` as in Ansible, None where nothing is said."""

    name: str
    hosts: str
    where: Where = field(compare=False, repr=False)
    become: bool = False
    gather_facts: bool = True
    force_handlers: bool = False  # handlers run although a later task failed
    serial: Node | None = None  # numbers and percentages, or an expression that gives them
    max_fail_percentage: float | None = None
    vars: Mapping[str, Node] = field(default_factory=dict)
    tasks: tuple[Task, ...] = ()
    handlers: tuple[Task, ...] = ()


@dataclass(frozen=True, slots=True)
class Playbook:
    """A file of plays, all within the subset of Ansible that ogen compiles."""

    name: str
    plays: tuple[Play, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A task compiled for one host: plain values only, nothing left to resolve."""

    module: str
    args: Mapping[str, Any]
    name: str
    notify: tuple[str, ...] = ()
    play: int = 0  # index in the playbook
    handler: bool = False  # runs at the play's end, if a changed step names it
    where: Where | None = field(default=None, compare=False, repr=False)

    def document(self) -> dict[str, Any]:
        """The step as JSON values: what the agent gets."""
        return {
            "module": self.module,
            "args": dict(self.args),
            "name": self.name,
            "notify": list(self.notify),
            "handler": self.handler,
        }
