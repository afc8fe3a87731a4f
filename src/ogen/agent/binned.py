"""A monitor's and a balancer's lines as bins of time: one pass, bounded in size, sums that can be merged.

Times fall into bins of `width` seconds, counted from 1970. Seconds of answers fall into buckets that grow by
a tenth each, so that a percentile is known within 5 %, of however many answers on however many hosts.
"""

from __future__ import annotations

import csv
import datetime
import functools
import json
import math
from typing import Any, Dict, List, Optional, Tuple

from .look_access import tries

Seen = Dict[str, Any]
GROWTH = math.log(1.1)
LEAST = 1e-3  # seconds: nginx's own grain
LONGEST = 1e7
MOST = 512  # cards, models, instances that are told apart; what is more counts as OTHERS
OTHERS = "others"
TEXT = 200  # characters of a name
AHEAD = 300.0  # seconds that a line may be ahead of the end: clocks differ
BACK = 60.0  # seconds that a clock may go back within a file
MIB = float(1 << 20)
CARDS = "time,gpu,uuid,name,memory_used_bytes,memory_free_bytes,memory_total_bytes,utilization_percent"
CARDS += ",temperature_celsius,power_watts"
MODELS = "time,instance,up,model,size_bytes,vram_bytes,context,expires,host_bytes"

#: what a card's bin holds, in this order; MiB, percent, °C, W
CARD_BIN = ("samples", "used", "used_least", "used_most", "busy_samples", "busy", "busy_most", "hot_samples",
            "hot_most", "watt_samples", "watts", "lost")  # fmt: skip


# ----------------------------------------------------------------------------------------- histograms
@functools.lru_cache(16384)
def bucket(seconds: float) -> int:
    return math.ceil(math.log(max(seconds, LEAST) / LEAST) / GROWTH - 1e-9)


def middle(number: int) -> float:
    """What a bucket's seconds count as: within 5 % of each of them."""
    return LEAST * math.exp(GROWTH * (number - 0.5)) if number > 0 else LEAST


def percentile(counts: Dict[Any, int], share: float) -> Optional[float]:
    """The smallest value that `share` of all values do not exceed; None of none."""
    total, seen = sum(counts.values()), 0
    for number in sorted(counts, key=int):
        seen += counts[number]
        if seen >= share * total - 1e-9:
            return middle(int(number))
    return None


def merge(one: Any, two: Any) -> Any:
    """Sums of sums: numbers are added, lists place by place, maps key by key."""
    if isinstance(one, dict):
        return {key: merge(one[key], two[key]) if key in one and key in two else one.get(key, two.get(key))
                for key in {**one, **two}}  # fmt: skip
    if isinstance(one, list):
        return [merge(a, b) for a, b in zip(one, two)]  # noqa: B905
    return one + two


def kept(places: Dict[str, Any], name: str) -> str:
    """The name under which something is counted, so that a log can't make the answer grow for ever."""
    name = name[:TEXT]
    return name if name in places or len(places) < MOST else OTHERS


# ----------------------------------------------------------------------------------------------- lines
class Binned:
    """Counts of one host, fed line by line; `answer` has them for the wire."""

    def __init__(self, start: float, end: float, width: int) -> None:
        self.start, self.end, self.width = start, end, width
        self.cards: Dict[str, Seen] = {}
        self.instances: Dict[str, Seen] = {}
        self.balancers: Dict[str, Seen] = {}
        self.notes: Dict[str, int] = {}
        self._times: Dict[str, Optional[float]] = {}
        self._columns: List[str] = []
        self._before = 0.0

    def answer(self) -> Seen:
        names = ("start", "end", "width", "cards", "instances", "balancers", "notes")
        return {name: getattr(self, name) for name in names}

    def begin(self, header: str = "") -> None:
        """A new file: other columns may come, and its times have nothing to do with the last one's."""
        self._columns, self._before = header.split(","), 0.0

    def note(self, what: str, count: int = 1) -> None:
        self.notes[what] = self.notes.get(what, 0) + count

    def when(self, text: str) -> Optional[float]:
        """Many lines have the same second."""
        if text not in self._times:
            if len(self._times) > 100:
                self._times.clear()
            self._times[text] = moment(text)
        return self._times[text]

    def bin(self, text: str) -> Optional[int]:
        """The bin of a line's time; None for what is not in the span, or has no time."""
        at = self.when(text)
        if at is None:
            self.note("torn")
            return None
        if at < self._before - BACK:
            self.note("back")
        self._before = at
        if at > self.end + AHEAD:
            self.note("future")
            return None
        return int(at // self.width) if self.start <= at <= self.end else None

    def row(self, line: bytes) -> Optional[Dict[str, str]]:
        """A CSV line by its columns; None for a header, and for one that is torn."""
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if text.startswith("time,"):
            self._columns = text.split(",")
            return None
        try:
            cells = next(csv.reader([text]), [])
        except csv.Error:
            cells = []
        if len(cells) != len(self._columns):
            if text:
                self.note("torn")
            return None
        return dict(zip(self._columns, cells))  # noqa: B905

    # ------------------------------------------------------------------------------------- each kind
    def card(self, line: bytes) -> None:
        row = self.row(line)
        number = self.bin(row["time"]) if row else None
        if row is None or number is None:
            return
        key = kept(self.cards, row.get("uuid") or row.get("gpu", ""))
        card = self.cards.setdefault(key, {"gpu": -1, "name": "", "total": 0, "bins": {}})
        found = card["bins"].setdefault(number, [0] * len(CARD_BIN))
        gpu, used, total, busy, hot, watts = (_number(row.get(name)) for name in (
            "gpu", "memory_used_bytes", "memory_total_bytes", "utilization_percent", "temperature_celsius",
            "power_watts"))  # fmt: skip
        card["gpu"] = int(gpu) if gpu is not None else card["gpu"]
        card["name"] = (row.get("name") or card["name"])[:TEXT]
        if used is None or total is None:
            found[11] += 1
            return
        card["total"] = max(card["total"], int(total / MIB))
        used = int(used / MIB)
        found[2] = min(found[2], used) if found[0] else used
        found[0], found[1], found[3] = found[0] + 1, found[1] + used, max(found[3], used)
        if busy is not None:
            found[4], found[5], found[6] = found[4] + 1, found[5] + int(busy), max(found[6], int(busy))
        if hot is not None:
            found[7], found[8] = found[7] + 1, max(found[8], int(hot))
        if watts is not None:
            found[9], found[10] = found[9] + 1, found[10] + int(watts)

    def model(self, line: bytes) -> None:
        row = self.row(line)
        number = self.bin(row["time"]) if row else None
        if row is None or number is None:
            return
        key = kept(self.instances, row.get("instance", ""))
        instance = self.instances.setdefault(key, {"bins": {}, "models": {}})
        found = instance["bins"].setdefault(number, [0, 0])
        found[0 if row.get("up") == "1" else 1] += 1
        if row.get("model"):
            models = instance["models"]
            bins = models.setdefault(kept(models, row["model"]), {})
            most = bins.setdefault(number, [0, 0])
            for place, name in enumerate(("vram_bytes", "host_bytes")):
                most[place] = max(most[place], int((_number(row.get(name)) or 0) / MIB))

    def access(self, balancer: str, line: bytes) -> None:
        try:
            entry = json.loads(line.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            self.note("torn")
            return
        number = self.bin(str(entry.get("time", "")))
        if number is None:
            return
        empty: Seen = {"bins": {}, "by": {}}
        place = self.balancers.setdefault(kept(self.balancers, balancer), empty)
        found = place["bins"].setdefault(number, {"n": 0, "kinds": {}, "seconds": {}, "first": {}})
        kind = _kind(entry)
        found["n"] += 1
        found["kinds"][kind] = found["kinds"].get(kind, 0) + 1
        asked = _asked(entry)
        good = kind == "good" and entry.get("method") == "POST" and bool(asked)
        seconds = _seconds(entry.get("seconds")) if good else None
        if good:
            _count(found["seconds"], seconds)
            _count(found["first"], _first(entry))
        for address, answer in asked:
            self._instance(place["by"], address, number, answer, seconds)

    def _instance(self, by: Seen, address: str, number: int, answer: str, seconds: Optional[float]) -> None:
        """A try at an instance: what it was asked, and how it failed; the good one has the time."""
        name = kept(by, address)
        one = by.setdefault(name, {"n": 0, "bad": 0, "seconds": {}, "bins": {}})
        bad = int(answer[:1] == "5")
        counts = one["bins"].setdefault(number, [0, 0])
        one["n"], one["bad"] = one["n"] + 1, one["bad"] + bad
        counts[0], counts[1] = counts[0] + 1, counts[1] + bad
        if not bad and answer[:1] == "2":
            _count(one["seconds"], seconds)


def moment(text: str) -> Optional[float]:
    """A time of the monitor or of nginx; Python 3.8 knows no Z."""
    try:
        found = datetime.datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] == "Z" else text)
        return found.timestamp() if found.tzinfo else None
    except (ValueError, OverflowError, OSError):
        return None


def _kind(entry: Seen) -> str:
    """good; client (4xx), gone (the client left), own (5xx of nginx itself), failed (5xx of an instance)."""
    status = str(entry.get("status", ""))
    if status == "499":
        return "gone"
    if status[:1] == "5":
        return "failed" if entry.get("upstream") else "own"
    return "client" if status[:1] == "4" else "good"


def _asked(entry: Seen) -> List[Tuple[str, str]]:
    """The instances that were tried and their answers; nearly all lines have one."""
    address, answer = str(entry.get("upstream") or ""), str(entry.get("upstream_status", ""))
    if not address:
        return []
    return tries(entry) if ", " in address or " : " in address else [(address, answer)]


def _first(entry: Seen) -> Optional[float]:
    """Seconds until an instance's first byte, with what the request waited and earlier tries took."""
    whole = _seconds(entry.get("first_seconds"))
    if whole is not None:
        return whole + (_seconds(entry.get("waited")) or 0.0)
    parts = [_seconds(part.strip()) for part in str(entry.get("first_seconds") or "").split(",")]
    known = [part for part in parts if part is not None]
    return sum(known) + (_seconds(entry.get("waited")) or 0.0) if known else None


def _count(counts: Dict[int, int], seconds: Optional[float]) -> None:
    if seconds is not None:
        number = bucket(seconds)
        counts[number] = counts.get(number, 0) + 1


def _seconds(value: Any) -> Optional[float]:
    found = _number(value)
    return found if found is not None and 0 <= found <= LONGEST else None


def _number(value: Any) -> Optional[float]:
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None
