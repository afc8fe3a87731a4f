"""Two runs side by side: what differs by more than chance. Pure; takes the documents that runs are saved as.

Each figure comes with its 95 % interval. That of the ratio of two of them is made of both (Donner and Zou's
MOVER, on logarithms); where it leaves out 1, the difference is more than noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import UsageError

Verdict = Literal["better", "worse", "same", "unsure"]
#: place in a step, its name for people, whether more is better
FIGURES: tuple[tuple[tuple[str, ...], str, bool], ...] = (
    (("requests_per_second",), "requests/s", True),
    (("tokens_per_second",), "tokens/s", True),
    *((("latency", p), f"latency {p}", False) for p in ("mean", "p50", "p95", "p99")),
    *((("first_token", p), f"first token {p}", False) for p in ("mean", "p50", "p95", "p99")),
    (("speed", "p50"), "one answer tokens/s p50", True),
)


@dataclass(frozen=True, slots=True)
class Change:
    """A figure of both runs; unsure: one of them has too few requests to tell."""

    concurrency: int
    name: str
    before: float
    after: float
    low: float | None  # of the ratio's 95 % interval
    high: float | None
    verdict: Verdict

    @property
    def ratio(self) -> float:
        return self.after / self.before


@dataclass(frozen=True, slots=True)
class Comparison:
    changes: tuple[Change, ...]
    remarks: tuple[str, ...]  # why the two can't be compared like with like

    @property
    def worse(self) -> bool:
        return any(change.verdict == "worse" for change in self.changes)


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> Comparison:
    """Step by step, for the concurrencies that both have."""
    a, b = steps(before), steps(after)
    both = [n for n in a if n in b]
    if not both:
        raise UsageError(
            f"the runs have no concurrency in common: {_listed(a)} and {_listed(b)}",
            hint="run the second one with the first one's --concurrency or --sweep",
        )
    changes = tuple(change for n in both for change in _changes(n, a[n], b[n]))
    return Comparison(changes, (*_remarks(before, after), *_failures(both, a, b)))


def steps(document: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """The steps of a saved run by their concurrency."""
    found = document.get("steps")
    good = isinstance(found, list) and all(
        isinstance(one, dict) and isinstance(one.get("concurrency"), int) for one in found
    )
    if document.get("version") != 1 or not isinstance(document.get("asked"), dict) or not good or not found:
        raise UsageError("this is no saved run", hint="`ogen bench … -o FILE` saves one")
    return {one["concurrency"]: one for one in found}


def _listed(found: Mapping[int, object]) -> str:
    return ", ".join(map(str, found))


def _remarks(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(before["asked"].keys() | after["asked"].keys()):
        one, other = before["asked"].get(name), after["asked"].get(name)
        if one != other:
            yield f"they did not ask for the same: {name} {one!r} and {other!r}"


def _failures(both: list[int], a: Mapping[int, Any], b: Mapping[int, Any]) -> Iterator[str]:
    for n in both:
        failed = [one.get("failed") or 0 for one in (a[n], b[n])]
        if any(failed):
            yield f"{n} at once: {failed[0]} and {failed[1]} requests failed"


def _changes(concurrency: int, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Change]:
    for place, name, more in FIGURES:
        before, after = _figure(a, place), _figure(b, place)
        if before is None or after is None:
            continue
        low, high = _interval(before, after)
        verdict: Verdict = "unsure"
        if low is not None and high is not None:
            verdict = "same" if low <= 1 <= high else "better" if (low > 1) == more else "worse"
        yield Change(concurrency, name, before[0], after[0], low, high, verdict)


_Figure = tuple[float, float | None, float | None]


def _figure(step: Mapping[str, Any], place: tuple[str, ...]) -> _Figure | None:
    """Value, low, high; None where there is none, or one that nothing can be divided by."""
    found: Any = step
    for key in place:
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        return None
    value, low, high = (_number(found.get(key)) for key in ("value", "low", "high"))
    return (value, low, high) if value else None


def _number(value: Any) -> float | None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
    return float(value) if good else None


def _interval(a: _Figure, b: _Figure) -> tuple[float | None, float | None]:
    if None in a or None in b:
        return None, None
    (va, la, ha), (vb, lb, hb) = (tuple(math.log(max(v or 0.0, 1e-12)) for v in f) for f in (a, b))
    middle = vb - va
    low = middle - math.hypot(vb - lb, ha - va)
    high = middle + math.hypot(hb - vb, va - la)
    return math.exp(low), math.exp(high)
