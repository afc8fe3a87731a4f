"""The table of outcomes in docs/transaction.md, from kills: `python tests/crash/table.py` writes it anew.

A test holds the file equal to what the agent does.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "unit")]

from pretend import Systemd, host
from scenarios import BAD, NEW, OLD, SCENARIOS, Scenario, in_force
from test_kills import Stage, contact

from ogen.agent import owner
from ogen.agent.disk import Change

DOCUMENT = Path(__file__).parents[2] / "docs" / "transaction.md"
BEGIN, END = "<!-- outcomes: begin -->\n", "<!-- outcomes: end -->\n"
HEAD = "| killed ahead of | the journal says | in force | next contact | reboot |\n|---|---|---|---|---|\n"


def rows(scenario: Scenario, folder: Path) -> Iterator[tuple[str, ...]]:
    """Operation, last record, what `current` names, and how recovery ends it, here and after a reboot."""
    stage = Stage(scenario, folder)
    names = {None: "nothing", OLD.id: "old", NEW.id: "new", BAD.id: "new"}
    for change, state in stage.watched():
        one = host(state.folder, machine=state.machine)
        records = one.journal.records()
        last = str(records[-1]["rec"]) if records else "nothing"
        current = names[one.store.current]
        copy, machine = stage.copy(state.folder, state.machine)
        contact(copy, machine)
        rebooted, anew = stage.copy(state.folder, state.machine)
        anew = Systemd(rebooted, "another boot")
        contact(rebooted, anew, boot=True)
        ends = (_end(scenario, copy, last), _end(scenario, rebooted, last))
        yield (_plain(change), last, current, *ends)


def _plain(change: Change) -> str:
    return f"{change.operation} {change.path}"


def _end(scenario: Scenario, folder: Path, last: str) -> str:
    one = host(folder)
    name = "old" if not in_force(one, scenario.old) else "new"
    records = one.journal.records()
    how = records[-1].get("how", records[-1]["rec"]) if records else "untouched"
    return f"{name} ({'untouched' if last in ('nothing', 'END') else how})"


def table() -> str:
    """Rows that differ in nothing but the operation are one, which names the first and counts the others."""
    text = HEAD
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        for scenario in (SCENARIOS[1], SCENARIOS[4]):
            text += f"| **{scenario.name}** | | | | |\n"
            for first, same in groupby(rows(scenario, Path(folder) / scenario.name), key=lambda row: row[1:]):
                operations = [row[0] for row in same]
                more = f" and {len(operations) - 1} more" if len(operations) > 1 else ""
                text += f"| {operations[0]}{more} | {' | '.join(first)} |\n"
    return text


def document() -> str:
    """The document with a fresh table."""
    text = DOCUMENT.read_text()
    return text[: text.index(BEGIN) + len(BEGIN)] + table() + text[text.index(END) :]


if __name__ == "__main__":
    owner._deaf = lambda: None
    DOCUMENT.write_text(document())
