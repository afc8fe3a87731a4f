"""Nodes against the rules: cerberus judges each map, list item and key; its verdicts get places.

cerberus sees one flat map at a time, with `{}` and `[None, …]` where maps and lists stand: nested
validators would be built anew for each of a fleet's ten thousand cards. What is wrong is told and
left out of the result, so that the rest can still be checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from ..source import Node
from .checks import CHECKS
from .faults import Faults, near
from .forms import FORMS, shown
from .model import Secret
from .strangers import stranger

Rules = Mapping[str, Any]
_NESTED = ("schema", "keysrules", "valuesrules")
_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "list": "a list",
    "dict": "a map",
    "secret": "a secret: !env, !file or !command",
}
_BOOLEANS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def check(node: Node, rule: Rules, faults: Faults, subject: str = "") -> Node | None:
    """The value in its long form with only what is good in it; None where nothing is."""
    return _Checker(faults).value(node, rule, subject)


class _Checker:
    def __init__(self, faults: Faults) -> None:
        self.faults = faults

    def value(self, node: Node, rule: Rules, subject: str) -> Node | None:
        """One value by its rule: form, then cerberus, then what is inside."""
        meta = rule.get("meta", {})
        if node.value is None and node.tag is None:
            if meta.get("empty"):
                return Node({}, node.where)
            self.faults.add(f"{subject} has no value", node.where, "give it one, or remove the key")
            return None
        form = meta.get("form")
        if node.tag is not None and form != "secret":
            self.faults.add(f"{subject}: {node.tag} can't stand here", node.where, _tag_hint(node.tag))
            return None
        if form:
            changed = FORMS[form].read(node, subject, self.faults)
            if changed is None:
                return None
            node = changed
        if not self._passes(node, rule, subject):
            return None
        return self._inside(node, rule, subject)

    def _passes(self, node: Node, rule: Rules, subject: str) -> bool:
        errors = _validator(_flat(rule)).judge(_flattened(node))
        for error in errors:
            self._tell(error, node, subject)
        return not errors

    def _inside(self, node: Node, rule: Rules, subject: str) -> Node:
        if node.is_list and "schema" in rule:
            items = (
                self.value(item, rule["schema"], f"{subject}[{number}]")
                for number, item in enumerate(node.value)
            )
            kept = [item for item in items if item is not None]
            return Node(kept, node.where, node.tag, keys=node.keys)
        if node.is_map and "valuesrules" in rule:
            return self._entries(node, rule, subject)
        if node.is_map and "schema" in rule:
            return self._record(node, rule["schema"], subject)
        return node

    def _entries(self, node: Node, rule: Rules, subject: str) -> Node:
        """A map whose keys are the user's names."""
        kept: dict[str, Node] = {}
        for name, child in node.items():
            where = node.keys.get(name, child.where)
            if not self._passes(Node(name, where, text=name), rule["keysrules"], f"{subject}: the name"):
                continue
            good = self.value(child, rule["valuesrules"], _join(subject, name))
            if good is not None:
                kept[name] = good
        return Node(kept, node.where, keys=node.keys)

    def _record(self, node: Node, schema: Mapping[str, Rules], subject: str) -> Node:
        """A map whose keys are ogen's."""
        kept: dict[str, Node] = {}
        for name, child in node.items():
            where = node.keys.get(name, child.where)
            if name not in schema:
                self._unknown(name, where, schema, subject)
                continue
            good = self.value(child, schema[name], _join(subject, name))
            if good is not None:
                kept[name] = good
        for name, rule in schema.items():
            if rule.get("required") and name not in node.value:
                text = f"{subject}: '{name}' is missing" if subject else f"'{name}' is missing"
                self.faults.add(text, node.where, rule.get("meta", {}).get("description"))
        return Node(kept, node.where, keys=node.keys)

    def _unknown(self, name: str, where: Any, schema: Iterable[str], subject: str) -> None:
        of = f"{subject}: " if subject else ""
        message, hint = stranger(name, set(schema))
        if not self.faults.full:
            hint = hint or near(name, schema)
        self.faults.add(f"{of}{message or f'unknown key {name!r}'}", where, hint or _keys(schema))

    # ---- cerberus' verdicts in words
    def _tell(self, error: Any, node: Node, subject: str) -> None:
        words, hint = _worded(error, node)
        self.faults.add(f"{subject} {words}", node.where, hint)


def _join(subject: str, name: str) -> str:
    return f"{subject}.{name}" if subject else name


def _keys(schema: Iterable[str]) -> str:
    names = sorted(schema)
    return "there are " + ", ".join(names) if len(names) <= 14 else f"there are {', '.join(names[:14])}, …"


def _tag_hint(tag: str) -> str:
    if tag in ("!env", "!file", "!command"):
        return "only passwords and keys may be secrets"
    return "there are !env, !file and !command, for secrets"


def _worded(error: Any, node: Node) -> tuple[str, str | None]:
    rule, constraint = error.rule, error.constraint
    if rule == "type":
        return _mistyped(constraint, node)
    if rule == "allowed":
        choices = [str(c) for c in constraint]
        hint = near(str(node.value), choices) if isinstance(node.value, str) else None
        return f"must be one of {', '.join(choices)}, not {shown(node)}", hint
    if rule in ("min", "max"):
        return f"must be at {'least' if rule == 'min' else 'most'} {constraint}, not {shown(node)}", None
    if rule in ("minlength", "maxlength"):
        if constraint == 1 and rule == "minlength":
            return "is empty", None
        return f"must have at {'least' if rule == 'minlength' else 'most'} {constraint} entries", None
    check = CHECKS[error.info[0]]
    return f"must be {check.wants}, not {shown(node)}", check.hint or _lowered(check, node)


def _lowered(check: Any, node: Node) -> str | None:
    lower = str(node.value).lower().replace(" ", "-")
    return f"write {lower}" if lower != node.value and check.passes(lower) else None


def _mistyped(constraint: Any, node: Node) -> tuple[str, str | None]:
    types = constraint if isinstance(constraint, list) else [constraint]
    words = " or ".join(_WORDS[t] for t in types)
    hint = None
    if isinstance(node.value, str):
        if "boolean" in types and node.value.lower() in _BOOLEANS:
            hint = f"write {_BOOLEANS[node.value.lower()]}"
        elif {"integer", "number"} & set(types) and node.value.lstrip("-").isdigit():
            hint = f"write {node.value} without quotes"
    elif node.is_scalar and "string" in types:
        hint = f'write "{node.text or node.value}" in quotes if that is meant'
    return f"must be {words}, not {'text ' if isinstance(node.value, str) else ''}{shown(node)}", hint


# -------------------------------------------------------------------------------------- cerberus
def _flattened(node: Node) -> Any:
    if isinstance(node.value, dict):
        return dict.fromkeys(node.value)
    return [None] * len(node.value) if isinstance(node.value, list) else node.value


_FLAT: dict[int, tuple[Rules, tuple[tuple[str, Any], ...]]] = {}


def _flat(rule: Rules) -> tuple[tuple[str, Any], ...]:
    """The rule without what is nested, hashable; kept by identity, rules being constants."""
    found = _FLAT.get(id(rule))
    if found is None:
        parts = ((k, tuple(v) if isinstance(v, list) else v) for k, v in sorted(rule.items()))
        flat = tuple((k, v) for k, v in parts if k not in (*_NESTED, "meta", "required"))
        found = _FLAT[id(rule)] = (rule, flat)
    return found[1]


class _Judge:
    """A cerberus validator of one value, with its verdicts remembered."""

    def __init__(self, rule: dict[str, Any]) -> None:
        made, trusted = _cerberus()
        self.validator = made()
        self.validator.schema = trusted(self.validator, {"value": rule})
        self.known: dict[Any, list[Any]] = {}

    def judge(self, value: Any) -> list[Any]:
        scalar = isinstance(value, (str, int, float, Secret))
        memo = (type(value), value if scalar else len(value))
        if memo not in self.known:
            self.validator.validate({"value": value}, normalize=False)
            if len(self.known) > 50_000:
                self.known.clear()
            self.known[memo] = [e for e in self.validator._errors if e.rule != "nullable"]
        return self.known[memo]


@cache
def _validator(flat: tuple[tuple[str, Any], ...]) -> _Judge:
    return _Judge({k: list(v) if isinstance(v, tuple) else v for k, v in flat})


@cache
def _cerberus() -> tuple[Any, Any]:
    """cerberus' Validator with ogen's types and checks, and its schema; imported when first needed.

    The rules are constants, which a test holds to cerberus' own schema: checking them again on
    each start would cost more than all else.
    """
    import cerberus
    from cerberus.schema import DefinitionSchema

    own = {
        "secret": cerberus.TypeDefinition("secret", (Secret,), ()),
        "integer": cerberus.TypeDefinition("integer", (int,), (bool,)),  # cerberus' own takes true
    }
    members: dict[str, Any] = {f"_check_with_{name}": _checker(name) for name in CHECKS}
    members["types_mapping"] = {**cerberus.Validator.types_mapping, **own}
    unchecked = {"validate": lambda self, schema=None: None}
    return (
        type("Validator", (cerberus.Validator,), members),
        type("TrustedSchema", (DefinitionSchema,), unchecked),
    )


def _checker(name: str) -> Any:
    def run(self: Any, field: str, value: Any) -> None:
        if not CHECKS[name].passes(value):
            self._error(field, name)

    return run
