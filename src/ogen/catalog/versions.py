"""Ollama's versions: three eras that place models by different code."""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache

from ..errors import CatalogError


class Era(Enum):
    """A: `llm/memory.go` estimates. B: own runners, layout in `llm/server.go`. C: upstream llama-server."""

    A = "A"
    B = "B"
    C = "C"


_VERSION = re.compile(
    r"v?(\d{1,6})(?:\.(\d{1,6}))?(?:\.(\d{1,6}))?(?:-([0-9A-Za-z.-]{1,40}))?(?:\+[0-9A-Za-z.-]*)?"
)
_PART = re.compile(r"(\d+)|(\D+)")


@lru_cache(maxsize=1024)
def _key(version: str) -> tuple[int, int, int, tuple[tuple[int, int, str], ...]]:
    """What versions are ordered by; a release candidate comes before its release."""
    match = _VERSION.fullmatch(version.strip())
    if match is None:
        raise CatalogError(
            f"{version!r} is not a version of Ollama", hint="versions look like 0.32.15 or 0.33.0-rc2"
        )
    major, minor, patch = (int(part or 0) for part in match.group(1, 2, 3))
    pre = match.group(4)
    if pre is None:
        return major, minor, patch, ((1, 0, ""),)
    parts = ((0, int(n), "") if n else (0, -1, text) for n, text in _PART.findall(pre))
    return major, minor, patch, ((0, 0, ""), *parts)


def at_least(version: str, other: str) -> bool:
    """Whether `version` is `other` or newer; raises CatalogError where either is no version."""
    return _key(version) >= _key(other)


def era(version: str) -> Era:
    """The era of a version: A up to 0.12.10, B from 0.12.11, C from 0.30.0 (release candidates included)."""
    key = _key(version)
    if key[:3] >= (0, 30, 0):
        return Era.C
    return Era.B if key[:3] >= (0, 12, 11) else Era.A
