"""YAML text in which single values change: everything else stays as it is, to the last blank."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Key = tuple[str | int, ...]
Value = bool | int | float | str

_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./:+@%-]*[A-Za-z0-9_./%+-]|[A-Za-z0-9_]")
_OTHER = re.compile(r"(?i)true|false|null|~|[-+]?\.?[0-9][0-9_.eE+-]*|0x[0-9a-f]+|0o[0-7]+|\.inf|\.nan")


class Unfit(Exception):
    """The change can't be made in this text."""


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML file's text."""

    text: str

    def scalars(self) -> list[tuple[Key, str]]:
        """Every scalar value with its path, in the order of the text."""
        found: list[tuple[Key, str]] = []
        todo: list[tuple[Key, Any]] = [((), self._root())]
        while todo:
            path, node = todo.pop()
            if node is None:
                continue
            if node.id == "scalar":
                found.append((path, str(node.value)))
            elif node.id == "sequence":
                todo += [((*path, n), child) for n, child in reversed(list(enumerate(node.value)))]
            else:
                todo += [((*path, str(key.value)), child) for key, child in reversed(node.value)]
        return found

    def depth(self, path: Key) -> int:
        """How many steps of `path` exist."""
        node, depth = self._root(), 0
        for step in path:
            node = _child(node, step)
            if node is None:
                break
            depth += 1
        return depth

    def set(self, path: Key, value: Value) -> Document:
        """The value at `path` replaced, or added with the maps that lead to it. Raises Unfit."""
        node, depth, key = self._root(), 0, None
        while depth < len(path):
            child = _child(node, path[depth])
            if child is None:
                return self._added(node, key, path[depth:], value)
            key, node, depth = _key_of(node, path[depth]), child, depth + 1
        empty = node is None or node.start_mark.index == node.end_mark.index
        if empty or node.id != "scalar" or node.style in ("|", ">") or _tagged(node):
            raise Unfit("no plain value stands there")
        return self._replaced(node, scalar(value, node.style or ""))

    def unset(self, path: Key) -> Document:
        """The key at `path`, and what it holds, removed; its map must keep another one. Raises Unfit."""
        parent = self._root()
        for step in path[:-1]:
            parent = _child(parent, step)
        if parent is None or parent.id != "mapping" or len(parent.value) < 2:
            raise Unfit("the map would be empty")
        keys = [str(key.value) for key, _ in parent.value]
        if path[-1] not in keys:
            raise Unfit("no such key")
        number = keys.index(str(path[-1]))
        key, child = parent.value[number]
        start, end = key.start_mark.index, child.end_mark.index
        if parent.flow_style:
            if number + 1 < len(keys):
                end = parent.value[number + 1][0].start_mark.index
            else:
                start = parent.value[number - 1][1].end_mark.index
            return Document(self.text[:start] + self.text[end:])
        if "\n" in self.text[start:end].rstrip("\n") or (child.id == "scalar" and child.style in ("|", ">")):
            raise Unfit("more than one line")
        line = self.text.rfind("\n", 0, start) + 1
        if self.text[line:start].strip():
            raise Unfit("the key does not begin its line")
        after = self.text.find("\n", end)
        return Document(self.text[:line] + (self.text[after + 1 :] if after >= 0 else ""))

    # ------------------------------------------------------------------------------ inside
    def _root(self) -> Any:
        return _composed(self.text)

    def _replaced(self, node: Any, text: str) -> Document:
        return Document(self.text[: node.start_mark.index] + text + self.text[node.end_mark.index :])

    def _added(self, node: Any, key: Any, path: Key, value: Value) -> Document:
        if key is not None and node.id == "scalar" and node.start_mark.index == node.end_mark.index:
            colon = self.text.index(":", key.end_mark.index) + 1  # `key:` with nothing behind it
            return Document(f"{self.text[:colon]} {_flow(path, value)}{self.text[colon:]}")
        if node is None or node.id != "mapping" or not all(isinstance(step, str) for step in path):
            raise Unfit("no map stands there")
        entry = f"{_key(path[0])}: {_flow(path[1:], value)}"
        if node.flow_style:
            return self._into_flow(node, entry)
        return self._into_block(node, entry)

    def _into_flow(self, node: Any, entry: str) -> Document:
        if not node.value:
            return self._replaced(node, "{" + entry + "}")
        end = node.value[-1][1].end_mark.index
        return Document(f"{self.text[:end]}, {entry}{self.text[end:]}")

    def _into_block(self, node: Any, entry: str) -> Document:
        """After the last key if that is one line, else before the first."""
        indent = " " * node.value[0][0].start_mark.column
        key, last = node.value[-1]
        start, end = key.start_mark.index, last.end_mark.index
        text = self.text
        if "\n" not in text[start:end] and (last.id == "scalar" or last.flow_style):
            stop = text.find("\n", end)
            stop = len(text) if stop < 0 else stop
            return Document(f"{text[:stop]}\n{indent}{entry}{text[stop:]}")
        first = node.value[0][0].start_mark.index
        return Document(f"{text[:first]}{entry}\n{indent}{text[first:]}")


@lru_cache(maxsize=64)
def _composed(text: str) -> Any:
    import ruamel.yaml

    for pure in (False, True):  # libyaml does not take [llama3:8b], ruamel's own slow parser does
        try:
            return ruamel.yaml.YAML(typ="safe", pure=pure).compose(text)
        except ruamel.yaml.error.YAMLError:
            continue
    raise Unfit("not YAML")


def _child(node: Any, step: str | int) -> Any:
    if node is None or node.id == "scalar":
        return None
    if node.id == "sequence":
        inside = isinstance(step, int) and step < len(node.value)
        return node.value[step] if inside else None
    return next((child for key, child in node.value if str(key.value) == str(step)), None)


def _key_of(node: Any, step: str | int) -> Any:
    pairs = node.value if node.id == "mapping" else ()
    return next((key for key, _ in pairs if str(key.value) == str(step)), None)


def _tagged(node: Any) -> bool:
    tag = str(getattr(node.tag, "trval", None) or node.tag or "")
    return tag.startswith("!") and tag != "!"


def _flow(path: Sequence[str | int], value: Value) -> str:
    if not path:
        return scalar(value)
    return "{" + f"{_key(path[0])}: {_flow(path[1:], value)}" + "}"


def _key(key: str | int) -> str:
    return scalar(str(key))


def scalar(value: Value, quote: str = "") -> str:
    """A value as YAML, in the quotes that the old one had; text that could be something else gets some."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)
    if quote == "'" and value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    plain = _PLAIN.fullmatch(value) and not _OTHER.fullmatch(value)
    return value if plain and not quote else json.dumps(value, ensure_ascii=False)
