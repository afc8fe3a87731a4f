"""What `ogen status` shows of what was seen."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_observe_doctor import INVENTORY, healthy

from ogen.errors import ConnectError
from ogen.inventory import load
from ogen.observe.evidence import HostSeen
from ogen.observe.fleet import CardRow, HostRow, pending, rows
from ogen.observe.hearing import host_seen
from ogen.observe.view_status import bar, text
from ogen.plan import plan
from ogen.plan.model import Plan
from ogen.push import Comparison, Seen

GIB = 2**30


@pytest.fixture
def planned(tmp_path: Path) -> Plan:
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)
    return plan(load(path))


def seen(name: str, said: dict[str, object], *files: Seen, **more: tuple[str, ...]) -> HostSeen:
    return host_seen(name, said, Comparison(name, "abc", "abc", not files and not more, files, **more))  # type: ignore[arg-type]


def test_a_screen(planned: Plan) -> None:
    solo, edge = healthy()
    solo["instances"]["gpu1"] = {"version": "0.32.15", "models": []}
    solo["cards"]["rows"][1]["memory.used"] = "20000"
    files = (Seen("/a", "pending"), Seen("/b", "edited"))
    found = rows(
        planned, {"solo": seen("solo", solo, *files, restart=("x.service",)), "edge": seen("edge", edge)}
    )
    page = text(found, title="fleet.yaml")
    assert page.splitlines()[0] == (
        "fleet.yaml: 2 hosts, 2 of 2 instances up, 1 with changes pending, 1 edited by hand"
    )
    assert "solo  release abc  pending: 1 file; restart x.service  edited: /b" in page
    assert "edge  release abc  as planned" in page
    assert "gpu0:11434           up  Ollama 0.32.15  chat:latest 6.0 GiB, context 8192" in page
    assert "gpu1:11435           up  Ollama 0.32.15  chat not loaded" in page
    assert "used 19.5, planned 7." in page
    assert "▓" in next(line for line in page.splitlines() if "card 1" in line)
    assert "balancer up  configuration f00 in force" in page
    assert "fails the probes" not in page
    assert "\x1b" not in page
    assert "\x1b[" in text(found, title="fleet.yaml", colour=True)


def test_figures_stand_in_columns() -> None:
    cards = [
        CardRow(0, "A", 24 * GIB, 8 * GIB, 7 * GIB, 5, 40),
        CardRow(1, "A", 24 * GIB, 11 * GIB, 22 * GIB, 100, 77),
    ]
    page = text([HostRow("solo", cards=tuple(cards))], title="x")
    first, second = (line for line in page.splitlines() if "°C" in line)
    assert (first.index(" %"), len(first)) == (second.index(" %"), len(second))


def test_the_rung_that_autofit_chose(planned: Plan) -> None:
    solo, edge = healthy()
    told = {"rung": 2, "of": 5, "about": "chat: context 4096", "why": "…", "since": 0.0}
    solo["rungs"] = {"gpu0": told, "gpu1": {}}
    found = rows(planned, {"solo": seen("solo", solo), "edge": seen("edge", edge)})
    page = text(found, title="fleet.yaml")
    assert "gpu0:11434           up  Ollama 0.32.15  rung 2 of 5: chat: context 4096  chat:latest" in page
    assert "gpu1:11435           up  Ollama 0.32.15  chat:latest" in page


def test_what_does_not_run_or_answer(planned: Plan) -> None:
    solo, edge = healthy()
    solo["units"]["ogen-ollama-gpu0.service"] = {"active": "failed"}
    solo["instances"]["gpu1"] = {"error": "timed out"}
    solo["cards"]["rows"].pop()
    edge["hashes"] = {"api": "0ld\x1b[31m"}
    page = text(rows(planned, {"solo": seen("solo", solo), "edge": seen("edge", edge)}), title="x")
    assert "0 of 2 instances up" in page
    assert "gpu0:11434           failed" in page
    assert "gpu1:11435           silent" in page
    assert "card 1 RTX 3090      not there" in page
    assert "configuration 0ld is not the release's" in page


def test_what_the_prober_keeps_away(planned: Plan) -> None:
    solo, edge = healthy()
    edge["failing"] = [
        {"server": "192.0.2.1:11434", "why": "/api/ps: HTTP 500 \x1b[31m", "away": True},
        {"server": "192.0.2.1:11435", "why": "chat is not loaded", "away": False},
    ]
    page = text(rows(planned, {"solo": seen("solo", solo), "edge": seen("edge", edge)}), title="x")
    assert "gpu0:11434           up  Ollama 0.32.15  fails the probes of edge: /api/ps: HTTP 500" in page
    assert "chat is not loaded (it stays, nobody else of its pool is left)" in page
    assert "drained" not in page
    assert "\x1b" not in page


def test_a_host_that_is_away(planned: Plan) -> None:
    error = ConnectError("no route to host", host="solo")
    found = rows(planned, {"solo": error})
    assert [row.name for row in found] == ["solo"], "hosts that were not asked are left out"
    assert "solo  no route to host" in text(found, title="x")
    assert "1 not seen" in text(found, title="x")


def test_a_folder_that_stands_for_a_host(planned: Plan) -> None:
    said = {"live": False, "current": "abc", "proofs": healthy()[0]["proofs"]}
    (row,) = rows(planned, {"solo": seen("solo", said)})
    assert [one.state for one in row.instances] == ["unknown", "unknown"]
    assert row.cards[0].used is None
    assert "used ?, planned" in text([row], title="x")


@pytest.mark.parametrize(
    ("used", "planned", "cells"),
    [
        (0, 0, [0, 0, 0, 24]),
        (6, 12, [6, 0, 6, 12]),
        (18, 12, [12, 6, 0, 6]),
        (24, 24, [24, 0, 0, 0]),
        (30, 24, [24, 0, 0, 0]),
    ],
)
def test_bars(used: int, planned: int, cells: list[int]) -> None:
    card = CardRow(0, "X", 24 * GIB, planned * GIB, used * GIB)
    assert [count for count, _, _ in bar(card, 24)] == cells


def many(planned: Plan, count: int, sick: int) -> list[HostRow]:
    """That many hosts that are well, and one that is not."""
    solo, edge = healthy()
    (well, balancer) = rows(planned, {"solo": seen("solo", solo), "edge": seen("edge", edge)})
    solo["instances"]["gpu1"] = {"version": "0.32.15", "models": []}
    (bad,) = rows(planned, {"solo": seen("solo", solo)})
    names = [f"gpu{n:03}" for n in range(count)]
    found = [replace(bad if n == sick else well, name=name) for n, name in enumerate(names)]
    return [*found, balancer]


def test_a_hundred_hosts_are_a_line_each_but_for_those_that_need_a_look(planned: Plan) -> None:
    page = text(many(planned, 100, 41), title="x", fold=True, width=110)
    lines = page.splitlines()
    assert len(lines) < 115
    assert max(map(len, lines)) <= 110
    (line,) = [line for line in lines if line.startswith("gpu007")]
    assert line.startswith("gpu007  as planned  █")
    assert line.endswith("2 up: chat")
    assert " of 48.0 GiB" in line
    assert "gpu1:11435           up  Ollama 0.32.15  chat not loaded" in page
    assert sum("chat not loaded" in line for line in lines) == 1
    assert lines[3].startswith("gpu041  release abc"), "before those that are well"
    assert [line.split()[0] for line in lines[-3:]] == ["gpu098", "gpu099", "edge"]
    assert len(text(many(planned, 100, 41), title="x").splitlines()) > 500, "in full"


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("colour", [False, True])
def test_a_narrow_terminal_breaks_lines_between_their_parts(planned: Plan, width: int, colour: bool) -> None:
    found = many(planned, 3, 1)
    page = text(found, title="fleet.yaml", width=width, wrap=True, colour=colour)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in page.splitlines()]
    wide = [line for line in lines if len(line) > width]
    assert not [line for line in wide if "  " in line.strip()], "only what has no gap is left too wide"
    whole = text(found, title="fleet.yaml", width=width)
    assert "".join("".join(lines).split()) == "".join(whole.split()), "nothing is lost"
    assert ("\x1b" in page) is colour


@pytest.mark.parametrize(
    ("said", "shown", "head"),
    [
        ({"running": 3}, "in force  3 under way", "3 requests under way"),
        (
            {"running": 4, "waiting": 2, "slots": 4},
            "4 under way in 4 slots, 2 waiting",
            "under way, 2 waiting",
        ),
        ({"running": 1}, "1 under way", "1 request under way"),
        ({}, "in force", ""),
        ({"running": "x"}, "0 under way", "0 requests"),
    ],
)
def test_requests_under_way(planned: Plan, said: dict[str, object], shown: str, head: str) -> None:
    solo, edge = healthy()
    edge["under_way"] = {"api": said}
    page = text(rows(planned, {"solo": seen("solo", solo), "edge": seen("edge", edge)}), title="x")
    assert shown in page
    assert head in page.splitlines()[0]
    assert ("under way" in page) is bool(said)


def test_pending_in_words() -> None:
    nothing = Comparison("a", "x", "x", True, (Seen("/a", "same"), Seen("/b", "edited")))
    assert pending(nothing) == ()
    much = Comparison(
        "a",
        "x",
        "x",
        False,
        (Seen("/a", "pending"), Seen("/b", "removed")),
        restart=("u",),
        stop=("v",),
        models=("m",),
    )
    assert pending(much) == ("2 files", "restart u", "stop v", "make m")
