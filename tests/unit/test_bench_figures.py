"""Statistics of load from records: throughput, percentiles, intervals, the knee, and two runs compared."""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from ogen.errors import UsageError
from ogen.observe.bench_compare import compare, steps
from ogen.observe.bench_figures import Figure, Record, Step, half_width, knee, likeness, spread, step


def closed_loop(
    places: int, slots: int, requests: int, service: Callable[[], float], tokens: int = 10
) -> list[Record]:
    """What a run would measure where nothing else costs time: one queue, first come first served."""
    free, idle, records = [0.0] * slots, [0.0] * places, []
    for _ in range(requests):
        start = heapq.heappop(idle)
        begin = max(start, heapq.heappop(free))
        end = begin + service()
        heapq.heappush(free, end)
        heapq.heappush(idle, end)
        records.append(Record(start, end, begin + 0.01, tokens))
    return records


def document(*found: Step, **asked: Any) -> dict[str, Any]:
    made = {"version": 1, "asked": {"model": "chat", **asked}, "steps": [asdict(one) for one in found]}
    return dict(json.loads(json.dumps(made)))


def test_a_constant_service_gives_exact_figures() -> None:
    one = step(closed_loop(8, 4, 400, lambda: 0.5), 8)
    assert one.requests_per_second
    assert one.requests_per_second.value == pytest.approx(8, rel=1e-9), "4 slots, each 2 by second"
    assert one.latency["p50"].value == pytest.approx(1.0)
    assert one.tokens_per_second
    assert one.tokens_per_second.value == pytest.approx(80, rel=1e-9)
    assert one.first_token["p99"].value == pytest.approx(0.51)
    assert one.requests == 400


def test_the_empty_end_of_a_run_is_not_the_fleets_fault() -> None:
    """The last request takes a hundred times as long: throughput is that of the time before."""
    services = [0.1] * 99 + [10.0]
    one = step(closed_loop(4, 4, 100, iter(services).__next__), 4)
    assert one.requests_per_second
    assert one.requests_per_second.value == pytest.approx(40, rel=1e-9)
    assert one.seconds == pytest.approx(12.4)


def test_a_run_that_is_too_short_for_a_window() -> None:
    one = step([Record(0, 2.0, 1.0, 5), Record(0, 4.0, 1.0, 5)], 2)
    assert one.requests_per_second == Figure(0.5)
    assert one.latency["p99"] == Figure(4.0)
    assert step([], 2).requests_per_second is None
    none = step([Record(0, 1, error="HTTP 500")] * 3, 2)
    assert (none.failed, none.errors, none.latency) == (3, {"HTTP 500": 3}, {})


def test_the_speed_of_an_answer_is_the_instances_own_word_where_it_has_one() -> None:
    own = step([Record(0, 9, 1, 100, generated=2.0)], 1)
    counted = step([Record(0, 9, 1, 81)], 1)
    assert (own.speed["p50"].value, counted.speed["p50"].value) == (50, 10)


def test_percentiles_are_the_smallest_value_that_so_many_do_not_exceed() -> None:
    found = spread([float(n) for n in range(1, 101)])
    assert [found[p].value for p in ("p50", "p95", "p99", "least", "most")] == [50, 95, 99, 1, 100]
    assert spread([3.0])["p99"] == Figure(3.0)
    assert found["p99"].low is None, "of 100 values nothing is known beyond the 99th"


@pytest.mark.parametrize("name", ["mean", "p50", "p95"])
def test_intervals_hold_the_truth_as_often_as_they_say(name: str) -> None:
    true = {"mean": 1.0, "p50": 0.693147, "p95": 2.995732}[name]
    chance = random.Random(3)
    held = 0
    for _ in range(300):
        found = spread([chance.expovariate(1) for _ in range(300)])[name]
        assert found.low is not None
        assert found.high is not None
        held += found.low <= true <= found.high
    assert 0.92 <= held / 300 <= 1


def test_values_that_resemble_their_neighbours_count_for_less() -> None:
    chance = random.Random(5)
    alone = [chance.gauss(1, 0.1) for _ in range(400)]
    alike = [alone[n - n % 20] for n in range(400)]
    assert likeness(alone) < 2.5
    assert likeness(alike) > 8
    narrow, wide = half_width(alone), half_width(alike)
    assert narrow
    assert wide
    assert wide > 2 * narrow
    assert half_width([1.0] * 4) is None


def run(seed: int, mean: float, requests: int = 600) -> Step:
    chance = random.Random(seed)
    return step(closed_loop(16, 8, requests, lambda: mean * chance.lognormvariate(0, 0.5)), 16)


def test_two_runs_of_the_same_rarely_differ_and_a_change_of_a_tenth_is_found() -> None:
    wrong, found = 0, 0
    for seed in range(40):
        a, same, slower = run(seed, 1.0), run(1000 + seed, 1.0), run(2000 + seed, 1.1)
        first = {c.name: c.verdict for c in compare(document(a), document(same)).changes}
        second = {c.name: c.verdict for c in compare(document(a), document(slower)).changes}
        wrong += first["requests/s"] not in ("same", "unsure")
        found += second["requests/s"] == "worse"
        assert second["latency mean"] != "better"
    assert wrong <= 4
    assert found >= 24


def test_what_more_is_better_of() -> None:
    a, b = run(1, 1.0), run(2, 0.5)
    found = compare(document(a), document(b))
    assert {c.verdict for c in found.changes if c.name in ("requests/s", "latency mean", "latency p50")} == {
        "better"
    }
    assert not found.worse
    back = compare(document(b), document(a))
    assert back.worse
    change = next(c for c in back.changes if c.name == "requests/s")
    assert change.ratio == pytest.approx(0.5, rel=0.1)
    assert change.low
    assert change.high
    assert change.low < change.ratio < change.high


def test_too_few_requests_say_nothing() -> None:
    a, b = step([Record(0, 2, 1, 9)], 1), step([Record(0, 9, 1, 9)], 1)
    assert {c.verdict for c in compare(document(a), document(b)).changes} == {"unsure"}


def test_runs_of_other_work_are_said_to_be_so() -> None:
    found = compare(document(run(1, 1.0)), document(run(2, 1.0), model="coder"))
    assert found.remarks == ("they did not ask for the same: model 'chat' and 'coder'",)


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"version": 1},
        {"version": 1, "asked": {}, "steps": []},
        {"version": 1, "asked": {}, "steps": [3]},
        {"version": 2, "asked": {}, "steps": [{"concurrency": 1}]},
    ],
)
def test_what_is_no_saved_run(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        steps(bad)


def test_damaged_figures_are_left_out() -> None:
    bad = document(run(1, 1.0))
    bad["steps"][0] |= {"latency": "x", "requests_per_second": {"value": "1"}, "tokens_per_second": None}
    names = {c.name for c in compare(bad, document(run(1, 1.0))).changes}
    assert "first token p50" in names
    assert not names & {"requests/s", "tokens/s", "latency p50"}


def test_other_concurrencies_can_t_be_compared() -> None:
    with pytest.raises(UsageError, match="16 and 4"):
        compare(document(run(1, 1.0)), document(step(closed_loop(4, 4, 50, lambda: 1.0), 4)))


def test_the_knee_is_the_least_that_reaches_95_percent_of_the_best() -> None:
    def at(places: int) -> Step:
        return step(closed_loop(places, 8, 40 * places, lambda: 0.5), places)

    sweep = [at(n) for n in (1, 2, 4, 8, 16, 32)]
    assert knee(sweep) == 8
    assert knee(sweep[:3]) == 4
    assert knee(sweep[:1]) is None
    assert knee([]) is None
