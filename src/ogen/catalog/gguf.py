"""The header of a GGUF file: metadata and the table of tensors, read within bounds on time and memory.

Format: magic, version, counts, key-value pairs, tensor infos (ggml's docs/gguf.md; versions 2 and 3,
both byte orders). A tokenizer's arrays of some megabytes are walked over and never kept.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ..errors import CatalogError
from .shape import ModelShape, shape_of
from .tensors import BLOCKS, TYPE_NAMES, Tensor

MAX_HEADER = 256 * 1024 * 1024  # bytes walked over
MAX_KEPT = 32 * 1024 * 1024  # bytes of values kept, as they stand in the file
MAX_ITEMS = 8_000_000  # strings and lists walked over
MAX_PAIRS = 16_384
MAX_TENSORS = 131_072
MAX_STRING = 1024 * 1024
MAX_ARRAY = 8192  # longer arrays are skipped
MAX_PARTS = 512
_WINDOW = 256 * 1024
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


class Source(Protocol):
    """Bytes at an offset: a file, or a server that answers range requests."""

    name: str

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes at `offset`; fewer only where the source ends."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """An array too long to keep."""

    length: int


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the weights."""

    version: int
    metadata: Mapping[str, Any]
    tensors: tuple[Tensor, ...]
    size: int  # bytes of the header itself

    def shape(self, name: str = "", source: str = "") -> ModelShape:
        """The model's shape; raises CatalogError where the header tells of no language model."""
        return shape_of(self.metadata, self.tensors, name=name, source=source)


class FileSource:
    """A GGUF file on this machine."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self._file = file

    def read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)


def read(path: Path) -> Header:
    """The header of the file at `path`, joined with those of its other parts where it is split."""
    paths = _parts(path)
    headers = [_read_one(part) for part in paths]
    return join(headers, str(path)) if len(headers) > 1 else _whole(headers[0], path)


def _read_one(path: Path) -> Header:
    try:
        with path.open("rb") as file:
            return parse(FileSource(file, str(path)))
    except OSError as error:
        raise CatalogError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def _parts(path: Path) -> list[Path]:
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match[3])
    if not 1 <= count <= MAX_PARTS:
        raise CatalogError(f"{path}: a model of {count} parts")
    return [path.with_name(f"{match[1]}-{n:05d}-of-{count:05d}.gguf") for n in range(1, count + 1)]


def _whole(header: Header, path: Path) -> Header:
    if header.metadata.get("split.count", 0) in (0, 1):
        return header
    raise CatalogError(
        f"{path} is one part of {header.metadata['split.count']}",
        hint="keep the parts together under their own names: NAME-00001-of-00003.gguf",
    )


def join(headers: list[Header], name: str) -> Header:
    """One header of a split model's parts; raises CatalogError where parts do not belong together."""
    first = headers[0]
    tensors = tuple(t for header in headers for t in header.tensors)
    for number, header in enumerate(headers):
        if header.metadata.get("split.no", number) != number:
            raise CatalogError(f"{name}: part {number + 1} says that it is another part")
    expected = first.metadata.get("split.tensors.count", len(tensors))
    if expected != len(tensors) or len({t.name for t in tensors}) != len(tensors):
        raise CatalogError(f"{name}: the parts hold {len(tensors)} tensors, {expected} belong to the model")
    return Header(first.version, first.metadata, tensors, sum(h.size for h in headers))


def parse(source: Source) -> Header:
    """The header at the start of `source`; any mistake in it is a CatalogError."""
    cursor = _Cursor(source)
    version = cursor.start()
    tensor_count = cursor.count("tensors", MAX_TENSORS)
    pair_count = cursor.count("key-value pairs", MAX_PAIRS)
    metadata: dict[str, Any] = {}
    for _ in range(pair_count):
        key = cursor.text(65_535)
        if key in metadata:
            raise cursor.error(f"the key {_shown(key)} is given twice")
        metadata[key] = _value(cursor, cursor.number("I"), 0)
    tensors = tuple(_tensor(cursor) for _ in range(tensor_count))
    if len({t.name for t in tensors}) != len(tensors):
        raise cursor.error("two tensors have one name")
    return Header(version, metadata, tensors, cursor.position)


def _tensor(cursor: _Cursor) -> Tensor:
    name = cursor.text(256)
    rank = cursor.number("I")
    if not 1 <= rank <= 4:
        raise cursor.error(f"the tensor {_shown(name)} has {rank} dimensions")
    dims = tuple(cursor.number("Q") for _ in range(rank))
    number = cursor.number("I")
    cursor.number("Q")  # the offset of its data, which nothing here needs
    type_name = TYPE_NAMES.get(number)
    if type_name is None:
        raise cursor.error(f"the tensor {_shown(name)} has the unknown type {number}")
    if min(dims) < 1 or math.prod(dims) > 2**48 or dims[0] % BLOCKS[type_name][0]:
        raise cursor.error(f"the tensor {_shown(name)} has impossible dimensions for {type_name}")
    return Tensor(name, dims, type_name)


def _value(cursor: _Cursor, kind: int, depth: int) -> Any:
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind])
    if kind == _STRING:
        return cursor.text(MAX_STRING)
    if kind == _ARRAY and depth < 3:
        return _array(cursor, depth)
    raise cursor.error(f"a value has the unknown type {kind}" if kind != _ARRAY else "lists nested too deep")


def _array(cursor: _Cursor, depth: int) -> Any:
    kind, length = cursor.number("I"), cursor.number("Q")
    if kind in _SCALARS:
        width = struct.calcsize("=" + _SCALARS[kind])
        if length <= MAX_ARRAY:
            return cursor.numbers(_SCALARS[kind], length)
        cursor.skip(length * width)
        return Skipped(length)
    if kind not in (_STRING, _ARRAY):
        raise cursor.error(f"a list has items of the unknown type {kind}")
    cursor.walk(length)
    for _ in range(length):
        if kind == _STRING:
            cursor.skip(cursor.number("Q"))
        else:
            _value(cursor, _ARRAY, depth + 1)
    return Skipped(length)


def _shown(text: str) -> str:
    """A name from the file, safe to print."""
    return repr(text if len(text) <= 60 else text[:60] + "…")


class _Cursor:
    """Reads forward through a window over the source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.position = 0
        self._order = "<"
        self._base = 0
        self._window = b""
        self._items = 0
        self._kept = 0

    def error(self, message: str) -> CatalogError:
        return CatalogError(f"{self.source.name}: {message}", hint="the GGUF header is damaged or hostile")

    def start(self) -> int:
        """Magic and version; sets the byte order."""
        if self._take(4) != b"GGUF":
            raise CatalogError(f"{self.source.name} is no GGUF file")
        raw = self._take(4)
        self._order = "<" if raw[:2] != b"\0\0" else ">"
        version = int(struct.unpack(self._order + "I", raw)[0])
        if version not in (2, 3):
            raise CatalogError(f"{self.source.name}: GGUF version {version}; known are 2 and 3")
        return version

    def count(self, what: str, most: int) -> int:
        value = int(self.number("Q"))
        if value > most:
            raise self.error(f"{value} {what}, at most {most} are allowed")
        return value

    def number(self, code: str) -> Any:
        return struct.unpack(self._order + code, self._take(struct.calcsize("=" + code)))[0]

    def numbers(self, code: str, length: int) -> tuple[Any, ...]:
        data = self._take(struct.calcsize("=" + code) * length)
        self._keep(len(data))
        return struct.unpack(f"{self._order}{length}{code}", data)

    def text(self, most: int) -> str:
        length = int(self.number("Q"))
        if length > most:
            raise self.error(f"a text of {length} bytes, at most {most} are allowed")
        self._keep(length)
        return self._take(length).decode("utf-8", "replace")

    def walk(self, items: int) -> None:
        self._items += items
        if self._items > MAX_ITEMS:
            raise self.error(f"lists of more than {MAX_ITEMS} items")

    def skip(self, length: int) -> None:
        self.position += length
        if self.position > MAX_HEADER:
            raise self.error(f"the header is longer than {MAX_HEADER} bytes")

    def _keep(self, length: int) -> None:
        self._kept += length
        if self._kept > MAX_KEPT:
            raise self.error(f"values of more than {MAX_KEPT} bytes")

    def _take(self, length: int) -> bytes:
        start = self.position - self._base
        if start < 0 or start + length > len(self._window):
            self._window = self.source.read(self.position, max(length, _WINDOW))
            self._base, start = self.position, 0
            if len(self._window) < length:
                raise self.error(f"the file ends within the header, at byte {self.position}")
        self.skip(length)
        return self._window[start : start + length]
