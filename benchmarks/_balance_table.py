"""What benchmarks/balance.py measured, as tables, and whether it is as near to the ideal as ogen says."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from _trace import WHAT, Summary, Trace, burst, ideal, least_conn, poisson, round_robin, summary

MEAN, CV = 0.3, 1.3  # seconds of a service, and its coefficient of variation
RHO = 0.8
BARS = {"gate": 1.05, "least_conn": 1.30}  # mean by the ideal's
BAR_SERVERS = (4, 8)
MAKESPAN, HALVED = 1.9, 0.52  # in the exact queue, too, 100 requests on two instances wait 0.51 of the time
#: what the policies make of a trace where nothing else costs time
COMPUTED: Mapping[str, Callable[[Trace, int], list[float]]] = {
    "ideal": ideal,
    "least_conn, computed": least_conn,
    "round robin, computed": round_robin,
}


@dataclass(slots=True)
class Run:
    """One strategy, one trace. Latencies in the order of arrival, None for a request that failed."""

    strategy: str
    servers: int
    seed: int
    latencies: list[float | None]
    unfinished: int = 0
    served: list[int] = field(default_factory=list)  # by each instance

    @property
    def answered(self) -> list[float]:
        return [value for value in self.latencies if value is not None]

    @property
    def failed(self) -> int:
        return self.latencies.count(None)


@dataclass(slots=True)
class Found:
    """All that is measured, with what it takes to compute the traces again."""

    seconds: float  # of arrivals
    burst: int  # requests
    grace: float
    labels: dict[str, str]
    steady: list[Run] = field(default_factory=list)
    bursts: list[Run] = field(default_factory=list)
    machine: list[dict[str, float]] = field(default_factory=list)

    def trace(self, run: Run) -> Trace:
        return steady_trace(run.seed, run.servers, self.seconds)

    def of(self, servers: int, strategy: str) -> list[Run]:
        return [run for run in self.steady if (run.servers, run.strategy) == (servers, strategy)]

    @property
    def sizes(self) -> list[int]:
        return sorted({run.servers for run in self.steady})

    def json(self) -> dict[str, Any]:
        return {"version": 1, **asdict(self)}


def load(told: Mapping[str, Any]) -> Found:
    values = {key: value for key, value in told.items() if key != "version"}
    for key in ("steady", "bursts"):
        values[key] = [Run(**run) for run in values[key]]
    return Found(**values)


def steady_trace(seed: int, servers: int, seconds: float) -> Trace:
    return poisson(seed, servers, rho=RHO, seconds=seconds, mean=MEAN, cv=CV)


def burst_trace(seed: int, count: int) -> Trace:
    return burst(seed, count, mean=MEAN, cv=CV)


# ---------------------------------------------------------------------------------- the steady load
def medians(summaries: Sequence[Summary]) -> Summary:
    return Summary(*(statistics.median(getattr(s, what) for s in summaries) for what in WHAT))


def by_ideal(summaries: Sequence[Summary], ideals: Sequence[Summary]) -> Summary:
    """Medians of each seed's figure by the ideal of the same seed."""
    pairs = list(zip(summaries, ideals, strict=True))
    return Summary(*(statistics.median(getattr(a, w) / getattr(b, w) for a, b in pairs) for w in WHAT))


def ratios(found: Found, servers: int, strategy: str) -> Summary:
    runs = found.of(servers, strategy)
    ideals = [summary(ideal(found.trace(run), servers)) for run in runs]
    return by_ideal([summary(run.answered) for run in runs], ideals)


def table(found: Found, servers: int) -> Iterator[str]:
    runs = [run for run in found.steady if run.servers == servers]
    seeds = sorted({run.seed for run in runs})
    traces = [steady_trace(seed, servers, found.seconds) for seed in seeds]
    yield f"{servers} instances, {len(traces[0])} requests in {found.seconds:g} s, {_seeds(len(seeds))}"
    yield f"{'':28}" + "".join(f"{what:>8}    by ideal" for what in WHAT)
    ideals = [summary(ideal(trace, servers)) for trace in traces]
    for label, policy in COMPUTED.items():
        yield _line(label, [summary(policy(trace, servers)) for trace in traces], ideals)
    for strategy in dict.fromkeys(run.strategy for run in runs):
        own = found.of(servers, strategy)
        cut, failed = sum(run.unfinished for run in own), sum(run.failed for run in own)
        total = sum(len(run.latencies) for run in own)
        note = f"  {cut / total:.0%} not answered in time: figures are lower bounds" if cut else ""
        note += f"  {failed} of {total} failed" if failed else ""
        yield _line(found.labels[strategy], [summary(run.answered) for run in own], ideals) + note


def _line(label: str, summaries: Sequence[Summary], ideals: Sequence[Summary]) -> str:
    middle, ratio = medians(summaries), by_ideal(summaries, ideals)
    cells = (f"{getattr(middle, w):8.2f} {'×' + format(getattr(ratio, w), '.2f'):>11}" for w in WHAT)
    return f"{label:28}" + "".join(cells)


def _seeds(count: int) -> str:
    return f"medians of {count} seeds" if count > 1 else "one seed"


# ---------------------------------------------------------------------------------- all at once
@dataclass(frozen=True, slots=True)
class Gain:
    """Two instances by one, of one seed: how many times as fast, and what is left of the mean latency."""

    makespan: float
    mean: float


def gain(one: Sequence[float], two: Sequence[float]) -> Gain:
    return Gain(max(one) / max(two), statistics.fmean(two) / statistics.fmean(one))


def gains(found: Found) -> dict[str, list[Gain]]:
    seeds = sorted({run.seed for run in found.bursts})
    traces = [burst_trace(seed, found.burst) for seed in seeds]
    all_ = {label: [gain(p(t, 1), p(t, 2)) for t in traces] for label, p in COMPUTED.items()}
    all_["least_conn = round robin, computed"] = all_.pop("least_conn, computed")
    del all_["round robin, computed"]
    by = {(run.strategy, run.seed, run.servers): run.answered for run in found.bursts}
    for strategy in dict.fromkeys(run.strategy for run in found.bursts):
        all_[found.labels[strategy]] = [gain(by[strategy, s, 1], by[strategy, s, 2]) for s in seeds]
    return all_


def burst_table(found: Found) -> Iterator[str]:
    seeds = len({run.seed for run in found.bursts})
    yield f"{found.burst} requests at once, two instances by one, {_seeds(seeds)}"
    yield f"{'':36}{'times as fast':>20}{'mean latency by':>20}"
    for label, each in gains(found).items():
        shown = _spread([g.makespan for g in each]), _spread([g.mean for g in each])
        yield f"{label:36}{shown[0]:>20}{shown[1]:>20}"
    failed = sum(run.failed + run.unfinished for run in found.bursts)
    if failed:
        yield f"{failed} requests failed or were not answered in time"


def _spread(values: Sequence[float]) -> str:
    return f"×{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


# ---------------------------------------------------------------------------------- what was said
def bars(found: Found) -> Iterator[str]:
    for strategy, bar in BARS.items():
        for servers in BAR_SERVERS:
            if found.of(servers, strategy):
                ratio = ratios(found, servers, strategy).mean
                text = f"{servers} instances, {found.labels[strategy]}: mean ×{ratio:.3f} of the ideal"
                yield f"{_word(ratio <= bar)}  {text}, bar ×{bar:.2f}"
    each = gains(found).get(found.labels.get("gate", "")) if found.bursts else None
    if each:
        span = statistics.median(g.makespan for g in each)
        mean = statistics.median(g.mean for g in each)
        yield f"{_word(span >= MAKESPAN)}  at once, gate: two instances ×{span:.2f} as fast, bar ×{MAKESPAN}"
        yield f"{_word(mean <= HALVED)}  at once, gate: mean latency ×{mean:.2f}, bar ×{HALVED}"
    broken = sum(run.failed for run in [*found.steady, *found.bursts])
    yield f"{_word(not broken)}  {broken} requests failed"


def _word(good: bool) -> str:
    return "holds " if good else "MISSED"


def disturbed(found: Found) -> Iterator[str]:
    """How busy the machine was, whoever used it, and how late timers were: the worst part of the run."""
    worst = {key: max(part[key] for part in found.machine) for key in found.machine[0]}
    late = {key: f"{seconds * 1e3:.0f} ms" for key, seconds in worst.items()}
    yield (
        f"machine at its worst: {worst['busy']:.0%} of {worst['cores']} cores busy; requests sent late by "
        f"{late['sent_p99']} (p99), {late['sent_max']} (most); answers ended late by "
        f"{late['ended_p99']} (p99), {late['ended_max']} (most)"
    )
    if worst["busy"] > 0.6 or max(worst["sent_p99"], worst["ended_p99"]) > 0.02:
        yield "DISTURBED: the machine was too busy for these figures; repeat on a quiet one"
