"""A playbook to the fixed list of steps for one host: every expression is resolved here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import PlaybookError
from ..source import Node
from . import expressions
from .model import Play, Playbook, Step, Task
from .modules import FROM_HELLO, LOOKS, TEMPLATE, fault, normal

#: what the agent reports, by Ansible's names (docs/playbooks.md); `services` after a task `service_facts`
FACTS = (
    "architecture",
    "distribution",
    "distribution_major_version",
    "distribution_release",
    "distribution_version",
    "hostname",
    "kernel",
    "memtotal_mb",
    "nodename",
    "os_family",
    "pkg_mgr",
    "processor_nproc",
    "python_version",
    "service_mgr",
    "services",
    "system",
)
#: what `stat` finds at a path of the host
Look = Callable[[str], Mapping[str, Any]]
#: a template's text by its `src`; the node is where that stands
Texts = Callable[[str, Node], str]


def nothing(path: str) -> Mapping[str, Any]:
    """For a host that is not asked."""
    return {"exists": False}


def no_texts(src: str, node: Node) -> str:
    raise PlaybookError("there are no templates here", where=node.where)


def compile(  # noqa: A001 (the word of the domain)
    playbook: Playbook,
    facts: Mapping[str, Any],
    variables: Mapping[str, Any],
    *,
    tags: frozenset[str] = frozenset(),
    plays: Iterable[int] | None = None,
    look: Look = nothing,
    texts: Texts = no_texts,
) -> tuple[Step, ...]:
    """The steps for one host, in order; handlers stand at the end of their play.

    `facts` is the agent's, `variables` the inventory's; a play's `vars` win over these. `plays` are the
    indexes of the plays that the host belongs to (None: all); `look` asks it about a path, `texts` reads a
    template of the project. Raises PlaybookError with its place.
    """
    wanted = range(len(playbook.plays)) if plays is None else plays
    one = _Compiler(facts, tags, look, texts)
    return tuple(step for index in wanted for step in one.play(playbook.plays[index], index, variables))


@dataclass(frozen=True)
class _Compiler:
    """What all plays of a host have in common."""

    facts: Mapping[str, Any]
    tags: frozenset[str]
    look: Look
    texts: Texts

    def play(self, play: Play, index: int, variables: Mapping[str, Any]) -> Iterator[Step]:
        facts = self.facts
        known = {k: facts[k] for k in FACTS if k in facts and k != "services"} if play.gather_facts else {}
        names: dict[str, Any] = {**variables, "ansible_facts": known}
        for name, node in play.vars.items():
            names[name] = expressions.resolve(node, names)
        for task in play.tasks:
            if not _selected(task, self.tags):
                continue
            if task.module in FROM_HELLO:
                names["ansible_facts"] = {**names["ansible_facts"], "services": facts.get("services", {})}
                continue
            if task.module in LOOKS:
                names[task.register] = _looked(task, index, names, self.look)
                continue
            yield from self.task(task, index, names, handler=False)
        for task in play.handlers:
            yield from self.task(task, index, names, handler=True)

    def task(self, task: Task, play: int, names: Mapping[str, Any], *, handler: bool) -> Iterator[Step]:
        if task.loop is None:
            if _holds(task, names):
                yield self.step(task, play, names, task.title, handler)
            return
        for item in _items(task.loop, names):
            with_item = {**names, "item": item}
            if _holds(task, with_item):
                # a handler goes by its name, so that all of its items are notified together
                title = task.title if handler else f"{task.title} ({_label(item)})"
                yield self.step(task, play, with_item, title, handler)

    def step(self, task: Task, play: int, names: Mapping[str, Any], title: str, handler: bool) -> Step:
        made = _step(task, play, names, title, handler)
        if task.module != TEMPLATE:
            return made
        node = task.args["src"]
        args = {key: value for key, value in made.args.items() if key != "src"}
        args["content"] = expressions.fill(self.texts(made.args["src"], node), names, node.where)
        return replace(made, module="copy", args=args)


def _selected(task: Task, tags: frozenset[str]) -> bool:
    """As in Ansible: `always` runs whatever is asked for, `never` only when asked for by a tag."""
    if tags & task.tags or "always" in task.tags:
        return True
    return not tags and "never" not in task.tags


def _looked(task: Task, play: int, names: Mapping[str, Any], look: Look) -> dict[str, Any]:
    """The result of a `stat` as Ansible registers it: of a loop, one for each item."""

    def one(known: Mapping[str, Any]) -> dict[str, Any]:
        if not _holds(task, known):
            return {"changed": False, "skipped": True}
        return {
            "changed": False,
            "stat": dict(look(_step(task, play, known, task.title, False).args["path"])),
        }

    if task.loop is None:
        return one(names)
    return {
        "changed": False,
        "results": [{"item": item, **one({**names, "item": item})} for item in _items(task.loop, names)],
    }


def _items(loop: Node, names: Mapping[str, Any]) -> list[Any]:
    items = expressions.resolve(loop, names)
    if not isinstance(items, list):
        raise PlaybookError(f"`loop` gives {items!r}, not a list", where=loop.where)
    return items


def _holds(task: Task, names: Mapping[str, Any]) -> bool:
    return all(expressions.truth(condition, names) for condition in task.when)


def _step(task: Task, play: int, names: Mapping[str, Any], title: str, handler: bool) -> Step:
    args: dict[str, Any] = {}
    for key, node in task.args.items():
        args[key] = normal(task.module, key, expressions.resolve(node, names))
        problem = fault(task.module, key, args[key])
        if problem:
            raise PlaybookError(f"`{key}` of {task.module} {problem}", where=node.where)
    if task.changed_when is not None:
        args["changed_when"] = task.changed_when
    return Step(task.module, args, title, task.notify, play, handler, task.where)


def _label(item: Any) -> str:
    """An item in a step's name, cut to a readable length."""
    if isinstance(item, dict) and isinstance(item.get("item"), dict):  # of a look's results
        item = item["item"]
    if isinstance(item, dict):
        item = next((item[key] for key in ("name", "path", "dest") if key in item), item)
    text = str(item)
    return text if len(text) <= 60 else text[:57] + "…"
