"""Faults at every step of an apply on real boxes: afterwards a host is wholly old or wholly new, and serves.

The cells are data (faults.py). Some boxes share them; a few are part of CI, all of them of `make soak`.
`make faults` runs all and writes docs/faults.md.
"""

from __future__ import annotations

import os
import queue
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from faults import CELLS, Cell, Row, document
from lab import lab
from rig import Rig

TABLE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
BOXES = [f"box{number}" for number in range(int(os.environ.get("OGEN_FAULTS_BOXES", "3")))]
boxes = (pytest.mark.boxes, pytest.mark.timeout(5400))

Ends = dict[str, Row | BaseException]
FOUND: Ends = {}


@pytest.fixture(scope="module")
def rigs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[Rig]]:
    with lab(os.environ.get("TESTBED_LAB", "faults")) as made:
        made.up(*BOXES, gpus="24576,24576", ollama=True)
        found = [Rig(made, box, tmp_path_factory.mktemp(box)) for box in BOXES]
        workers = [threading.Thread(target=rig.prepare) for rig in found]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        yield found


@pytest.fixture(scope="module")
def ends(request: pytest.FixtureRequest, rigs: Sequence[Rig]) -> Ends:
    """All cells that were asked for, both boxes at work at once."""
    wanted = {item.name for item in request.session.items}
    todo: queue.SimpleQueue[Cell] = queue.SimpleQueue()
    for cell in by_turns([c for c in CELLS if f"test_a_fault_at_a_step[{ident(c)}]" in wanted]):
        todo.put(cell)
    found = FOUND

    def work(rig: Rig) -> None:
        while True:
            try:
                cell = todo.get_nowait()
            except queue.Empty:
                return
            begun = time.monotonic()
            try:
                found[cell.name] = rig.run(cell)
            except BaseException as error:  # told by the cell's own test
                found[cell.name] = error
            print(f"{cell.name}: {time.monotonic() - begun:.1f} s {found[cell.name]}", flush=True)

    workers = [threading.Thread(target=work, args=(rig,)) for rig in rigs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return found


def by_turns(chosen: Sequence[Cell]) -> list[Cell]:
    """One of each fault, then the next of each: a mistake in one shows early in a long run."""
    seen: Counter[str] = Counter()
    turns = []
    for cell in chosen:
        turns.append((seen[cell.fault], cell))
        seen[cell.fault] += 1
    return [cell for _, cell in sorted(turns, key=lambda turn: turn[0])]


def ident(cell: Cell) -> str:
    return cell.name.replace(" ", "_")


def cells() -> list[object]:
    return [
        pytest.param(c, id=ident(c), marks=boxes if c.quick else (*boxes, pytest.mark.soak)) for c in CELLS
    ]


@pytest.mark.parametrize("cell", cells())
def test_a_fault_at_a_step(cell: Cell, ends: Ends) -> None:
    end = ends[cell.name]
    if isinstance(end, BaseException):
        raise end
    print(f"{end.fault} | {end.step} | {end.ends} | {end.code} | {end.seconds:.1f} s | {end.said}")


# -------------------------------------------------------------------------------------- the table
@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    yield
    if os.environ.get("OGEN_FAULTS"):
        TABLE.write_text(document([row for row in FOUND.values() if isinstance(row, Row)]))


def test_the_table_holds_every_cell() -> None:
    """Seconds and words may differ from run to run; cells, how they end, and exit codes do not."""
    lines = re.findall(
        r"^\| (.+?) \| (.+?) \| (old|new|second) \| (-?\d+) \|", TABLE.read_text(), re.MULTILINE
    )
    assert lines == [(c.fault, c.step, c.ends, str(c.code)) for c in CELLS]
    assert len(lines) >= 60
