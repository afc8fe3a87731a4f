"""Traces of requests, and what policies make of them when nothing costs time: pure functions."""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of their arrival; times in seconds from the beginning."""

    arrivals: tuple[float, ...]
    services: tuple[float, ...]
    clients: tuple[int, ...]  # who sends it: an address and a session of its own

    def __len__(self) -> int:
        return len(self.arrivals)


def poisson(seed: int, servers: int, *, rho: float, seconds: float, mean: float, cv: float) -> Trace:
    """A Poisson process, given its number: so many that servers are busy for `rho` of the time."""
    chance = random.Random(f"poisson {seed} {servers}")
    count = round(rho * servers * seconds / mean)
    arrivals = sorted(chance.uniform(0, seconds) for _ in range(count))
    return Trace(tuple(arrivals), _services(chance, count, mean, cv), _clients(chance, count))


def burst(seed: int, count: int, *, mean: float, cv: float) -> Trace:
    """All at once."""
    chance = random.Random(f"burst {seed}")
    return Trace((0.0,) * count, _services(chance, count, mean, cv), _clients(chance, count))


CLIENTS = 40


def _clients(chance: random.Random, count: int) -> tuple[int, ...]:
    return tuple(chance.randrange(CLIENTS) for _ in range(count))


def _services(chance: random.Random, count: int, mean: float, cv: float) -> tuple[float, ...]:
    """Lognormal, then scaled to exactly the mean: else a seed's load is chance, and few seeds say little."""
    sigma = math.sqrt(math.log(1 + cv * cv))
    drawn = [chance.lognormvariate(0, sigma) for _ in range(count)]
    scale = mean * count / sum(drawn) if drawn else 0
    return tuple(value * scale for value in drawn)


# ------------------------------------------------------------------------- policies, computed
def ideal(trace: Trace, servers: int) -> list[float]:
    """Latencies of one queue for all servers, first come, first served: whoever is free takes the next."""
    free = [0.0] * servers
    latencies = []
    for arrival, service in zip(trace.arrivals, trace.services, strict=True):
        end = max(arrival, heapq.heappop(free)) + service
        heapq.heappush(free, end)
        latencies.append(end - arrival)
    return latencies


def round_robin(trace: Trace, servers: int) -> list[float]:
    """Latencies where requests are dealt out in turn, and wait at the server that they were dealt to."""
    return _dealt(trace, [number % servers for number in range(len(trace))], servers)


def least_conn(trace: Trace, servers: int) -> list[float]:
    """Latencies where each goes to a server with the fewest requests; servers take turns among equals."""
    busy: list[deque[float]] = [deque() for _ in range(servers)]  # the ends of what each has, in order
    latencies, turn = [], 0
    for arrival, service in zip(trace.arrivals, trace.services, strict=True):
        for ends in busy:
            while ends and ends[0] <= arrival:
                ends.popleft()
        chosen = min(range(servers), key=lambda n: (len(busy[n]), (n - turn) % servers))
        turn = (chosen + 1) % servers
        end = max(arrival, busy[chosen][-1] if busy[chosen] else 0.0) + service
        busy[chosen].append(end)
        latencies.append(end - arrival)
    return latencies


def _dealt(trace: Trace, chosen: Sequence[int], servers: int) -> list[float]:
    free = [0.0] * servers
    latencies = []
    for arrival, service, server in zip(trace.arrivals, trace.services, chosen, strict=True):
        free[server] = max(arrival, free[server]) + service
        latencies.append(free[server] - arrival)
    return latencies


# ------------------------------------------------------------------------------ what is told
@dataclass(frozen=True, slots=True)
class Summary:
    """Seconds."""

    mean: float
    p50: float
    p95: float
    p99: float


WHAT = ("mean", "p50", "p95", "p99")


def summary(latencies: Sequence[float]) -> Summary:
    ordered = sorted(latencies)
    return Summary(math.fsum(ordered) / len(ordered), *(percentile(ordered, p) for p in (0.5, 0.95, 0.99)))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def above(ordered: Sequence[float], bound: float) -> float:
    """The share of values that exceed the bound."""
    return 1 - bisect_right(ordered, bound) / len(ordered)
