"""Cards that `ogen catalog add` makes: one YAML file for each model, a kilobyte or two."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from .. import source
from ..errors import CatalogError
from ..source import Node
from .shape import ModelShape

FOLDER = "cards"
_LISTS = ("kv_heads", "windowed", "recurrent", "block_bytes", "expert_bytes", "largest_tensor")
_TEXTS = ("name", "arch", "quant", "source")
_FLAGS = ("post_norms", "sinks", "fused_qkv", "tied")
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}")


def dump(shape: ModelShape) -> str:
    """The card of a shape as YAML; lists are written as runs: [count, value, …]."""
    lines = ["# made by `ogen catalog add`; lists hold runs: [count, value, …]"]
    for item in fields(ModelShape):
        value = getattr(shape, item.name)
        if item.name in _LISTS:
            lines.append(f"{item.name}: [{', '.join(map(str, _runs(value)))}]")
        elif item.name == "tags":
            lines.append(f"tags: [{', '.join(map(_quoted, value))}]")
        elif item.name in _TEXTS:
            lines.append(f"{item.name}: {_quoted(value)}")
        else:
            lines.append(f"{item.name}: {str(value).lower()}")
    return "\n".join(lines) + "\n"


def load(path: Path) -> ModelShape:
    """The shape on a card; raises SourceError or CatalogError with the place of a mistake."""
    node = source.read(path)
    known = {item.name for item in fields(ModelShape)}
    for key in node.value if node.is_map else ():
        if key not in known:
            raise CatalogError(f"a card has no {key!r}", where=node.keys[key])
    values = {item.name: _field(node, item.name) for item in fields(ModelShape)}
    blocks = values["blocks"]
    for name in _LISTS:
        if len(values[name]) != blocks:
            raise CatalogError(
                f"{name} has {len(values[name])} entries for {blocks} blocks", where=node.where_of((name,))
            )
    return ModelShape(**values)


def stamps(folder: Path) -> tuple[tuple[str, int], ...]:
    """The card files in `folder`/cards with their times, by name."""
    found = sorted((folder / FOLDER).glob("*.yaml"))
    return tuple((path.name, path.stat().st_mtime_ns) for path in found)


def _field(node: Node, name: str) -> Any:
    found = node.get(name)
    if found is None:
        raise CatalogError(f"the card has no {name!r}", where=node.where)
    value = found.plain()
    if name in _LISTS:
        value = _unrolled(value)
        wanted = value is not None
    elif name == "tags":
        wanted = isinstance(value, list) and all(isinstance(v, str) for v in value)
        value = tuple(value) if wanted else ()
    elif name in _TEXTS:
        wanted = isinstance(value, str)
    elif name in _FLAGS:
        wanted = isinstance(value, bool)
    else:
        wanted = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**50
    if not wanted:
        raise CatalogError(f"{name} has an impossible value", where=found.where)
    return value


def _runs(values: Sequence[int | bool]) -> list[int]:
    runs: list[int] = []
    for value, group in itertools.groupby(values):
        runs += [len(list(group)), int(value)]
    return runs


def _unrolled(runs: Any) -> tuple[int, ...] | None:
    """The list behind its runs; None where they are none."""
    if not isinstance(runs, list) or len(runs) % 2 or not all(type(r) is int and r >= 0 for r in runs):
        return None
    if sum(runs[::2]) > 4096:
        return None
    return tuple(value for count, value in zip(runs[::2], runs[1::2], strict=True) for _ in range(count))


def _quoted(text: str) -> str:
    return '"' + re.sub(r'[\\"\x00-\x1f\x7f]', "?", text) + '"'


def file_name(name: str) -> str:
    """A file name for the card of a model called `name`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:100] + ".yaml"


def checked_name(name: str) -> str:
    """`name` where it can name a card; raises CatalogError."""
    if not _SAFE.fullmatch(name):
        raise CatalogError(f"{name[:60]!r} can't name a card", hint="letters, digits and . _ - : / only")
    return name
