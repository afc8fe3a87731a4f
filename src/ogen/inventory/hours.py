"""Hours of the week as people write them: "mon-fri 08:00-18:00"."""

from __future__ import annotations

import re

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = f"(?:{'|'.join(DAYS)})"
_TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
SPAN = f"(?:{_DAY}(?:-{_DAY})? )?{_TIME}-{_TIME}"

#: days of the week from Monday on, and the minutes of the day between which it lies; the second may be on
#: the next day
Span = tuple[tuple[int, ...], int, int]


def span(text: str) -> Span:
    """One span of what SPAN matches; without days it is every day's."""
    days, _, times = text.rpartition(" ")
    start, end = (int(time[:2]) * 60 + int(time[3:]) for time in times.split("-"))
    return _days(days), start, end


def _days(text: str) -> tuple[int, ...]:
    if not text:
        return tuple(range(7))
    names = text.split("-")
    first, last = DAYS.index(names[0]), DAYS.index(names[-1])
    return tuple((first + step) % 7 for step in range((last - first) % 7 + 1))


def is_span(text: str) -> bool:
    """Whether it is a span that has a length."""
    if not re.fullmatch(SPAN, text):
        return False
    _, start, end = span(text)
    return start != end
