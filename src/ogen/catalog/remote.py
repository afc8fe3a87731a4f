"""GGUF headers from elsewhere: by HTTP range requests, from `/api/show`, from a file on a host."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urljoin, urlsplit

from ..errors import CatalogError
from .gguf import MAX_PARTS, MAX_TENSORS, Header, join, parse
from .shape import ModelShape, shape_of
from .tensors import FILE_TYPES, Tensor, parse_type

TIMEOUT = 30.0  # seconds for each request
MAX_REDIRECTS = 5
MAX_SHOW = 256 * 1024 * 1024  # bytes of an answer to /api/show
_READ_AHEAD = 1024 * 1024
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


class HttpSource:
    """A file on a web server, read in ranges of about a megabyte; redirects are followed."""

    def __init__(self, url: str) -> None:
        self.name = _printable(url)
        self._url = url
        self._start = 0
        self._data = b""

    def read(self, offset: int, length: int) -> bytes:
        """Bytes at `offset`, fewer only at the end; raises CatalogError."""
        end = self._start + len(self._data)
        if not self._start <= offset or offset + length > end:
            self._data = self._fetch(offset, max(length, _READ_AHEAD))
            self._start = offset
        begin = offset - self._start
        return self._data[begin : begin + length]

    def _fetch(self, offset: int, length: int) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            status, headers, body = self._request(offset, length)
            if status in (301, 302, 303, 307, 308):
                self._url = urljoin(self._url, headers.get("location", ""))
                continue
            return self._checked(status, headers, body, offset, length)
        raise CatalogError(f"{self.name}: more than {MAX_REDIRECTS} redirects")

    def _checked(
        self, status: int, headers: Mapping[str, str], body: bytes, offset: int, length: int
    ) -> bytes:
        if status == 416:
            return b""
        if status == 200 and offset == 0:
            return body[:length]
        if status == 200:
            raise CatalogError(f"{self.name}: the server does not answer range requests")
        if status != 206:
            hint = "is it public?" if status in (401, 403) else None
            raise CatalogError(f"{self.name}: the server answered {status}", hint=hint)
        if not headers.get("content-range", "").startswith(f"bytes {offset}-"):
            raise CatalogError(f"{self.name}: the server sent another range than was asked for")
        return body[:length]

    def _request(self, offset: int, length: int) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(self._url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = _connection(self._url, self.name)
        try:
            headers = {"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity"}
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            found = {key.lower(): value for key, value in answer.getheaders()}
            return answer.status, found, answer.read(length)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CatalogError(f"{self.name}: {_printable(str(error)) or 'no answer'}") from None
        finally:
            connection.close()


def read_url(url: str) -> Header:
    """The header of the GGUF file at `url`, with all parts where it is split; raises CatalogError."""
    match = _PART.fullmatch(url)
    if match is None:
        return parse(HttpSource(url))
    count = int(match[3])
    if not 1 <= count <= MAX_PARTS:
        raise CatalogError(f"{_printable(url)}: a model of {count} parts")
    urls = [f"{match[1]}-{n:05d}-of-{match[3]}.gguf" for n in range(1, count + 1)]
    return join([parse(HttpSource(each)) for each in urls], _printable(url))


def _connection(url: str, name: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\x00-\x1f]", url):
        raise CatalogError(f"{name}: no http or https address")
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return make(host, port, timeout=TIMEOUT)


def _printable(text: str) -> str:
    """Text from elsewhere without control characters, and no longer than a line."""
    return re.sub(r"[^\x20-\x7e]", "?", text)[:200]


# --------------------------------------------------------------------------------------- /api/show
def from_show(answer: Mapping[str, Any], name: str) -> ModelShape:
    """The shape of a model that an Ollama server already has, from `POST /api/show` with verbose on.

    Without `verbose` an answer has no tensors and null arrays; that is a CatalogError that says so.
    """
    metadata, listed = answer.get("model_info"), answer.get("tensors")
    if not isinstance(metadata, Mapping) or not isinstance(listed, list) or not listed:
        raise CatalogError(f"{name}: the answer lists no tensors", hint='ask /api/show with "verbose": true')
    if len(listed) > MAX_TENSORS:
        raise CatalogError(f"{name}: {len(listed)} tensors are more than a model has")
    tensors = [_shown_tensor(item, name) for item in listed]
    return shape_of(_with_file_type(metadata), tensors, name=name, source="/api/show of a running Ollama")


def _with_file_type(metadata: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(metadata)
    number = values.get("general.file_type")
    if isinstance(number, float) and number.is_integer() and int(number) in FILE_TYPES:
        values["general.file_type"] = int(number)
    return values


def _shown_tensor(item: Any, name: str) -> Tensor:
    """One entry {"name", "type", "shape"}; Ollama lists dimensions fastest first, as the file does."""
    if isinstance(item, Mapping):
        label, kind, dims = item.get("name"), item.get("type"), item.get("shape")
        sound = isinstance(dims, list) and 1 <= len(dims) <= 4
        if isinstance(label, str) and isinstance(kind, str) and isinstance(dims, list) and sound:
            counts = [d for d in dims if isinstance(d, int) and not isinstance(d, bool) and 0 < d < 2**40]
            if len(counts) == len(dims):
                return Tensor(label, tuple(counts), parse_type(kind))
    raise CatalogError(f"{name}: /api/show lists a tensor that makes no sense")


def show(base_url: str, model: str) -> ModelShape:
    """Asks the Ollama server at `base_url` for `model`; raises CatalogError."""
    parts = urlsplit(base_url)
    connection = _connection(base_url, _printable(base_url))
    body = json.dumps({"model": model, "verbose": True})
    try:
        path = parts.path.rstrip("/") + "/api/show"
        connection.request("POST", path, body=body, headers={"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read(MAX_SHOW + 1)
    except (OSError, http.client.HTTPException) as error:
        raise CatalogError(f"{_printable(base_url)}: {_printable(str(error)) or 'no answer'}") from None
    finally:
        connection.close()
    if answer.status != 200 or len(data) > MAX_SHOW:
        raise CatalogError(f"{_printable(base_url)}: no answer about {_printable(model)} ({answer.status})")
    try:
        decoded = json.loads(data)
    except (ValueError, RecursionError):
        raise CatalogError(f"{_printable(base_url)}: the answer is no JSON") from None
    if not isinstance(decoded, dict):
        raise CatalogError(f"{_printable(base_url)}: the answer is no JSON object")
    return from_show(decoded, _printable(model))


# ------------------------------------------------------------------------------------ on another host
class HostSource:
    """A file on a host, such as a blob of Ollama's store, read through the host's own `tail` and `head`.

    `run` executes a list of words there and returns what it prints; it raises where that fails.
    """

    def __init__(self, name: str, path: str, run: Callable[[Sequence[str]], bytes]) -> None:
        self.name = f"{_printable(name)}:{_printable(path)}"
        self._path = path
        self._run = run

    def read(self, offset: int, length: int) -> bytes:
        """Bytes at `offset`, fewer only at the end."""
        script = 'tail -c "+$1" -- "$3" | head -c "$2"'
        words = ("sh", "-c", script, "sh", str(offset + 1), str(length), self._path)
        return self._run(words)[:length]
