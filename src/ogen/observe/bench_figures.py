"""What requests tell together: throughput, percentiles, and how sure each figure is. Pure.

Load is a closed loop: so many places, each sends its next request when it has its answer. Throughput is taken
over the time in which all places were busy, from the first request sent to the last one sent: the end of a
run, where places run empty, would make a fleet look slower than it is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

BATCHES = 20
ENOUGH = 0.95  # of the best throughput: what the knee has to reach


@dataclass(frozen=True, slots=True)
class Record:
    """One request; seconds since the run began. `error`: why there is no whole answer."""

    start: float
    end: float
    first: float | None = None  # when the first text came
    tokens: int = 0
    prompt_tokens: int = 0
    generated: float = 0.0  # seconds of generation by the instance's own word; 0: it does not tell
    error: str = ""

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with its 95 % interval; None: too few requests to tell one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What `concurrency` requests at once brought. Seconds, and tokens by second."""

    concurrency: int
    requests: int  # answered whole
    failed: int
    errors: Mapping[str, int]  # why, and how often
    seconds: float  # from the first request to the last answer
    requests_per_second: Figure | None = None
    tokens_per_second: Figure | None = None
    latency: Mapping[str, Figure] = field(default_factory=dict)
    first_token: Mapping[str, Figure] = field(default_factory=dict)
    speed: Mapping[str, Figure] = field(default_factory=dict)  # tokens by second of a single answer
    tokens: int = 0
    prompt_tokens: int = 0


def step(records: Sequence[Record], concurrency: int) -> Step:
    """All figures of one run."""
    good = sorted((r for r in records if not r.error), key=lambda r: r.end)
    begin = min((r.start for r in records), default=0.0)
    found = Step(
        concurrency,
        len(good),
        failed=len(records) - len(good),
        errors=dict(Counter(r.error for r in records if r.error).most_common(20)),
        seconds=max((r.end for r in records), default=0.0) - begin,
    )
    if not good:
        return found
    window = _window(records, good)
    tokens = [float(r.tokens) for r in good]
    return replace(
        found,
        requests_per_second=_rate(good, window, [1.0] * len(good)),
        tokens_per_second=_rate(good, window, tokens) if any(tokens) else None,
        latency=spread([r.seconds for r in good]),
        first_token=spread([r.first - r.start for r in good if r.first is not None]),
        speed=spread([speed for r in good if (speed := _speed(r))]),
        tokens=sum(r.tokens for r in good),
        prompt_tokens=sum(r.prompt_tokens for r in good),
    )


def _window(records: Sequence[Record], good: Sequence[Record]) -> tuple[float, float]:
    """The time in which all places were busy; of a run too short for that, all of it."""
    begin, last = min(r.start for r in records), max(r.start for r in records)
    return (begin, last) if good[0].end <= last else (begin, good[-1].end)


def _rate(good: Sequence[Record], window: tuple[float, float], amounts: Sequence[float]) -> Figure:
    """`amounts` by second of the requests that ended in the window.

    A place is always busy, so a request's amount belongs to its seconds: how far the two stray from
    one proportion tells how sure the rate is.
    """
    begin, end = window
    within = math.fsum(a for r, a in zip(good, amounts, strict=True) if r.end <= end)
    rate = within / max(end - begin, 1e-9)
    seconds = math.fsum(r.seconds for r in good)
    proportion = math.fsum(amounts) / max(seconds, 1e-9)
    strays = [a - proportion * r.seconds for r, a in zip(good, amounts, strict=True)]
    half = half_width(strays)
    if half is None:
        return Figure(rate)
    share = half / max(math.fsum(amounts) / len(good), 1e-9)
    return Figure(rate, rate * max(0.0, 1 - share), rate * (1 + share))


def _speed(record: Record) -> float | None:
    if record.generated > 0 and record.tokens:
        return record.tokens / record.generated
    if record.first is None or record.tokens < 2 or record.end <= record.first:
        return None
    return (record.tokens - 1) / (record.end - record.first)


# --------------------------------------------------------------------------------- of a list of values
def spread(values: Sequence[float]) -> dict[str, Figure]:
    """Mean and percentiles of values in the order in which they came; empty if there is none."""
    if not values:
        return {}
    mean = math.fsum(values) / len(values)
    half = half_width(values)
    found = {"mean": Figure(mean) if half is None else Figure(mean, mean - half, mean + half)}
    ordered, alike = sorted(values), likeness(values)
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        found[name] = _percentile(ordered, share, len(ordered) / alike)
    return found | {"least": Figure(ordered[0]), "most": Figure(ordered[-1])}


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def _percentile(ordered: Sequence[float], share: float, independent: float) -> Figure:
    """Its interval is between two other percentiles: nothing is presumed of how values are spread."""
    value = percentile(ordered, share)
    beside = 1.96 * math.sqrt(share * (1 - share) / independent)
    if share - beside <= 0 or share + beside >= 1:
        return Figure(value)
    return Figure(value, percentile(ordered, share - beside), percentile(ordered, share + beside))


def half_width(values: Sequence[float]) -> float | None:
    """Half of the mean's 95 % interval; None for fewer than five values."""
    count = len(values)
    if count < 5:
        return None
    freedom = BATCHES - 1 if count >= 2 * BATCHES else count - 1
    student = 1.96 + 2.4 / freedom + 4 / freedom**2
    return student * math.sqrt(likeness(values) * _variance(values) / count)


def likeness(values: Sequence[float]) -> float:
    """How many values tell as much as one would that does not resemble its neighbours; 1 at least.

    Requests that wait in one queue resemble each other. By means of batches: of values that do not, these
    stray as little as chance makes them.
    """
    whole, size = _variance(values), len(values) // BATCHES
    if size < 2 or whole <= 0:
        return 1.0
    means = [math.fsum(values[i * size : (i + 1) * size]) / size for i in range(BATCHES)]
    return min(max(1.0, size * _variance(means) / whole), float(size))


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((v - mean) ** 2 for v in values) / max(1, len(values) - 1)


# ----------------------------------------------------------------------------------------- of a sweep
def throughput(one: Step) -> float:
    """What steps of a sweep are compared by: tokens where answers tell them, else requests."""
    figure = one.tokens_per_second or one.requests_per_second
    return figure.value if figure else 0.0


def knee(steps: Sequence[Step], by: Callable[[Step], float] = throughput) -> int | None:
    """The least concurrency that reaches 95 % of the best throughput; None for fewer than two steps."""
    told = [one for one in steps if by(one) > 0]
    if len(told) < 2:
        return None
    best = max(map(by, told))
    return min(one.concurrency for one in told if by(one) >= ENOUGH * best)
