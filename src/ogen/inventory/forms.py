"""Short forms become the long ones before cerberus sees them, so that its messages stay plain.

A rule names its form in `meta`; a form turns a Node into the Node that the rest of the rule
describes, keeping the place, and tells the editor's schema what may be written instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..source import Node
from . import units
from .checks import CHECKS
from .faults import Faults
from .model import Secret

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Form:
    """`read(node, subject, faults)` gives the long form, or None after telling a mistake."""

    read: Callable[[Node, str, Faults], Node | None]
    schema: Callable[[Json], Json]  # from the long form's JSON Schema to that of all forms


def like(node: Node, value: Any) -> Node:
    """`value` standing where `node` stands."""
    return Node(value, node.where, None, node.text, node.quoted)


def shown(node: Node) -> str:
    """A value as messages quote it."""
    if node.is_map:
        return "a map"
    if node.is_list:
        return "a list"
    if isinstance(node.value, str):
        return repr(node.value if len(node.value) <= 60 else node.value[:57] + "…")
    return node.text or str(node.value)


def _size(node: Node, subject: str, faults: Faults) -> Node | None:
    found = units.size(node.value) if isinstance(node.value, str) else None
    if found is None:
        number = node.value if isinstance(node.value, (int, float)) and node.value is not True else None
        hint = f"write {number}GiB or {number}MiB" if number else "for example 24GiB, 800MiB or 8 GB"
        faults.add(f"{subject} must be a size with a unit, not {shown(node)}", node.where, hint)
        return None
    return like(node, found)


def _duration(node: Node, subject: str, faults: Faults) -> Node | None:
    found = units.duration(node.value) if isinstance(node.value, str) else None
    if found is None:
        number = node.value if isinstance(node.value, (int, float)) and node.value is not True else None
        hint = f"write {number}s or {number}m" if number else "for example 500ms, 5s, 10m or 1h30m"
        faults.add(f"{subject} must be a time with a unit, not {shown(node)}", node.where, hint)
        return None
    return like(node, found)


def _text(node: Node, subject: str, faults: Faults) -> Node | None:
    """Numbers and booleans as they were written: `version: 0.9` is "0.9"."""
    if node.is_scalar and not isinstance(node.value, str) and node.value is not None:
        return like(node, node.text)
    return node


def _many(node: Node, subject: str, faults: Faults) -> Node | None:
    """One value where a list may stand."""
    return like(node, [node]) if node.is_scalar else node


def _context(node: Node, subject: str, faults: Faults) -> Node | None:
    """`8192` asks for just that; a map with `want` alone does too."""
    if isinstance(node.value, int) and not isinstance(node.value, bool):
        return Node({"want": node, "at_least": node}, node.where, keys={"want": node.where})
    if not node.is_map and node.value is not None:
        hint = "for example 8192, or {want: 16384, at_least: 4096}"
        faults.add(f"{subject} must be a number of tokens or a map, not {shown(node)}", node.where, hint)
        return None
    return node


def _archives(node: Node, subject: str, faults: Faults) -> Node | None:
    """One archive is a list of one."""
    return like(node, [node]) if node.is_map else node


def _digests(node: Node, subject: str, faults: Faults) -> Node | None:
    """One digest is that of any version."""
    if not node.is_scalar:
        return node
    return Node({"*": like(node, node.text or node.value)}, node.where, keys={"*": node.where})


def _map(node: Node, subject: str, faults: Faults, wanted: str, hint: str) -> Node | None:
    """The map that it is; else what is `wanted` is told, and the hint shows how such a map looks."""
    if node.is_map:
        return node
    faults.add(f"{subject} must be {wanted}, not {shown(node)}", node.where, hint)
    return None


def _gate(node: Node, subject: str, faults: Faults) -> Node | None:
    """`true` is a gate with the usual queue."""
    if node.value is True:
        return Node({}, node.where)
    hint = "write true or {queue: 512, wait: 10m}; leave it out for none"
    return _map(node, subject, faults, "true or a map", hint)


def _switched(example: str) -> Callable[[Node, str, Faults], Node | None]:
    """`true` is what is usual; `false` takes it back where a group or a default has it."""

    def form(node: Node, subject: str, faults: Faults) -> Node | None:
        if isinstance(node.value, bool):
            return Node({"enabled": node}, node.where, keys={"enabled": node.where})
        return _map(node, subject, faults, "true, false or a map", f"write true or {example}")

    return form


def _mirror(node: Node, subject: str, faults: Faults) -> Node | None:
    """A name alone could be a host's or a folder's."""
    hint = "write {host: NAME} for a host that gives models to the others, or {folder: DIR}"
    return _map(node, subject, faults, "a map", hint)


def _rate(node: Node, subject: str, faults: Faults) -> Node | None:
    """A number of requests needs its unit of time."""
    if isinstance(node.value, str):
        return node
    number = node.value if isinstance(node.value, int) and node.value is not True else 10
    faults.add(
        f"{subject} must be a number of requests per second or minute, not {shown(node)}",
        node.where,
        f"write {number}/s or {number}/m",
    )
    return None


def _sources(node: Node, subject: str, faults: Faults) -> Node | None:
    """A string, a list of strings, or a map of quantisation to string; best first."""
    if isinstance(node.value, str):
        return like(node, [_source(None, node)])
    if node.is_list:
        items = [_source(None, item) if item.is_scalar else item for item in node.value]
        return like(node, items)
    if node.is_map:
        return like(node, [_source(like_key(node, quant), ref) for quant, ref in node.items()])
    hint = "for example llama3.1:8b-instruct-q4_K_M"
    faults.add(
        f"{subject} must be a tag, a list of tags or a map of quantisations, not {shown(node)}",
        node.where,
        hint,
    )
    return None


def _source(quant: Node | None, ref: Node) -> Node:
    value = {"ref": ref} if quant is None else {"quant": quant, "ref": ref}
    return Node(value, ref.where)


def like_key(node: Node, key: str) -> Node:
    """The key of a map as a text with its own place."""
    return Node(key, node.keys.get(key, node.where), text=key)


def _cards(node: Node, subject: str, faults: Faults) -> Node | None:
    """A list of cards with `count` spelled out; a map by index (overrides) stays a map."""
    if not node.is_list:
        return node
    cards: list[Node] = []
    for item in node.value:
        card = Node({"model": item}, item.where) if isinstance(item.value, str) else item
        count = card.get("count")
        number = 1 if count is None else count.value
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 64:
            faults.add(f"{subject}: 'count' must be a number from 1 to 64", (count or card).where)
            number = 1
        if count is not None:
            rest = {key: value for key, value in card.items() if key != "count"}
            card = Node(rest, card.where, card.tag, keys=card.keys)
            if number > 1 and "uuid" in rest:
                faults.add(f"{subject}: {number} cards can't have one uuid", rest.pop("uuid").where)
        cards.extend([card] * number)
    return like(node, cards)


_RENAMED = {"num_ctx": "context", "num_batch": "batch"}


def _model(node: Node, subject: str, faults: Faults) -> Node | None:
    """The article's words `num_ctx` and `num_batch` are `context` and `batch`."""
    if not any(word in node.value for word in _RENAMED if node.is_map):
        return node
    value, keys = dict(node.value), dict(node.keys)
    for word, name in _RENAMED.items():
        if word not in value:
            continue
        moved, where = value.pop(word), keys.pop(word, node.where)
        if name in value:
            faults.add(f"{subject}: '{word}' and '{name}' are the same setting", where, "keep one of them")
        else:
            value[name], keys[name] = moved, where
    return Node(value, node.where, node.tag, keys=keys)


def _secret(node: Node, subject: str, faults: Faults) -> Node | None:
    """A tagged scalar or list becomes a Secret; its text is not read."""
    if node.tag not in ("!env", "!file", "!command"):
        if node.tag is None:
            hint = "use !env NAME, !file PATH or !command [program, argument]"
            faults.add(f"{subject} is a secret and must not be written here", node.where, hint)
        else:
            faults.add(f"{subject}: unknown tag {node.tag}", node.where, "there are !env, !file and !command")
        return None
    problem = _SECRETS[node.tag](node)
    if problem:
        faults.add(f"{subject}: {problem}", node.where)
        return None
    argument = tuple(str(n.text) for n in node.value) if node.is_list else str(node.value)
    kind = node.tag[1:]
    return like(node, Secret(kind, argument, node.where))  # type: ignore[arg-type]


def _env_problem(node: Node) -> str | None:
    good = isinstance(node.value, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,199}", node.value)
    return None if good else "!env wants the name of one variable: !env OGEN_PASSWORD"


def _file_problem(node: Node) -> str | None:
    if not isinstance(node.value, str) or not node.value:
        return "!file wants one path: !file secrets/keys.yaml"
    if not CHECKS["inside"].passes(node.value):
        return f"!file {node.value!r} is outside of the project's folder"
    return None


def _command_problem(node: Node) -> str | None:
    words = node.value if node.is_list else []
    if not words or not all(w.is_scalar and w.tag is None and w.text for w in words):
        return "!command wants a list: !command [program, argument]"
    return None if all(CHECKS["text"].passes(w.text) for w in words) else "!command has a control character"


_SECRETS: dict[str, Callable[[Node], str | None]] = {
    "!env": _env_problem,
    "!file": _file_problem,
    "!command": _command_problem,
}


def _either(*more: Json) -> Callable[[Json], Json]:
    return lambda long: {"anyOf": [long, *more]}


def _cards_schema(long: Json) -> Json:
    """A card of a list may be its name alone."""
    listed, numbered = long["anyOf"]
    return {"anyOf": [{**listed, "items": {"anyOf": [listed["items"], _STRING]}}, numbered]}


_STRING: Json = {"type": "string"}
_REF: Json = {"type": "string", "pattern": f"^(?:{CHECKS['ref'].pattern})$"}
_QUANT: Json = {"pattern": f"^(?:{CHECKS['quant'].pattern})$"}

FORMS: dict[str, Form] = {
    "size": Form(_size, lambda _: {"type": "string", "pattern": f"^{units.SIZE}$"}),
    "duration": Form(_duration, lambda _: {"type": "string", "pattern": f"^{units.DURATION}$"}),
    "text": Form(_text, _either({"type": ["number", "boolean"]})),
    "whole": Form(_text, _either({"enum": [-1, 0]})),
    "many": Form(_many, lambda long: {"anyOf": [long, long["items"]]}),
    "context": Form(_context, _either({"type": "integer", "minimum": 4, "maximum": 16_777_216})),
    "rate": Form(_rate, lambda long: long),
    "archives": Form(_archives, lambda long: {"anyOf": [long, long["items"]]}),
    "digests": Form(_digests, _either({"type": "string", "pattern": f"^(?:{CHECKS['sha256'].pattern})$"})),
    "autofit": Form(_switched("{hold: 5m, every: 10s, margin: 512MiB}"), _either({"type": "boolean"})),
    "monitoring": Form(_switched("{interval: 5s}"), _either({"type": "boolean"})),
    "mirror": Form(_mirror, lambda long: long),
    "gate": Form(_gate, _either({"const": True})),
    "sources": Form(
        _sources,
        lambda _: {
            "anyOf": [
                _REF,
                {"type": "array", "items": _REF, "minItems": 1},
                {
                    "type": "object",
                    "propertyNames": _QUANT,
                    "additionalProperties": _REF,
                    "minProperties": 1,
                },
            ]
        },
    ),
    "cards": Form(_cards, _cards_schema),
    "model": Form(
        _model,
        lambda long: {
            **long,
            "properties": {
                **long["properties"],
                **{word: long["properties"][name] for word, name in _RENAMED.items()},
            },
        },
    ),
    "secret": Form(
        _secret,
        lambda _: {"anyOf": [_STRING, {"type": "array", "items": _STRING, "minItems": 1}]},
    ),
}
