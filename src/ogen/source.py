"""YAML text to values that know their place: inventories, playbooks and catalog cards alike.

Events are composed one by one, so that depth and size are bounded before anything is built, and
scalars follow YAML 1.2's core schema: `yes` is text, `0644` is the number 644, `1:30` is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import OgenError, Problems, SourceError, Text, Where

MAX_BYTES = 32 * 1024 * 1024
MAX_DEPTH = 48
MAX_SLOW = 1024 * 1024  # characters that the slow parser may get: it takes 10 s for that
MAX_NODES = 2_000_000  # after aliases are followed


@dataclass(frozen=True, slots=True)
class Node:
    """One YAML value. `value` is a scalar, a dict of Nodes or a list of Nodes."""

    value: Any
    where: Where
    tag: str | None = None  # "!env" and the like; YAML's own tags are resolved
    text: str = ""  # a scalar as it was written
    quoted: bool = False
    keys: Mapping[str, Where] = field(default_factory=dict)  # of a mapping: where each key stands

    @property
    def is_map(self) -> bool:
        return isinstance(self.value, dict)

    @property
    def is_list(self) -> bool:
        return isinstance(self.value, list)

    @property
    def is_scalar(self) -> bool:
        return not isinstance(self.value, (dict, list))

    def get(self, key: str) -> Node | None:
        """The value under `key` of a mapping; None where there is none."""
        found: Node | None = self.value.get(key) if isinstance(self.value, dict) else None
        return found

    def items(self) -> Iterator[tuple[str, Node]]:
        yield from self.value.items() if isinstance(self.value, dict) else ()

    def plain(self) -> Any:
        """Python values without places; a tagged scalar stays a Node."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self if self.tag else self.value

    def at(self, path: tuple[str | int, ...]) -> Node:
        """The node at `path`, or the nearest one above it that exists."""
        node = self
        for step in path:
            try:
                node = node.value[step]
            except (KeyError, IndexError, TypeError):
                break
        return node

    def where_of(self, path: tuple[str | int, ...]) -> Where:
        """Where the key (of a mapping) or the item (of a list) at `path` stands."""
        parent = self.at(path[:-1])
        if path and isinstance(path[-1], str) and path[-1] in parent.keys:
            return parent.keys[path[-1]]
        return self.at(path).where


def read(path: Path, name: str | None = None) -> Node:
    """Composes the file at `path`; `name` is what messages call it."""
    shown = name or str(path)
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise SourceError(f"{shown}: {(error.strerror or str(error)).lower()}") from None
    if size > MAX_BYTES:
        raise SourceError(f"{shown}: {size} bytes is more than the {MAX_BYTES} that a file may have")
    return parse(data, shown)


def parse(data: str | bytes, name: str) -> Node:
    """Composes one YAML document; raises SourceError, or Problems when several keys are doubled."""
    if isinstance(data, bytes):
        data = _decode(data, name)
    text = Text(name, data.splitlines() or [""])
    problems: list[OgenError] = []
    node = _compose(data, text, problems)
    if problems:
        raise problems[0] if len(problems) == 1 else Problems(problems)
    return node


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        lines = data.decode("utf-8", "replace").splitlines()
        raise SourceError(
            "not UTF-8 text", where=Where(Text(name, lines), line, column), hint="save the file as UTF-8"
        ) from None


# ------------------------------------------------------------------------------------ composing
@dataclass(slots=True)
class _Frame:
    """A collection under construction."""

    where: Where
    tag: str | None
    anchor: str | None
    is_map: bool
    value: Any
    keys: dict[str, Where] = field(default_factory=dict)
    merges: list[Node] = field(default_factory=list)
    key: tuple[str, Where] | None = None
    size: int = 1


def _compose(data: str, text: Text, problems: list[OgenError]) -> Node:
    """libyaml is fast but reads YAML 1.1, where `[llama3:8b]` is an error; 1.2 allows it.

    So where that is met, such colons go past the parser as another character; where that does not
    help, or the text has that character itself, ruamel's own slow parser reads it.
    """
    try:
        return _Composer(text, problems).run(_events(data))
    except _FlowColon:
        problems.clear()
    if _COLON not in data:
        try:
            return _Composer(text, problems, _COLON).run(_events(_INNER_COLON.sub(_COLON, data)))
        except _FlowColon:
            problems.clear()
    slowly = len(data) <= MAX_SLOW  # else the colon is told as the mistake that it is to libyaml
    return _Composer(text, problems).run(_events(data, pure=slowly), last=True)


_COLON = "\ue000"  # of the private use area; its width is 1, so places stay right
_INNER_COLON = re.compile(r"(?<=[^\s,\[\]{}\"']):(?=[^\s,\[\]{}])")


# YAML 1.2, production [1], without line ends
_UNREADABLE = "[^\t\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"

_HINTS = {
    "mapping values are not allowed": "put a text with ': ' in quotes, or correct the indentation",
    "cannot start any token": "put the text in quotes",
    "expected node content": "a value is missing here, or a bracket before it is not closed",
    "could not find expected ':'": "a key needs ':' and a space after it",
    "did not find expected key": "check the indentation",
    "did not find expected '-' indicator": "check the indentation",
    "expected ',' or": "close the bracket that is opened here",
    "unexpected end of stream": "close the quote that is opened here",
    "found unexpected ':'": "put the text in quotes",
    "found undefined tag handle": "there are !env, !file and !command, for secrets",
}


class _FlowColon(Exception):
    """A colon inside of a plain text in [] or {}, which libyaml does not take."""


class _Composer:
    """Builds Nodes from the parser's events, without recursion."""

    def __init__(self, text: Text, problems: list[OgenError], colon: str = "") -> None:
        self.text = text
        self.colon = colon  # what stands for ":" in scalars
        self.problems = problems
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Node, int]] = {}
        self.open_anchors: set[str] = set()
        self.root: Node | None = None
        self.nodes = 0

    def run(self, events: Iterator[Any], *, last: bool = False) -> Node:
        from ruamel.yaml.error import MarkedYAMLError, YAMLError

        try:
            for event in events:
                self._take(event)
        except MarkedYAMLError as error:
            if not last and error.problem == "found unexpected ':'":
                raise _FlowColon from None
            raise self._syntax(error) from None
        except YAMLError as error:
            raise self._unreadable(error) from None
        if self.root is None:
            return Node(None, Where(self.text, 1, 1))
        return self.root

    def _where(self, mark: Any) -> Where:
        return Where(self.text, mark.line + 1, mark.column + 1)

    def _syntax(self, error: Any) -> SourceError:
        problem, hint = str(error.problem or "not YAML"), None
        mark = error.problem_mark or error.context_mark
        for words, mended in _HINTS.items():
            if words in problem:
                hint = mended
        if error.context_mark and ("end of stream" in problem or "expected ',' or" in problem):
            mark = error.context_mark  # where the quote or bracket was opened
        where = self._where(mark) if mark else None
        line = self.text.lines[where.line - 1] if where and where.line <= len(self.text.lines) else ""
        if "\t" in line[: len(line) - len(line.lstrip())] or ("any token" in problem and "\t" in line):
            problem, hint = "a tab where YAML wants spaces", "indent with spaces"
        return SourceError(problem, where=where, hint=hint)

    def _unreadable(self, error: Any) -> SourceError:
        where = Where(self.text, 1, 1)
        unreadable = re.compile(_UNREADABLE)  # takes 5 ms, and is hardly ever needed
        for number, line in enumerate(self.text.lines, 1):
            bad = unreadable.search(line)
            if bad is not None:
                where = Where(self.text, number, bad.start() + 1)
                break
        return SourceError(
            "a character that YAML does not allow", where=where, hint="remove control characters"
        )

    # ---- events
    def _take(self, event: Any) -> None:
        kind = type(event).__name__
        if kind == "ScalarEvent":
            self._add(self._scalar(event), event.anchor, 1)
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            self._open(event, kind == "MappingStartEvent")
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            self._close()
        elif kind == "AliasEvent":
            self._alias(event)
        elif kind == "DocumentStartEvent" and self.root is not None:
            raise SourceError("a second document in one file", where=self._where(event.start_mark))

    def _open(self, event: Any, is_map: bool) -> None:
        where = self._where(event.start_mark)
        if len(self.stack) >= MAX_DEPTH:
            raise SourceError(f"nested more than {MAX_DEPTH} deep", where=where)
        if self._wants_key():
            raise SourceError("a key must be plain text, not a list or a map", where=where)
        if event.anchor:
            self.open_anchors.add(event.anchor)
        tag = _own_tag(event.tag)
        _yaml_tag(event.tag, ("map",) if is_map else ("seq",), where)
        self.stack.append(_Frame(where, tag, event.anchor, is_map, {} if is_map else []))

    def _close(self) -> None:
        frame = self.stack.pop()
        for merged in frame.merges:
            for key, node in merged.items():
                if key not in frame.value:
                    frame.value[key] = node
                    frame.keys[key] = merged.keys[key]
        if frame.anchor:
            self.open_anchors.discard(frame.anchor)
        self._add(Node(frame.value, frame.where, frame.tag, keys=frame.keys), frame.anchor, frame.size)

    def _alias(self, event: Any) -> None:
        where = self._where(event.start_mark)
        if event.anchor in self.open_anchors:
            raise SourceError(f"*{event.anchor} holds itself", where=where)
        if event.anchor not in self.anchors:
            raise SourceError(f"*{event.anchor} has no anchor before it", where=where)
        node, size = self.anchors[event.anchor]
        self._add(node, None, size, where)

    def _wants_key(self) -> bool:
        return bool(self.stack) and self.stack[-1].is_map and self.stack[-1].key is None

    def _add(self, node: Node, anchor: str | None, size: int, where: Where | None = None) -> None:
        self.nodes += size
        if anchor:
            self.anchors[anchor] = (node, size)
        if not self.stack:
            self.root = node
            return
        frame = self.stack[-1]
        frame.size += size
        if frame.size > MAX_NODES:
            raise SourceError(
                f"more than {MAX_NODES} values once aliases are followed", where=where or node.where
            )
        if not frame.is_map:
            frame.value.append(node)
        elif frame.key is None:
            frame.key = self._key(node, where or node.where)
        else:
            self._pair(frame, node)

    def _key(self, node: Node, where: Where) -> tuple[str, Where]:
        if not node.is_scalar or node.tag:
            raise SourceError("a key must be plain text", where=where)
        return ("\0<<" if node.text == "<<" and not node.quoted else node.text), where

    def _pair(self, frame: _Frame, node: Node) -> None:
        assert frame.key is not None
        (key, where), frame.key = frame.key, None
        if key == "\0<<":
            merged = node.value if node.is_list else [node]
            if not all(m.is_map for m in merged):
                raise SourceError("<< merges maps only", where=where)
            frame.merges.extend(merged)
        elif key in frame.value:
            first = frame.keys[key]
            self.problems.append(
                SourceError(
                    f"the key {key!r} is given twice",
                    where=where,
                    hint=f"the first one is in line {first.line}; keep one",
                )
            )
        else:
            frame.value[key], frame.keys[key] = node, where

    def _scalar(self, event: Any) -> Node:
        where, tag, written = self._where(event.start_mark), _own_tag(event.tag), event.value
        if self.colon:
            written = written.replace(self.colon, ":")
        quoted = event.style in ("'", '"', "|", ">")
        value = written if quoted or tag else _resolve(written)
        forced = _yaml_tag(event.tag, ("str", "int", "float", "bool", "null"), where)
        if forced is not None:
            value = written if forced == "str" else _resolve(written)
            quoted = forced == "str"
        return Node(value, where, tag, written, quoted)


def _events(data: str, *, pure: bool = False) -> Iterator[Any]:
    import ruamel.yaml

    yaml = ruamel.yaml.YAML(typ="safe", pure=pure)
    yield from yaml.parse(data)


def _tag_text(tag: Any) -> str | None:
    return None if tag is None else str(getattr(tag, "trval", None) or tag)


def _own_tag(tag: Any) -> str | None:
    text = _tag_text(tag)
    return text if text and not text.startswith("tag:yaml.org,2002:") and text != "!" else None


def _yaml_tag(tag: Any, known: tuple[str, ...], where: Where) -> str | None:
    """The name of one of YAML's own tags; raises SourceError for one that is not `known`."""
    text = _tag_text(tag)
    if not text or not text.startswith("tag:yaml.org,2002:"):
        return None
    name = text.removeprefix("tag:yaml.org,2002:")
    if name not in known:
        raise SourceError(f"the tag !!{name} can't stand here", where=where, hint="remove it")
    return name


_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def _resolve(text: str) -> Any:
    """A plain scalar by YAML 1.2's core schema; numbers of absurd length stay text."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > 40:
        return text
    if _INT.fullmatch(text):
        return int(text)
    if re.fullmatch(r"0o[0-7]+", text):
        return int(text[2:], 8)
    if re.fullmatch(r"0x[0-9a-fA-F]+", text):
        return int(text[2:], 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
