"""What Ollama reads out of a body: Go's encoding/json into a struct, as far as options and models go."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

FIELDS = ("model", "name", "options", "keep_alive")  # of api.GenerateRequest, ChatRequest, EmbedRequest, …


class Refused(Exception):
    """Go's decoder gives an error: Ollama answers 400 and does nothing."""


@dataclass
class Read:
    """The fields that were set."""

    model: str = ""
    name: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    keep_alive: Any = None
    others: dict[str, Any] = field(default_factory=dict)  # by the keys that were sent

    @property
    def asked(self) -> str:
        """The model that is meant; `name` is the older word."""
        return self.model or self.name


def fold(key: str) -> str:
    """foldName: case does not count, and the long s and the Kelvin sign are s and k."""
    folded = "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in key)
    return folded.replace("\u017f", "s").replace("\u212a", "k")


class _Pairs(list[tuple[str, Any]]):
    """An object as it was written: keys in order, some perhaps twice."""


def plain(value: Any) -> Any:
    """The value as Go holds it in `any`: of keys that are there twice the last one counts."""
    if isinstance(value, _Pairs):
        return {key: plain(one) for key, one in value}
    return [plain(one) for one in value] if isinstance(value, list) else value


def _no_constant(text: str) -> Any:
    raise Refused(text)


def read(body: bytes) -> Read:
    """json.NewDecoder(body).Decode(&request): the first value; what comes after it is not read."""
    text = body.decode("utf-8", "replace").lstrip(" \t\r\n")
    decoder = json.JSONDecoder(object_pairs_hook=_Pairs, parse_constant=_no_constant)
    try:
        value, _ = decoder.raw_decode(text)
    except (ValueError, RecursionError) as error:
        raise Refused(str(error)) from None
    if not isinstance(value, _Pairs):
        raise Refused("not an object")
    found = Read()
    for key, one in value:
        name = fold(key)
        if name not in FIELDS:
            found.others[key] = plain(one)
        elif name == "options":
            _merge(found, one)
        elif name == "keep_alive":
            found.keep_alive = plain(one)
        elif one is not None:  # null leaves a string as it is
            if not isinstance(one, str):
                raise Refused(f"{name} is no string")
            setattr(found, name, one)
    return found


def _merge(found: Read, value: Any) -> None:
    """A second object goes into the same map; null empties it."""
    if value is None:
        found.options = {}
    elif isinstance(value, _Pairs):
        found.options.update(plain(value))
    else:
        raise Refused("options are no object")
