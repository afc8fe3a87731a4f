"""Sizes, durations and percentages as people write them: "24GiB", "10m", "25%"."""

from __future__ import annotations

import re

SIZE = r"[0-9]+(?:\.[0-9]+)? ?[KMGT]i?B"
DURATION = r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d))+"
PERCENT = r"(?:100|[1-9]?[0-9])%"

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT])(i?)B")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def size(text: str) -> int | None:
    """Bytes; "GiB" counts by 1024, "GB" by 1000. None where the text is no size with a unit."""
    found = _SIZE.fullmatch(text.strip())
    if not found or len(text) > 30:
        return None
    number, letter, binary = found.groups()
    step = 1024 if binary else 1000
    return round(float(number) * float(step ** _POWERS[letter]))


def duration(text: str) -> float | None:
    """Seconds of "500ms", "5s", "10m", "1h30m". None where the text is no duration with units."""
    text = text.strip()
    if len(text) > 30 or not re.fullmatch(DURATION, text):
        return None
    return float(sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text)))


def percent(text: str) -> int | None:
    """The number of "25%", from 0 to 100."""
    return int(text.strip()[:-1]) if re.fullmatch(PERCENT, text.strip()) else None
