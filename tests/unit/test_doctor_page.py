"""No finder and no kind of finding without a test, and the page that tells of them."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
from doctor_cases import (
    TABLE,
    planned_from,
    seen,
)

from ogen.observe.concession import Ladder
from ogen.observe.doctor import FINDERS
from ogen.observe.finding import Case
from ogen.observe.kinds import KINDS
from ogen.observe.places import Places
from ogen.plan.model import Plan

QUEUES = {kind for kind in KINDS if kind.startswith("queue-")} - {"queue-full"}  # test_observe_queue has them


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return planned_from(tmp_path_factory.mktemp("doctor"))


def test_each_finder_is_needed(planned: Plan) -> None:
    """Without any one of them a case of the table is no longer found: no other finder tells its kind."""
    sources: dict[str, set[str]] = {}
    places, ladder = Places(planned.inventory), Ladder(planned.inventory)
    for kind, _, change, _, _ in TABLE:
        said = seen(change)
        cases = [
            Case(planned, h, said[h.host.name], said, places=places, ladder=ladder) for h in planned.hosts
        ]
        for finder in FINDERS:
            if any(one.kind == kind for case in cases for one in finder(case)):
                sources.setdefault(kind, set()).add(finder.__qualname__ + finder.__module__)
    alone = {name for names in sources.values() if len(names) == 1 for name in names}
    elsewhere = {  # their own tests
        "variablesogen.observe.finders_log",
        "unusedogen.observe.finders_share",
        "queuesogen.observe.finders_queue",
    }
    assert {one.__qualname__ + one.__module__ for one in FINDERS} == alone | elsewhere
    assert set(sources) == set(KINDS) - {"variable-ignored", "card-unused"} - QUEUES


PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"
BOXES = Path(__file__).parents[1] / "e2e"
BEGIN, END = "<!-- kinds -->\n", "<!-- end -->\n"


def provoked() -> dict[str, str]:
    """Kind → the test that provokes it on a box: what `Box.finds` is given, or what others look for."""
    told: dict[str, str] = {}
    for file in (BOXES / "test_doctor.py", *sorted(BOXES.glob("test_*.py"))):
        for function in ast.walk(ast.parse(file.read_text())):
            if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
                for kind in _finds(function) or _names(function):
                    told.setdefault(kind, f"`{function.name}` in {file.stem}")
    return told


def _finds(function: ast.FunctionDef) -> set[str]:
    calls = [one for one in ast.walk(function) if isinstance(one, ast.Call)]
    mine = [one for one in calls if isinstance(one.func, ast.Attribute) and one.func.attr == "finds"]
    return {word for one in mine for word in _words(one)} & set(KINDS)


def _names(function: ast.FunctionDef) -> set[str]:
    """In tests of other things, which look whether doctor tells them too."""
    asks = {"doctor", "kind"} <= set(_words(function))
    return (
        {word for word in _words(function) if "-" in word or word == "admission"} & set(KINDS)
        if asks
        else set()
    )


def _words(node: ast.AST) -> list[str]:
    return [
        one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)
    ]


def table() -> str:
    on_boxes, rows = provoked(), []
    for kind, when in KINDS.items():
        rows.append(f"| `{kind}` | {when} | {on_boxes.get(kind, '')} |\n")
    return "| kind | when | provoked on a box by |\n|---|---|---|\n" + "".join(rows)


def test_the_page_of_findings() -> None:
    """OGEN_UPDATE_GOLDEN=1 writes its table anew."""
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    fresh = before + BEGIN + table() + END + rest.split(END)[1]
    if os.environ.get("OGEN_UPDATE_GOLDEN"):
        PAGE.write_text(fresh)
    assert PAGE.read_text() == fresh
    assert set(provoked()) <= set(KINDS)
    assert len(provoked()) >= 25
