"""docs/transaction.md says how an apply ends that is killed: what it says is what happens."""

from __future__ import annotations

import table


def test_the_table_of_outcomes_is_what_happens() -> None:
    assert table.DOCUMENT.read_text() == table.document(), "run `python tests/crash/table.py`"
