"""The JSON Schema of the inventory, for editors, made of the rules for cerberus.

What only the whole inventory can tell (names that must exist, clashes) is not in it; everything
that is in it, `ogen validate` refuses too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .checks import CHECKS
from .forms import FORMS
from .rules import ROOT

Json = dict[str, Any]

_TYPES = {
    "string": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "list": "array",
    "dict": "object",
}
_LIMITS = {"min": "minimum", "max": "maximum"}
_LENGTHS = {
    ("list", "minlength"): "minItems",
    ("list", "maxlength"): "maxItems",
    ("dict", "minlength"): "minProperties",
    ("string", "minlength"): "minLength",
}


def schema() -> Json:
    """JSON Schema, draft 2020-12. Tags: an editor needs `!env`, `!file`, `!command` among its custom tags."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ogen inventory",
        "$comment": "Made by `ogen schema` from the rules that ogen checks with. "
        "Secrets carry the YAML tags !env (scalar), !file (scalar) and !command (sequence); "
        "tell them to the editor, e.g. as yaml.customTags.",
        **_value(ROOT),
        "required": ["version", "hosts"],
    }


def _value(rule: Mapping[str, Any]) -> Json:
    meta = rule.get("meta", {})
    types = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    long = _one(rule, types[0]) if len(types) == 1 else {"anyOf": [_one(rule, kind) for kind in types]}
    made = FORMS[meta["form"]].schema(long) if "form" in meta else long
    if meta.get("empty"):
        made = {"anyOf": [made, {"type": "null"}]}
    return {"description": meta["description"], **made} if "description" in meta else made


def _one(rule: Mapping[str, Any], kind: str) -> Json:
    """The schema of a value of one type."""
    if kind == "secret":
        return {}
    made: Json = {"type": _TYPES[kind]}
    if kind in ("integer", "number"):
        made |= {name: rule[word] for word, name in _LIMITS.items() if word in rule}
    made |= {name: rule[word] for (of, word), name in _LENGTHS.items() if of == kind and word in rule}
    if "allowed" in rule:
        made["enum"] = rule["allowed"]
    if kind == "string" and "check_with" in rule:
        made |= _checked(rule["check_with"])
    if kind == "list" and "schema" in rule:
        made["items"] = _value(rule["schema"])
    if kind == "dict" and "valuesrules" in rule:
        made["additionalProperties"] = _value(rule["valuesrules"])
        made["propertyNames"] = _checked(rule["keysrules"]["check_with"])
    elif kind == "dict" and "schema" in rule:
        made |= _record(rule["schema"])
    return made


def _checked(name: str) -> Json:
    check = CHECKS[name]
    made: Json = {"pattern": f"^(?:{check.pattern})$"} if check.pattern else {}
    if check.longest:
        made["maxLength"] = check.longest
    return made


def _record(fields: Mapping[str, Any]) -> Json:
    made: Json = {
        "properties": {name: _value(rule) for name, rule in fields.items()},
        "additionalProperties": False,
    }
    required = [name for name, rule in fields.items() if rule.get("required")]
    return {**made, "required": required} if required else made
