"""Jinja's immutable sandbox made small: strict, few filters, bounded loops, texts and output.

A template is text with loops, conditions, includes and filters. What could run or grow without bound
(macros, blocks that capture output, `format`, `**`) is refused with its line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jinja2 import BaseLoader, StrictUndefined, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_OUTPUT = 32 * 1024 * 1024  # characters that one template may write
MAX_TEXT = 1024 * 1024  # characters of a text made in a template
MAX_STEPS = 1_000_000  # turns of loops and calls in one rendering
MAX_NUMBER = 2**63
_STRING_METHODS = frozenset(
    {"lower", "upper", "strip", "lstrip", "rstrip", "startswith", "endswith", "split"}
)
_FILTERS = (
    "default",
    "first",
    "int",
    "last",
    "length",
    "list",
    "lower",
    "reverse",
    "sort",
    "trim",
    "unique",
    "upper",
)
_REFUSED = (
    nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock, nodes.Block, nodes.Extends,
    nodes.Import, nodes.FromImport, nodes.ScopedEvalContextModifier, nodes.EvalContextModifier,
)  # fmt: skip


class TooMuch(Exception):
    """A template went over a bound."""


class Sandbox(ImmutableSandboxedEnvironment):
    """Renders templates of a loader; whatever a template does costs bounded time and memory."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, loader: BaseLoader, filters: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(
            loader=loader,
            undefined=StrictUndefined,
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            optimized=False,  # constants are computed within the bounds, or not at all
            auto_reload=False,
            cache_size=-1,
        )
        self._steps = 0
        self.globals = {"range": self.globals["range"]}
        self.filters = {name: self.filters[name] for name in _FILTERS}
        self.filters.update(filters, join=_join, _counted=self._counted, _flat=_flat)

    def run(self, name: str, values: Mapping[str, Any]) -> str:
        """The text of one template; raises TooMuch, or what Jinja raises."""
        self._steps = MAX_STEPS
        left = MAX_OUTPUT
        chunks = []
        for chunk in self.get_template(name).generate(values):
            left -= len(chunk)
            if left < 0:
                raise TooMuch(f"writes more than {MAX_OUTPUT} characters")
            chunks.append(chunk)
        return "".join(chunks)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in tree.find_all(_REFUSED):
            what = type(node).__name__.lower()
            raise TemplateSyntaxError(f"ogen's templates have no {what}", node.lineno, name, filename)
        for loop in tree.find_all(nodes.For):
            if loop.recursive:
                raise TemplateSyntaxError("a loop can't be recursive here", loop.lineno, name, filename)
            loop.iter = _filtered(loop.iter, "_counted")
        bounded: nodes.Template = _Literals().visit(tree)
        bounded.set_environment(self)
        return bounded

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        """`values`, each for one step; an undefined one fails here and says its name."""
        for value in values:
            self._step()
            yield value

    def _step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise TooMuch(f"runs for more than {MAX_STEPS} steps")

    # ---- what Jinja's sandbox asks at run time
    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, (str, bytes)):
            return attr in _STRING_METHODS
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """`"{:9999999999}".format(1)` is not offered; everything else is not a format method."""
        if isinstance(getattr(value, "__self__", None), str) and value.__name__ in ("format", "format_map"):
            raise SecurityError("text has no format method here")

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        __self._step()
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, str) and isinstance(right, str) and operator == "+":
            return _join((left, right))
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if operator == "**" or not numbers or max(abs(left), abs(right)) > MAX_NUMBER:
            raise SecurityError(f"{operator} is not offered for these values")
        return super().call_binop(context, operator, left, right)


class _Literals(NodeTransformer):
    """Bounds what a template can build: `a ~ b` is a join, and lists, tuples and dicts hold no others."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802  (the visitor's naming)
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "join")

    def visit_List(self, node: nodes.List) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, "_flat")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, "_flat")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return node if node.ctx == "store" else _filtered(node, "_flat")


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _flat(values: Any) -> Any:
    """A list, tuple or dict that was made in a template: doubling one in another would grow for ever."""
    for value in (*values, *values.values()) if isinstance(values, dict) else values:
        if not isinstance(value, (str, int, float, type(None))):
            raise TooMuch("makes a list of lists")
    return values


def _join(values: Iterable[Any], between: str = "") -> str:
    texts = [str(value) for value in _flat(list(values))]
    if sum(map(len, texts)) + len(between) * len(texts) > MAX_TEXT:
        raise TooMuch(f"makes a text of more than {MAX_TEXT} characters")
    return between.join(texts)
