"""Of which time a report is, in bins, and how times are told."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..inventory.model import Host

WIDTHS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
BINS = 288  # at most: five minutes each, of a day
POINTS = 120_000  # at most, of all cards: so large does a page become
HOST_NOTES = 5


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds since 1970, and how long each bin is."""

    start: float
    end: float
    width: int

    @property
    def first(self) -> int:
        return int(self.start // self.width)

    @property
    def bins(self) -> int:
        return int(self.end // self.width) - self.first + 1

    def at(self, place: int) -> float:
        """When a bin begins; the first one's place is 0."""
        return max(self.start, float((self.first + place) * self.width))

    def seconds(self, place: int) -> float:
        """How much of a bin is in the span."""
        return max(1.0, min(self.end, float((self.first + place + 1) * self.width)) - self.at(place))

    def rows(self, bins: Mapping[str, Any]) -> list[Any]:
        """What each bin holds; None of an empty one."""
        return [bins.get(str(self.first + place)) for place in range(self.bins)]


def span(end: float, since: float, hosts: Sequence[Host]) -> Span:
    """Bins as fine as the page can hold, and not finer than the monitors look."""
    cards = sum(len(host.gpus) for host in hosts)
    most = max(24, min(BINS, POINTS // max(1, cards)))
    least = max((2 * host.monitoring.interval for host in hosts), default=0.0)
    width = next((w for w in WIDTHS if w >= least and since / w <= most), None)
    if width is None:
        width = -(-int(since / most) // 86400) * 86400
    return Span((end - since) // width * width, end, width)


@dataclass(frozen=True, slots=True)
class Zone:
    """One offset from UTC for the whole page, and its name."""

    seconds: int
    name: str

    def clock(self, at: float) -> str:
        return f"{self._date(at):%d %b %H:%M}"

    def both(self, start: float, end: float) -> str:
        """From when to when, with years where there are two."""
        if self._date(start).year == self._date(end).year:
            return f"{self.clock(start)} to {self.clock(end)}"
        return f"{self._date(start):%d %b %Y %H:%M} to {self._date(end):%d %b %Y %H:%M}"

    def _date(self, at: float) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(
            at, datetime.timezone(datetime.timedelta(seconds=self.seconds))
        )


def local(at: float) -> Zone:
    """This machine's, as it is at that time."""
    here = datetime.datetime.fromtimestamp(at).astimezone()
    offset = here.utcoffset() or datetime.timedelta()
    minutes = int(offset.total_seconds()) // 60
    name = "UTC" + (
        f"{'+' if minutes > 0 else '−'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}" if minutes else ""
    )
    return Zone(minutes * 60, name)


def runs(places: Sequence[int]) -> list[tuple[int, int]]:
    """Places that follow each other, as (first, last)."""
    breaks = [at for at, (one, two) in enumerate(pairwise(places), 1) if two != one + 1]
    starts, ends = [0, *breaks], [*breaks, len(places)]
    return [(places[a], places[b - 1]) for a, b in zip(starts, ends, strict=True) if places]


def lasting(seconds: float) -> str:
    """Such as "2 h 5 min"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(minutes, 60)
    return " ".join([*([f"{hours} h"] if hours else []), *([f"{minutes} min"] if minutes else [])])


def when(places: Sequence[int], of: Span, zone: Zone) -> list[str]:
    """Runs of bins as "14:05 to 14:10 (5 min)", at most HOST_NOTES of them."""
    found = runs(places)
    told = []
    for first, last in found[:HOST_NOTES]:
        begin, end = of.at(first), of.at(last) + of.seconds(last)
        told.append(f"{zone.clock(begin)} to {zone.clock(end)} ({lasting(end - begin)})")
    return told + ([f"and {len(found) - HOST_NOTES} times more"] if len(found) > HOST_NOTES else [])


def natural(name: str) -> list[tuple[int, str]]:
    """gpu2 before gpu10."""
    return [(int(n or 0), text) for text, n in re.findall(r"(\D+)|(\d+)", name)]
