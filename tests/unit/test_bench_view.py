"""What `ogen bench` shows, and where it sends requests to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_bench_figures import closed_loop, document, run

from ogen.cli import console
from ogen.cli.bench_place import Place, Wanted, place
from ogen.observe import view_bench
from ogen.observe.bench_compare import compare
from ogen.observe.bench_figures import Record, step
from ogen.observe.bench_hosts import CardUse, Shares
from ogen.observe.view_bench import Client, Run

GIB = 2**30
QUIET = Client(0.001, 0.05)


def test_a_run_is_told_with_all_that_was_seen() -> None:
    shares = Shares({"gpu1/gpu0": 300, "gpu1/gpu1": 100}, others=7, remarks=("a \x1b[31mnote",))
    cards = (
        CardUse("gpu1", 0, "RTX", 91.2, 99, 6 * GIB, 24 * GIB, 9),
        CardUse("gpu1", 1, "", None, None, 0, GIB, 1),
    )
    records = [*closed_loop(8, 4, 400, lambda: 0.5), Record(0, 1, error="HTTP 500: \x1b]0;x\x07no")]
    page = "\n".join(view_bench.run(Run(step(records, 8), QUIET, shares, cards)))
    assert page.splitlines()[0] == "8 at once: 400 answered, 1 failed, in 50.0 s"
    assert "1 × HTTP 500: no" in page
    assert "throughput    8.00 requests/s" in page
    assert "80.0 tokens/s" in page
    assert "p50 1.00 s" in page
    assert "by instance   gpu1/gpu0  ████████████████████████     300   75%" in page
    assert "gpu1/gpu1  ████████                     100   25%" in page
    assert "7 requests of others" in page
    assert "cards         gpu1 card 0  busy  91 % (most 99)   VRAM 6.0 of 24.0 GiB" in page
    assert "gpu1 card 1  busy ?" in page
    assert "\x1b" not in page
    assert "upper bounds" not in page


def test_a_client_that_is_part_of_what_it_measures_says_so() -> None:
    one = run(1, 0.1)
    assert "upper bounds" in "\n".join(view_bench.run(Run(one, Client(0.5, 0.1))))
    assert "upper bounds" in "\n".join(view_bench.run(Run(one, Client(0.0, 0.95))))
    assert "late" in "\n".join(view_bench.sweep([Run(one, Client(0.5, 0.1))] * 2, None))


def test_a_sweep_is_a_table_with_its_knee() -> None:
    steps = [step(closed_loop(n, 8, 40 * n, lambda: 0.5), n) for n in (4, 8, 16)]
    failed = step([Record(0, 1, error="x")] * 3, 32)
    lines = list(view_bench.sweep([Run(one, QUIET) for one in (*steps, failed)], 8))
    assert [line.split()[0] for line in lines[1:5]] == ["4", "8", "16", "32"]
    assert [line for line in lines if "<- knee" in line] == [lines[2]]
    assert lines[4].split() == ["32", *["-"] * 7, "3"]
    assert len({len(line) for line in (lines[0], lines[1], lines[3])}) == 1, "columns are in line"


def test_two_runs_side_by_side() -> None:
    found = compare(document(run(1, 1.0)), document(run(2, 2.0), model="b\x1b[2J"))
    page = "\n".join(view_bench.comparison(found, "a.json", "b.json"))
    assert "WORSE" in page
    assert "×0.5" in page
    assert "note: they did not ask for the same" in page
    assert "\x1b" not in page


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0004, "0.40 ms"), (0.0999, "99.9 ms"), (0.9996, "1.00 s"), (12.34, "12.3 s"), (1200, "20.0 min")],
)
def test_seconds(value: float, shown: str) -> None:
    assert view_bench.seconds(value) == shown


# -------------------------------------------------------------------------------------- places
INVENTORY = """\
version: 1
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: 8192, replicas: fill}}
  coder: {{from: "qwen2.5-coder:7b-instruct-q4_K_M", context: 8192, replicas: 1}}
hosts:
  one: {{address: 192.0.2.1, gpus: [{{model: RTX 3090, count: 2}}]}}
  two: {{address: 192.0.2.2, gpus: [{{model: RTX 3090}}]}}
  edge: {{address: "{edge}"}}
balancers:
  api: {{hosts: [edge], {api}}}
"""
PORTS = "routing: per_port, ports: {chat: 9001, coder: 9002}"
ELSEWHERE = "https://llm.example.org/x/"
WANTED = Wanted(None, None, None, None, None, True, 8)


def placed(folder: Path, api: str, edge: str = "192.0.2.9", **more: object) -> Place:
    path = folder / "inventory.yaml"
    path.write_text(INVENTORY.format(api=api, edge=edge))
    try:
        return place(replace(WANTED, path=path, **more))  # type: ignore[arg-type]
    finally:
        console.hide(None)


@pytest.mark.parametrize(
    ("api", "more", "url", "instances"),
    [
        ("listen: 8080", {"model": "chat"}, "http://192.0.2.9:8080", 2),
        ("listen: 8080", {"model": "coder:latest"}, "http://192.0.2.9:8080", 1),
        (
            "routing: per_port, ports: {chat: 9001, coder: 9002}",
            {"model": "coder"},
            "http://192.0.2.9:9002",
            1,
        ),
        ("listen: 8080, routing: single, pool: chat", {}, "http://192.0.2.9:8080", 2),
        (
            "listen: 8080",
            {"model": "chat", "url": "https://llm.example.org/x/"},
            "https://llm.example.org/x/",
            2,
        ),
    ],
)
def test_where_requests_go(
    tmp_path: Path, api: str, more: dict[str, object], url: str, instances: int
) -> None:
    found = placed(tmp_path, api, **more)
    assert (found.url, found.instances) == (url, instances)
    assert [host.name for host in found.edges] == ["edge"]
    assert {host.name for host in found.nodes} <= {"one", "two"}
    if "https" in url:
        assert (found.target.host, found.target.port, found.target.path) == ("llm.example.org", 443, "/x")


def test_a_balancer_at_an_ipv6_address(tmp_path: Path) -> None:
    found = placed(tmp_path, "listen: 8080", "2001:db8::9", model="chat")
    assert found.target.authority == "[2001:db8::9]:8080"
