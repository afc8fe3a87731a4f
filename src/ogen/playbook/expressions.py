"""Jinja expressions of a playbook: checked when it is loaded, resolved before the first change.

They run in Jinja's immutable sandbox; an undefined name is an error. Only `{{ … }}` is within the subset,
and only Jinja's own filters and tests, which mean the same under ansible-playbook.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import PlaybookError, Where
from ..source import Node

OUTSIDE = (
    "what is outside of the subset (docs/playbooks.md) runs under ansible-playbook: `ogen export ansible`"
    " writes the project for it"
)
#: of Jinja's own; the others either draw lots or are meant for HTML
_DROPPED_FILTERS = ("random", "urlize", "xmlattr", "safe", "escape", "e", "forceescape", "striptags")


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    made.globals.clear()  # range, lipsum and the like are not part of the subset
    for name in _DROPPED_FILTERS:
        del made.filters[name]
    return made


def check(node: Node) -> None:
    """Raises PlaybookError where a text below `node` is no template of the subset."""
    if node.tag:
        raise PlaybookError(f"the tag {node.tag} is outside of ogen's subset", where=node.where, hint=OUTSIDE)
    children = node.value.values() if node.is_map else node.value if node.is_list else ()
    for child in children:
        check(child)
    if isinstance(node.value, str):
        if "{%" in node.value or "{#" in node.value:
            raise PlaybookError(
                "only {{ expressions }} are in ogen's subset, no {% statements %}",
                where=node.where,
                hint=OUTSIDE,
            )
        _guarded(lambda: _environment().compile(node.value), node.where)


def check_condition(node: Node) -> None:
    """Raises PlaybookError where `node` is no bare expression."""
    if isinstance(node.value, bool):
        return
    if not isinstance(node.value, str) or node.tag:
        raise PlaybookError("`when` must be an expression or true or false", where=node.where)
    if "{{" in node.value or "{%" in node.value:
        raise PlaybookError(
            "`when` is an expression already", where=node.where, hint="write it without the braces"
        )
    _guarded(lambda: _environment().compile_expression(node.value), node.where)


def resolve(node: Node, names: Mapping[str, Any]) -> Any:
    """The value below `node` with every expression replaced; one that stands alone keeps its type."""
    if node.is_map:
        return {key: resolve(child, names) for key, child in node.items()}
    if node.is_list:
        return [resolve(child, names) for child in node.value]
    return template(node.value, names, node.where) if isinstance(node.value, str) else node.value


def template(text: str, names: Mapping[str, Any], where: Where) -> Any:
    """The text with its expressions replaced."""
    if "{{" not in text:
        return text
    environment = _environment()

    def value() -> Any:
        if _stands_alone(environment.parse(text)):
            return _defined(environment.compile_expression(_inside(text), undefined_to_none=False)(**names))
        return environment.from_string(text).render(**names)

    return _guarded(value, where)


def fill(text: str, names: Mapping[str, Any], where: Where) -> str:
    """A template file's text, statements included, as Ansible's `template` renders it."""

    def value() -> str:
        made = _environment().overlay(trim_blocks=True)
        return made.from_string(text).render(**names)

    found: str = _guarded(value, where)
    return found


def truth(node: Node, names: Mapping[str, Any]) -> bool:
    """The value of a condition; like ansible-core 2.19, takes only true and false for an answer."""
    if isinstance(node.value, bool):
        return node.value
    compiled = _environment().compile_expression(node.value, undefined_to_none=False)
    found = _guarded(lambda: _defined(compiled(**names)), node.where)
    if not isinstance(found, bool):
        raise PlaybookError(
            f"the condition gives {found!r}, not true or false",
            where=node.where,
            hint="compare it: `x | length > 0`, `x is defined`",
        )
    return found


def _stands_alone(tree: nodes.Template) -> bool:
    """Whether a template is one expression and nothing else."""
    parts = [part for output in tree.body for part in getattr(output, "nodes", (output,))]
    return len(parts) == 1 and not isinstance(parts[0], nodes.TemplateData)


def _inside(text: str) -> str:
    """The expression between the braces of `{{- x -}}`; the signs only trim blanks."""
    inner = text.strip()[2:-2]
    return inner[inner[0] in "-+" : len(inner) - (inner[-1] in "-+")]


def _defined(value: Any) -> Any:
    if isinstance(value, StrictUndefined):
        str(value)  # raises, with the name that is undefined
    return value


def _guarded(action: Any, where: Where) -> Any:
    """What `action` returns; what goes wrong in it becomes a PlaybookError at `where`."""
    try:
        return action()
    except PlaybookError:
        raise
    except TemplateError as error:
        raise PlaybookError(f"{error.message or error}", where=where, hint=_way_on(error)) from None
    except Exception as error:
        # an expression may raise anything: 1 // 0, "a" + 1, a filter's own TypeError
        raise PlaybookError(f"the expression fails: {error}", where=where) from None


def _way_on(error: TemplateError) -> str:
    text = str(error.message)
    if text.startswith(("No filter named", "No test named")):
        return f"ogen knows Jinja's own filters and tests; {OUTSIDE}"
    if "is undefined" in text:
        return "known are the play's vars, ogen's own variables, ansible_facts and item; docs/playbooks.md"
    return "see docs/playbooks.md for what ogen compiles"
