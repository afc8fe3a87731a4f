"""A playbook file to a Playbook: every construct outside of the subset is an error with its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path

from .. import shipped
from ..errors import OgenError, PlaybookError, Problems, Where
from ..source import Node, read
from . import expressions
from .expressions import OUTSIDE
from .model import Play, Playbook, Task
from .modules import FROM_HELLO, LOOKS, MODULES, fault, normal, short_name
from .serial import SIZES, SIZES_HINT, is_size

_PLAY_KEYS = (
    "name",
    "hosts",
    "become",
    "gather_facts",
    "force_handlers",
    "serial",
    "max_fail_percentage",
    "vars",
    "tasks",
    "handlers",
    "tags",
)
_TASK_KEYS = ("name", "when", "loop", "notify", "tags")
_HANDLER_KEYS = ("name", "when", "loop")
#: what is worth a better hint than the export
_HINTS = {
    "with_items": "write `loop:`",
    "register": "no task may depend on another's result: what `stat` finds is known before the first",
    "become": "set it for the play",
    "args": "write the parameters below the module's name",
    "changed_when": "true or false, at a task with `command`; the other modules know by themselves",
    "action": "write the module's name as the key",
}
#: plain words that YAML 1.1 (Ansible) and YAML 1.2 (ogen) read differently
_AMBIGUOUS = re.compile(
    r"yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF|[-+]?0[0-9_]+|0o[0-7]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+"
)


def find(name: str, project: Path | None) -> Path:
    """The playbook `name`: the project's own one in `playbooks/`, else the one that ships with ogen."""
    if project is not None:
        own, top = project / "playbooks" / name, project.resolve()
        if own.is_file():
            if not own.resolve().is_relative_to(top):
                raise PlaybookError(
                    f"{own} lies outside of the project", hint=f"put the file itself below {top}"
                )
            return own
    return shipped.folder("playbooks") / name


def load(path: Path, name: str | None = None) -> Playbook:
    """Reads and checks a playbook; raises PlaybookError, or Problems with all of them at once."""
    root = read(path, name)
    errors: list[OgenError] = []
    plays = tuple(_Reader(errors).plays(root))
    if errors:
        raise errors[0] if len(errors) == 1 else Problems(errors)
    return Playbook(root.where.file, plays)


class _Reader:
    """Turns nodes into plays and tasks; collects errors instead of stopping at the first."""

    def __init__(self, errors: list[OgenError]) -> None:
        self.errors = errors

    def error(self, message: str, where: Where, hint: str | None = None) -> None:
        self.errors.append(PlaybookError(message, where=where, hint=hint))

    def checked(self, check: Callable[[Node], None], node: Node) -> None:
        try:
            check(node)
        except PlaybookError as error:
            self.errors.append(error)

    # ---- plays
    def plays(self, root: Node) -> Iterator[Play]:
        if not root.is_list or not root.value:
            self.error("a playbook is a list of plays", root.where, "begin with `- hosts: all`")
            return
        for node in root.value:
            if not node.is_map:
                self.error("a play is a map", node.where)
                continue
            self._unambiguous(node)
            self._known(node, _PLAY_KEYS, "play")
            if "hosts" in node.value:
                yield self._play(node)
            elif not any(key.endswith("import_playbook") for key in node.value):
                self.error("a play needs `hosts`", node.where)

    def _play(self, node: Node) -> Play:
        hosts = self._text(node, "hosts")
        tags = self._tags(node)
        handlers = tuple(self._tasks(node, "handlers", frozenset()))
        tasks = tuple(self._tasks(node, "tasks", tags))
        self._notified(tasks, handlers)
        return Play(
            name=self._text(node, "name") or hosts,
            hosts=hosts,
            where=node.where,
            become=self._bool(node, "become", False),
            gather_facts=self._bool(node, "gather_facts", True),
            force_handlers=self._bool(node, "force_handlers", False),
            serial=self._serial(node.get("serial")),
            max_fail_percentage=self._percentage(node.get("max_fail_percentage")),
            vars=self._vars(node.get("vars")),
            tasks=tasks,
            handlers=handlers,
        )

    def _vars(self, node: Node | None) -> dict[str, Node]:
        if node is None:
            return {}
        if not node.is_map:
            self.error("`vars` is a map", node.where)
            return {}
        for key, value in node.items():
            if not key.isidentifier() or key in ("item", "ansible_facts"):
                self.error(f"{key!r} can't be the name of a variable", node.keys[key])
            self.checked(expressions.check, value)
        return dict(node.items())

    def _serial(self, node: Node | None) -> Node | None:
        if node is None:
            return None
        if isinstance(node.value, str) and "{{" in node.value:
            self.checked(expressions.check, node)
            return node
        for size in node.value if node.is_list else [node]:
            if not is_size(size.value):
                self.error(SIZES, size.where, SIZES_HINT)
        return node

    def _percentage(self, node: Node | None) -> float | None:
        if node is None:
            return None
        value = node.value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100:
            self.error("`max_fail_percentage` wants a number from 0 to 100", node.where)
            return None
        return float(value)

    # ---- tasks
    def _tasks(self, play: Node, key: str, tags: frozenset[str]) -> Iterator[Task]:
        node = play.get(key)
        if node is None or node.value is None:
            return
        if not node.is_list:
            self.error(f"`{key}` is a list", node.where)
            return
        for item in node.value:
            if not item.is_map:
                self.error("a task is a map", item.where)
            elif (task := self._task(item, handler=key == "handlers", tags=tags)) is not None:
                yield task

    def _task(self, node: Node, *, handler: bool, tags: frozenset[str]) -> Task | None:
        keys = _HANDLER_KEYS if handler else _TASK_KEYS
        modules = [key for key in node.value if short_name(key)]
        looks = len(modules) == 1 and short_name(modules[0]) in LOOKS and not handler
        runs = len(modules) == 1 and short_name(modules[0]) == "command"
        also = ("register",) if looks else ("changed_when",) if runs else ()
        self._known(node, (*keys, *modules, *also), "handler" if handler else "task")
        if len(modules) != 1:
            if modules:
                self.error("a task has one module", node.keys[modules[1]])
            elif all(key in (*_TASK_KEYS, *_HINTS) for key in node.value):
                self.error("a task needs a module", node.where)
            return None
        name = self._text(node, "name") or None
        if handler and name is None:
            self.error("a handler needs a name", node.where)
        module = short_name(modules[0])
        assert module is not None
        register = self._text(node, "register") if looks else ""
        if looks and not register.isidentifier():
            self.error(f"{module} needs `register`: the name that its result goes by", node.where)
        elif module in LOOKS and handler:
            self.error(f"{module} is for tasks: handlers come after the last one", node.where)
        changed = self._bool(node, "changed_when", False) if runs and "changed_when" in node.value else None
        return Task(
            name=name,
            module=module,
            args=self._args(module, node.value[modules[0]], stated=changed is not None),
            where=node.where,
            when=self._when(node.get("when")),
            loop=self._loop(node.get("loop")),
            notify=self._names(node.get("notify")),
            tags=tags | self._tags(node),
            register=register,
            changed_when=changed,
        )

    def _args(self, module: str, node: Node, *, stated: bool = False) -> dict[str, Node]:
        """The parameters of a module; a value without an expression is checked at once."""
        if node.value is None and not MODULES[module]:
            return {}
        if not node.is_map:
            self.error(
                f"the parameters of {module} are a map",
                node.where,
                "one `key: value` per line below the module",
            )
            return {}
        if module in FROM_HELLO and node.value:
            self.error(f"{module} takes no parameters", node.where)
            return {}
        self._known(node, tuple(MODULES[module]), module)
        for key, value in node.items():
            if key not in MODULES[module]:
                continue
            before = len(self.errors)
            self.checked(expressions.check, value)
            if len(self.errors) == before and "{{" not in str(value.plain()):
                problem = fault(module, key, normal(module, key, value.plain()))
                if problem:
                    self.error(f"`{key}` of {module} {problem}", value.where)
        for key, parameter in MODULES[module].items():
            needless = stated and key == "creates"  # it says itself whether it changes something
            if parameter.required and key not in node.value and not needless:
                self.error(f"{module} needs `{key}`", node.where, _needed(module, key))
        return {key: value for key, value in node.items() if key in MODULES[module]}

    def _when(self, node: Node | None) -> tuple[Node, ...]:
        if node is None:
            return ()
        conditions = tuple(node.value) if node.is_list else (node,)
        for condition in conditions:
            self.checked(expressions.check_condition, condition)
        return conditions

    def _loop(self, node: Node | None) -> Node | None:
        if node is None:
            return None
        if not node.is_list and not (isinstance(node.value, str) and "{{" in node.value):
            self.error("`loop` wants a list", node.where)
        self.checked(expressions.check, node)
        return node

    def _notified(self, tasks: tuple[Task, ...], handlers: tuple[Task, ...]) -> None:
        known = {handler.name for handler in handlers}
        for task in tasks:
            for name in task.notify:
                if name not in known:
                    self.error(f"no handler is named {name!r}", task.where, _near(name, known))

    # ---- values
    def _known(self, node: Node, keys: tuple[str, ...], what: str) -> None:
        for key in node.value:
            if key not in keys:
                hint = _HINTS.get(key) if what in ("play", "task", "handler") else None
                hint = hint or _near(key, keys) or OUTSIDE
                self.error(f"`{key}` of a {what} is outside of what ogen compiles", node.keys[key], hint)

    def _unambiguous(self, node: Node) -> None:
        """YAML 1.1 reads `yes` as true and 0644 as 420; ogen would not: so neither may be written."""
        for child in node.value.values() if node.is_map else node.value if node.is_list else ():
            self._unambiguous(child)
        if node.is_scalar and not node.quoted and _AMBIGUOUS.fullmatch(node.text):
            hint = f'write true or false, or put it in quotes: "{node.text}"'
            self.error(f"{node.text} means one thing to Ansible and another to ogen", node.where, hint)

    def _text(self, node: Node, key: str) -> str:
        child = node.get(key)
        if child is None or child.value is None:
            return ""
        if not isinstance(child.value, str) or child.tag or "{{" in child.value:
            self.error(f"`{key}` is plain text, without expressions", child.where)
            return ""
        return child.value

    def _bool(self, node: Node, key: str, default: bool) -> bool:
        child = node.get(key)
        if child is None:
            return default
        if not isinstance(child.value, bool):
            self.error(f"`{key}` is true or false", child.where)
            return default
        return child.value

    def _names(self, node: Node | None) -> tuple[str, ...]:
        if node is None:
            return ()
        found = []
        for item in node.value if node.is_list else [node]:
            if isinstance(item.value, str) and "{{" not in item.value:
                found.append(item.value)
            else:
                self.error("a plain name is wanted here", item.where)
        return tuple(found)

    def _tags(self, node: Node) -> frozenset[str]:
        return frozenset(tag.strip() for name in self._names(node.get("tags")) for tag in name.split(","))


def _near(word: str, known: object) -> str | None:
    found = get_close_matches(word, [str(k) for k in known], 1, 0.7)  # type: ignore[attr-defined]
    return f"did you mean {found[0]!r}?" if found else None


def _needed(module: str, key: str) -> str | None:
    if (module, key) == ("get_url", "checksum"):
        return "what comes from elsewhere is verified: checksum: sha256:…"
    if key == "creates":
        also = "; for one that only looks, `changed_when: false`" if module == "command" else ""
        return f"without it a second run would change things again{also}; {OUTSIDE}"
    return None
