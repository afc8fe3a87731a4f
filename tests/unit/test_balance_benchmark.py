"""The benchmark of balancing: its traces, the exact queue that all is measured against, and a short run."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from _balance_table import Found, Gain, Run, bars, burst_trace, gain, load, ratios, steady_trace, table
from _balancers import ROUTING, STRATEGIES
from _page import put
from _trace import Trace, above, burst, ideal, least_conn, percentile, poisson, round_robin, summary

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
POLICIES = (ideal, least_conn, round_robin)
TIMES = st.floats(0, 10, allow_nan=False)
EXACT = st.integers(0, 640).map(lambda n: n / 64)  # sums and halves of these have no rounding


def traces(most: int = 40, times: st.SearchStrategy[float] = TIMES) -> st.SearchStrategy[Trace]:
    def made(rows: list[tuple[float, float]]) -> Trace:
        arrivals = sorted(arrival for arrival, _ in rows)
        return Trace(tuple(arrivals), tuple(service for _, service in rows), (0,) * len(rows))

    return st.lists(st.tuples(times, times), min_size=1, max_size=most).map(made)


# --------------------------------------------------------------------------------- the policies
def test_the_ideal_queue_by_hand() -> None:
    trace = Trace((0, 0, 1, 1, 9), (4, 1, 2, 1, 1), (0,) * 5)
    assert ideal(trace, 1) == [4, 5, 6, 7, 1]
    assert ideal(trace, 2) == [4, 1, 2, 3, 1]
    assert ideal(trace, 5) == [4, 1, 2, 1, 1]


def test_least_conn_by_hand() -> None:
    trace = Trace((0, 0, 1, 1), (5, 1, 2, 1), (0,) * 4)
    assert least_conn(trace, 2) == [5, 1, 2, 5]  # the fourth finds one request on each, and takes its turn
    assert round_robin(trace, 2) == [5, 1, 6, 1]


@given(traces())
def test_one_server_is_lindleys_recursion(trace: Trace) -> None:
    wait, expected = 0.0, []
    for n, (arrival, service) in enumerate(zip(trace.arrivals, trace.services, strict=True)):
        if n:
            wait = max(0.0, wait + trace.services[n - 1] - (arrival - trace.arrivals[n - 1]))
        expected.append(wait + service)
    for policy in POLICIES:
        assert policy(trace, 1) == pytest.approx(expected)


@given(traces(), st.integers(1, 9))
def test_nobody_is_served_in_less_than_the_service_takes(trace: Trace, servers: int) -> None:
    for policy in POLICIES:
        found = policy(trace, servers)
        assert all(latency >= service - 1e-9 for latency, service in zip(found, trace.services, strict=True))
    assert ideal(trace, len(trace)) == pytest.approx(trace.services)


@given(traces(times=EXACT), st.integers(1, 6))
def test_the_ideal_never_idles_while_somebody_waits(trace: Trace, servers: int) -> None:
    """What makes it the one queue: while a request waits, all servers are busy with earlier ones."""
    found = ideal(trace, servers)
    begins = [a + t - s for a, t, s in zip(trace.arrivals, found, trace.services, strict=True)]
    ends = [a + t for a, t in zip(trace.arrivals, found, strict=True)]
    assert begins == pytest.approx(sorted(begins)), "first come, first served"
    for n, (arrival, begin) in enumerate(zip(trace.arrivals, begins, strict=True)):
        if begin > arrival + 1e-6:
            middle = (arrival + begin) / 2
            assert sum(b <= middle < e for b, e in zip(begins[:n], ends[:n], strict=True)) == servers


@given(traces(), st.integers(1, 6))
def test_one_more_server_makes_nobody_wait_longer(trace: Trace, servers: int) -> None:
    more = ideal(trace, servers + 1)
    assert all(a <= b + 1e-9 for a, b in zip(more, ideal(trace, servers), strict=True))


@given(st.lists(TIMES, min_size=1, max_size=40), TIMES, st.integers(2, 6))
def test_with_equal_services_no_policy_ends_its_requests_earlier(
    arrivals: list[float], service: float, servers: int
) -> None:
    """With services that differ, luck may favour another policy on one trace; with equal ones it can't."""
    trace = Trace(tuple(sorted(arrivals)), (service,) * len(arrivals), (0,) * len(arrivals))

    def ends(policy: Callable[[Trace, int], list[float]]) -> list[float]:
        return sorted(a + t for a, t in zip(trace.arrivals, policy(trace, servers), strict=True))

    for policy in (least_conn, round_robin):
        assert all(a <= b + 1e-9 for a, b in zip(ends(ideal), ends(policy), strict=True))


@pytest.mark.parametrize("servers", [2, 4, 8])
def test_over_long_traces_the_order_of_the_policies_is_the_known_one(servers: int) -> None:
    trace = poisson(1, servers, rho=0.8, seconds=2500, mean=0.3, cv=1.3)
    best, least, dealt = (statistics.fmean(policy(trace, servers)) for policy in POLICIES)
    assert best < least < dealt
    assert least < 1.3 * best
    assert dealt > 1.3 * best


def test_one_queue_of_exponential_services_waits_as_erlang_says() -> None:
    """M/M/2 at a load of 0.8: the mean latency is the service by 1 - rho²."""
    chance = random.Random(5)
    arrivals, clock = [], 0.0
    for _ in range(100_000):
        clock += chance.expovariate(1.6)
        arrivals.append(clock)
    trace = Trace(tuple(arrivals), tuple(chance.expovariate(1) for _ in arrivals), (0,) * len(arrivals))
    assert statistics.fmean(ideal(trace, 2)) == pytest.approx(1 / (1 - 0.8**2), rel=0.05)


# ----------------------------------------------------------------------------------- the traces
@pytest.mark.parametrize("servers", [2, 8])
def test_a_trace_is_what_was_asked_for(servers: int) -> None:
    trace = poisson(3, servers, rho=0.8, seconds=3000, mean=0.3, cv=1.3)
    assert len(trace) == round(0.8 * servers * 3000 / 0.3)
    assert list(trace.arrivals) == sorted(trace.arrivals)
    assert trace.arrivals[0] >= 0
    assert trace.arrivals[-1] <= 3000
    assert statistics.fmean(trace.services) == pytest.approx(0.3)
    assert statistics.pstdev(trace.services) / 0.3 == pytest.approx(1.3, rel=0.15)
    gaps = [b - a for a, b in zip(trace.arrivals, trace.arrivals[1:], strict=False)]
    assert statistics.pstdev(gaps) / statistics.fmean(gaps) == pytest.approx(1, rel=0.05)
    assert len(set(trace.clients)) == 40


def test_a_seed_is_one_trace_and_no_other() -> None:
    assert steady_trace(1, 2, 50) == steady_trace(1, 2, 50)
    assert steady_trace(1, 2, 50) != steady_trace(2, 2, 50)
    assert burst_trace(1, 9) == burst(1, 9, mean=0.3, cv=1.3)
    assert set(burst_trace(1, 9).arrivals) == {0}


# ------------------------------------------------------------------------------------ the figures
def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert percentile([7.0], 0.5) == 7
    assert summary([3.0, 1.0, 2.0]).p50 == 2
    assert above([1, 2, 3, 4], 2) == 0.5
    assert above([1.0], 1.0) == 0


def found_of(policy: Callable[[Trace, int], list[float]], strategy: str = "gate") -> Found:
    found = Found(50, 0, 1, {strategy: strategy})
    for seed in range(3):
        for servers in (4, 8):
            found.steady.append(
                Run(strategy, servers, seed, policy(steady_trace(seed, servers, 50), servers))
            )  # type: ignore[arg-type]
    return found


def test_a_bar_holds_for_the_ideal_and_is_missed_by_dealing_out() -> None:
    assert ratios(found_of(ideal), 4, "gate").mean == 1
    assert [line[:6] for line in bars(found_of(ideal))] == ["holds ", "holds ", "holds "]
    assert [line[:6] for line in bars(found_of(round_robin))] == ["MISSED", "MISSED", "holds "]
    broken = found_of(ideal)
    broken.steady[0].latencies[0] = None
    assert list(bars(broken))[-1] == "MISSED  1 requests failed"


def test_the_table_tells_of_lower_bounds_and_failures() -> None:
    found = found_of(ideal)
    assert "lower bounds" not in "\n".join(table(found, 4))
    found.of(4, "gate")[0].unfinished = 160
    found.of(4, "gate")[0].latencies[0] = None
    text = "\n".join(table(found, 4))
    assert "10% not answered in time: figures are lower bounds" in text
    assert "1 of 1599 failed" in text


def test_what_is_kept_as_json_is_the_same_again() -> None:
    found = found_of(least_conn)
    assert load(json.loads(json.dumps(found.json()))) == found


def test_a_plot_is_the_same_for_the_same_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from _balance_plot import draw

    for name in ("one.svg", "two.svg"):
        draw(found_of(least_conn), tmp_path / name)
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    assert "<dc:date>" not in text


def test_two_instances_by_one() -> None:
    assert gain([1, 2, 3, 4], [1, 1, 2, 2]) == Gain(2, 0.6)


def test_figures_are_put_on_a_page_between_comments(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x -->\nold\n<!-- end -->\nb\n<!-- y -->\n<!-- end -->\n")
    put(page, "y", "\n1 \\1\n")
    put(page, "x", "2")
    text = "a\n<!-- x -->\n```text\n2\n```\n<!-- end -->\nb\n<!-- y -->\n```text\n1 \\1\n```\n<!-- end -->\n"
    assert page.read_text() == text
    with pytest.raises(SystemExit, match="no <!-- z -->"):
        put(page, "z", "3")


def test_the_page_has_figures_of_every_strategy() -> None:
    """They are put there by the command; which ones, the machine says."""
    page = (BENCHMARKS.parent / "docs" / "balancing.md").read_text(encoding="utf-8")
    for servers in (2, 4, 8):
        assert f"\n{servers} instances, " in page
    for one in STRATEGIES.values():
        assert page.count(f"\n{one.label} ") >= 3, one.label
    for one in ROUTING:
        assert page.count(f"\n{one.label} ") == 2, one.label


# --------------------------------------------------------------------------------------- a run
def test_a_short_run(tmp_path: Path, need: Callable[[str], str]) -> None:
    """Every request gets its whole answer; none before its service is over, none lost or counted twice."""
    need("nginx")
    file = tmp_path / "found.json"
    words = ["--seeds", "1", "--seconds", "3", "--servers", "2", "--burst", "6", "--only", "least_conn,usual"]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "balance.py"), *words, "--json", str(file)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 instances, 16 requests in 3 s, one seed" in done.stdout
    assert "holds   0 requests failed" in done.stdout
    found = load(json.loads(file.read_text()))
    assert [run.strategy for run in found.steady] == ["least_conn", "usual"]
    assert len(found.bursts) == 4
    for run in found.steady:
        trace = found.trace(run)
        assert sum(run.served) == len(run.latencies) == len(trace)
        assert all(t > s for t, s in zip(run.answered, trace.services, strict=True))
