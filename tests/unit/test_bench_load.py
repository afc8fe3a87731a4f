"""Load against backends whose service times are known: what is reported is what they logged themselves."""

from __future__ import annotations

import asyncio
import heapq
import math
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from known_backend import Backend, Plan

from ogen.observe.bench_answers import Asked
from ogen.observe.bench_figures import Step, step
from ogen.observe.bench_link import Target
from ogen.observe.bench_load import Bounds, Load, load

ASKED = Asked("chat", "Why is the sky blue?", 20)
SLOTS, PLACES, REQUESTS, MEAN = 54, 108, 324, 0.9


def lognormal(seed: int, count: int, mean: float, cv: float) -> list[float]:
    chance, sigma = random.Random(seed), math.sqrt(math.log(1 + cv * cv))
    drawn = [chance.lognormvariate(0, sigma) for _ in range(count)]
    return [value * mean * count / sum(drawn) for value in drawn]


def measured(plan: Plan, places: int, bounds: Bounds, asked: Asked = ASKED) -> tuple[Load, Backend]:
    with Backend(plan) as backend:
        found = load(Target.of(backend.url, plan.key), asked, places, bounds)
    return found, backend


def truth(backend: Backend) -> dict[str, float]:
    """By the backend's own clock and log, and none of ogen's code."""
    rows = backend.rows
    latencies = sorted(row["last"] - row["came"] for row in rows)
    firsts = sorted(row["first"] - row["came"] for row in rows)
    begin, last = rows[0]["came"], rows[-1]["came"]
    served = sum(row["last"] <= last for row in rows)
    found = {"requests/s": served / (last - begin)}
    for name, values in (("latency", latencies), ("first", firsts)):
        found[f"{name} mean"] = math.fsum(values) / len(values)
        found |= {f"{name} p{p}": not_exceeded_by(values, p) for p in (50, 95, 99)}
    return found


def not_exceeded_by(values: list[float], percent: int) -> float:
    """The least value that so many percent of all do not exceed, by counting them."""
    return min(one for one in values if 100 * sum(v <= one for v in values) >= percent * len(values))


def ends(services: list[float]) -> list[float]:
    """When each request would end where nothing costs time: the one queue is never empty."""
    free, found = [0.0] * SLOTS, []
    for service in services:
        found.append(heapq.heappop(free) + service)
        heapq.heappush(free, found[-1])
    return found


def reported(one: Step) -> dict[str, float]:
    assert one.requests_per_second
    found = {"requests/s": one.requests_per_second.value}
    for name in ("mean", "p50", "p95", "p99"):
        found[f"latency {name}"] = one.latency[name].value
        found[f"first {name}"] = one.first_token[name].value
    return found


def wrong(found: dict[str, float], true: dict[str, float], by: float = 0.03) -> dict[str, float]:
    """What strays by more than 3 %, with its ratio."""
    assert found.keys() == true.keys()
    return {name: found[name] / true[name] for name in true if abs(found[name] / true[name] - 1) > by}


@pytest.mark.parametrize("kind", ["deterministic", "random"])
def test_what_is_reported_is_within_3_percent_of_the_truth(kind: str) -> None:
    staggered = [MEAN * (n + 1) / SLOTS for n in range(SLOTS)]  # else all slots end in the same instant
    constant = staggered + [MEAN] * (REQUESTS - SLOTS)
    services = constant if kind == "deterministic" else lognormal(7, REQUESTS, MEAN, 0.6)
    for _ in range(3):  # again only if the client itself says that the machine kept it from measuring
        found, backend = measured(Plan(services, SLOTS), PLACES, Bounds(requests=REQUESTS))
        if found.late < 0.02 * MEAN * PLACES / SLOTS:
            break
    else:
        assert found.cpu < 0.3, "it was late by itself"
        pytest.skip(
            f"the machine has no time for a client: {found.late:.3f} s late, {found.cpu:.0%} of a core"
        )
    one = step(found.records, PLACES)
    assert (one.requests, one.failed, len(backend.rows)) == (REQUESTS, 0, REQUESTS)
    true = truth(backend)
    assert wrong(reported(one), true) == {}
    # the service times that were asked for, whatever anybody's clock says
    assert one.requests_per_second
    ideal = (REQUESTS - PLACES) / sorted(ends(services))[REQUESTS - PLACES - 1]
    assert one.requests_per_second.value == pytest.approx(ideal, rel=0.03)
    assert one.tokens_per_second
    assert one.tokens_per_second.value == pytest.approx(20 * ideal, rel=0.03)
    assert one.speed["p50"].value == pytest.approx(100), "by the backend's own word: 10 ms for a token"
    # and this test can fail
    assert set(wrong(reported(one), {name: 1.07 * value for name, value in true.items()})) == set(true)


@pytest.mark.parametrize("close", [False, True])
def test_the_openai_api(close: bool) -> None:
    plan = Plan([0.02], 2, openai=True, close=close)
    found, backend = measured(plan, 2, Bounds(requests=10), Asked("chat", "hello", 20, "openai"))
    assert [(r.error, r.tokens, r.prompt_tokens) for r in found.records] == [("", 20, 7)] * 10
    body = backend.rows[3]["body"]
    assert body["stream"] is True
    assert body["max_tokens"] == 20
    assert "/v1/chat/completions" in backend.rows[3]["head"]
    assert body["messages"][0]["content"].endswith(". hello")
    prompts = [row["body"]["messages"][0]["content"] for row in backend.rows]
    assert len(set(prompts)) == 10, "a prompt that was there before would be in the instance's cache"


def test_failures_are_counted_by_what_they_say() -> None:
    found, _ = measured(Plan([0.01], 4, fail=[2, 5], cut=[7]), 2, Bounds(requests=12))
    one = step(found.records, 2)
    assert (one.requests, one.failed) == (9, 3)
    assert one.errors == {
        "HTTP 500: CUDA out of memory": 2,
        "the connection was closed in the middle of an answer": 1,
    }


def test_a_key_is_sent_and_a_missing_one_ends_it_soon() -> None:
    key = "sk-bench-0123456789abcdef"
    found, backend = measured(Plan([0.01], 2, key=key), 2, Bounds(requests=4))
    assert not [r.error for r in found.records if r.error]
    assert key not in repr(Target.of(backend.url, key))
    with Backend(Plan([0.01], 2, key=key)) as backend:
        found = load(Target.of(backend.url), ASKED, 8, Bounds(seconds=600))
    assert found.hopeless
    assert len(found.records) < 40
    assert {r.error for r in found.records} == {"HTTP 401: no key, or not a good one"}


def test_a_request_may_not_take_for_ever_and_nobody_there_is_said() -> None:
    found, _ = measured(Plan([30.0], 2), 2, Bounds(requests=2, timeout=0.2))
    assert {r.error for r in found.records} == {"no whole answer within 0.2 s"}
    with Backend(Plan([0.01])) as backend:
        pass
    found = load(Target.of(backend.url), ASKED, 1, Bounds(requests=1))
    assert "refused" in found.records[0].error or "connect" in found.records[0].error.lower()


def test_a_run_ends_with_its_time() -> None:
    told: list[tuple[float, int, int]] = []
    with Backend(Plan([0.05], 4)) as backend:
        found = load(
            Target.of(backend.url), ASKED, 4, Bounds(seconds=1.2), tell=lambda *word: told.append(word)
        )
    assert max(r.start for r in found.records) <= 1.2
    assert all(not r.error for r in found.records)
    assert told
    assert told[-1][1] > 0


def test_ctrl_c_ends_it_with_what_was_measured() -> None:
    with Backend(Plan([0.02], 4)) as backend:

        def interrupt() -> None:
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGINT)

        before = signal.getsignal(signal.SIGINT)
        threading.Thread(target=interrupt).start()
        found = load(Target.of(backend.url), ASKED, 4, Bounds(seconds=600))
    assert found.interrupted
    assert len(found.records) > 4
    assert signal.getsignal(signal.SIGINT) is before


def test_tls_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's authorities do not know it; SSL_CERT_FILE does."""
    files = [str(tmp_path / name) for name in ("crt.pem", "key.pem")]
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x -days 2"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    with Backend(Plan([0.01], tls=files)) as backend:
        unknown = load(Target.of(backend.url), ASKED, 1, Bounds(requests=1))
        monkeypatch.setenv("SSL_CERT_FILE", files[0])
        known = load(Target.of(backend.url), ASKED, 2, Bounds(requests=6))
    assert "the certificate is not trusted" in unknown.records[0].error
    assert [r.error for r in known.records] == [""] * 6


@pytest.mark.parametrize("url", ["ftp://x", "balancer:8080", "http://", "http://a:b@c", "http://x:99999"])
def test_what_is_no_url(url: str) -> None:
    from ogen.errors import UsageError

    with pytest.raises(UsageError) as caught:
        Target.of(url)
    assert "b@" not in str(caught.value)


def test_ctrl_c_before_there_is_a_loop_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an exception it may come in the middle of what asyncio does then, and be lost: ogen went on."""
    run = asyncio.run

    def late(work: Coroutine[Any, Any, None]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        run(work)

    monkeypatch.setattr(asyncio, "run", late)
    with Backend(Plan([0.02], 4)) as backend:
        found = load(Target.of(backend.url, ""), ASKED, 4, Bounds(None, 60.0, 60.0))
    assert found.interrupted
    assert not found.records
