"""Requests for a text, and their answers as bytes come in: HTTP/1.1, NDJSON and server-sent events. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..release.plaintext import one_line

PATHS = {"ollama": "/api/generate", "openai": "/v1/chat/completions"}
_HEAD = 64 * 1024  # bytes of headers that are read at most
_LINE = 4 * 1024 * 1024
_MORE = b'"done":false'  # of a piece that is not the last one; within a text its quotes would be escaped
_SAID = 2000  # bytes of a refusal that are kept


@dataclass(frozen=True, slots=True)
class Asked:
    """What every request asks for. Each prompt begins with another number: no cache knows it already."""

    model: str
    prompt: str
    tokens: int
    api: str = "ollama"

    @property
    def path(self) -> str:
        return PATHS[self.api]

    def body(self, number: int) -> bytes:
        prompt = f"{number}. {self.prompt}"
        if self.api == "ollama":
            options = {"num_predict": self.tokens, "seed": number}
            return _json(model=self.model, prompt=prompt, stream=True, options=options)
        return _json(
            model=self.model,
            messages=[{"role": "user", "content": prompt}],
            stream=True,
            stream_options={"include_usage": True},
            max_tokens=self.tokens,
            seed=number,
        )


def _json(**values: Any) -> bytes:
    return json.dumps(values).encode()


def request(path: str, host: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Broken(Exception):
    """What came is no answer in HTTP."""


@dataclass(slots=True)
class Answer:
    """One answer; `feed` it what comes, until it is `done`."""

    status: int = 0
    keep: bool = True  # the connection can be used again
    begun: bool = False  # something came
    done: bool = False
    last: float = 0.0  # the time of what came last
    first: float | None = None  # the time of the first text
    pieces: int = 0
    tokens: int = 0  # by the answer's own word
    prompt_tokens: int = 0
    generated: float = 0.0
    ended: bool = False  # the API said that this is all
    said: str = ""  # an error in words
    _data: bytes = b""
    _line: bytes = b""
    _refusal: bytes = b""
    _state: Callable[[Answer, float], bool] | None = None
    _left: int = 0

    def feed(self, data: bytes, now: float) -> None:
        self._data += data
        self.begun, self.last = True, now
        state = self._state or _head
        while not self.done and state(self, now):
            state = self._state or _head

    def eof(self, now: float) -> None:
        """The connection is closed: the end of an answer without a length."""
        if self._state is _to_the_end:
            self._finish(now)
        elif not self.done:
            raise Broken("the connection was closed in the middle of an answer")

    @property
    def error(self) -> str:
        """Why this is no whole answer; empty if it is one."""
        if self.status != 200:
            said = _message(self._refusal)
            return f"HTTP {self.status}{': ' + said if said else ''}"
        return one_line(self.said) or ("" if self.ended else "the answer broke off")

    def counted(self) -> int:
        return self.tokens or self.pieces

    def _finish(self, now: float) -> None:
        self.done = True
        if self._line:
            self._event(self._line.strip(), now)

    def _body(self, data: bytes, now: float) -> None:
        if self.status != 200:
            self._refusal = (self._refusal + data)[:_SAID]
            return
        *lines, self._line = (self._line + data).split(b"\n")
        if len(self._line) > _LINE:
            raise Broken("a line of the answer has no end")
        for line in lines:
            self._event(line.strip(), now)

    def _event(self, line: bytes, now: float) -> None:
        if line.startswith(b"data:"):
            line = line[5:].strip()
        if line == b"[DONE]":
            self.ended = True
            return
        if self.first is not None and _MORE in line:
            self.pieces += 1
            return
        if not line.startswith(b"{"):
            return
        try:
            found = json.loads(line)
        except ValueError:
            raise Broken("a line of the answer is no JSON") from None
        if "error" in found:
            self.said = _message(line) or "an error without words"
        if _text(found):
            self.pieces += 1
            self.first = now if self.first is None else self.first
        self._tell(found)

    def _tell(self, found: Mapping[str, Any]) -> None:
        """Counts and durations of the last piece, in both APIs' words."""
        usage = found.get("usage")
        if isinstance(usage, dict):
            self.tokens = _count(usage.get("completion_tokens"))
            self.prompt_tokens = _count(usage.get("prompt_tokens"))
        if found.get("done") is True:
            self.ended = True
            self.tokens = _count(found.get("eval_count"))
            self.prompt_tokens = _count(found.get("prompt_eval_count"))
            self.generated = _count(found.get("eval_duration")) / 1e9


def _text(found: Mapping[str, Any]) -> bool:
    """Whether a piece brings text, thoughts included."""
    if found.get("response") or found.get("thinking"):
        return True
    choices = found.get("choices")
    delta = choices[0].get("delta") if isinstance(choices, list) and choices else None
    return isinstance(delta, dict) and any(
        delta.get(k) for k in ("content", "reasoning", "reasoning_content")
    )


def _count(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 1e18 else 0


def _message(data: bytes) -> str:
    """An error's words in the shapes of both APIs; else the text as it is."""
    text = data.decode("utf-8", "replace")
    try:
        said = json.loads(text).get("error")
    except (ValueError, AttributeError):
        return one_line(text, 200)
    return one_line(str(said.get("message")) if isinstance(said, dict) else str(said), 200)


# ------------------------------------------------------------- states: each takes what it can of the data
def _head(answer: Answer, now: float) -> bool:
    head, found, rest = answer._data.partition(b"\r\n\r\n")
    if not found:
        if len(answer._data) > _HEAD:
            raise Broken("the answer's headers have no end")
        return False
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, status = first.partition(" ")
    if not version.startswith("HTTP/1.") or not status[:3].isdigit():
        raise Broken("what answers there does not speak HTTP")
    answer._data = rest
    if status.startswith("1"):  # such as 100 Continue: the answer is still to come
        return True
    answer.status = int(status[:3])
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip().lower() for name, _, value in pairs}
    answer.keep = version == "HTTP/1.1" and headers.get("connection") != "close"
    if "chunked" in headers.get("transfer-encoding", ""):
        answer._state = _chunk_size
    elif "content-length" in headers:
        answer._left = int(headers["content-length"]) if headers["content-length"].isdigit() else 0
        answer._state = _counted
        if not answer._left:
            answer._finish(now)
    else:
        answer.keep, answer._state = False, _to_the_end
    return True


def _take(answer: Answer, now: float) -> None:
    part, answer._data = answer._data[: answer._left], answer._data[answer._left :]
    answer._left -= len(part)
    answer._body(part, now)


def _counted(answer: Answer, now: float) -> bool:
    _take(answer, now)
    if not answer._left:
        answer._finish(now)
    return False


def _to_the_end(answer: Answer, now: float) -> bool:
    data, answer._data = answer._data, b""
    answer._body(data, now)
    return False


def _chunk_size(answer: Answer, now: float) -> bool:
    line, found, rest = answer._data.partition(b"\r\n")
    if not found:
        if len(answer._data) > 1024:
            raise Broken("the answer's chunks can't be read")
        return False
    try:
        answer._left = int(line.partition(b";")[0], 16)
    except ValueError:
        raise Broken("the answer's chunks can't be read") from None
    answer._data, answer._state = rest, _chunk_data if answer._left else _trailer
    return True


def _chunk_data(answer: Answer, now: float) -> bool:
    _take(answer, now)
    if answer._left:
        return False
    if len(answer._data) < 2:
        answer._state = _chunk_data
        return False
    answer._data, answer._state = answer._data[2:], _chunk_size
    return True


def _trailer(answer: Answer, now: float) -> bool:
    line, found, answer._data = answer._data.partition(b"\r\n")
    if not found:
        answer._data = line
        return False
    if not line:
        answer._finish(now)
        return False
    return True
