"""The benchmark of routing: what it sends, and what it reads of wrk's output."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from routing import BODIES, Measured, body_of, parsed, table

SAID = """\
Running 2s test @ http://127.0.0.1:4711/api/generate
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.10ms    1.02ms  26.55ms   86.30%
    Req/Sec    12.17k     1.71k   15.22k    65.00%
  Latency Distribution
     50%  780.00us
     75%    2.61ms
     90%    3.22ms
     99%    1.05s
  24210 requests in 2.00s, 5.13MB read
Requests/sec:  12076.49
Transfer/sec:      2.56MB
"""


def test_wrk_is_read() -> None:
    assert parsed(SAID) == pytest.approx((0.00078, 1.05, 12076.49))


@pytest.mark.parametrize(
    "line", ["  Non-2xx or 3xx responses: 12", "  Socket errors: connect 0, read 3, write 0, timeout 0"]
)
def test_an_answer_that_is_none_is_not_measured(line: str) -> None:
    with pytest.raises(SystemExit, match=line.split(":")[0].strip()):
        parsed(f"{SAID}{line}\n")
    with pytest.raises(SystemExit, match="something else"):
        parsed("unable to connect\n")


@pytest.mark.parametrize("size", BODIES.values())
def test_bodies_have_their_size_and_a_model(size: int) -> None:
    assert len(body_of(size)) == size
    assert json.loads(body_of(size))["model"] == "chat"


def test_the_table_shows_the_price_of_a_router() -> None:
    found = [
        Measured(name, body, count, p50, 0.01, 1e4)
        for name, p50 in (("direct", 0.0001), ("plain", 0.0002), ("njs", 0.0005))
        for body in BODIES
        for count in (1, 32)
    ]
    text = "\n".join(table(found, {"direct": "no balancer", "plain": "plain", "njs": "njs router"}))
    assert text.count("+0.30 ms") == 2
    assert "20 KB bodies, medians of 1 rounds; " in text
