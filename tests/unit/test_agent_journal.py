"""The journal: a torn last line is absent, any other damage is said aloud."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ogen.agent import journal
from ogen.agent.disk import Disk
from ogen.agent.errors import Broken

RECORDS = st.lists(
    st.fixed_dictionaries({"rec": st.sampled_from(["BEGIN", "FLIP", "END"]), "why": st.text()}), max_size=5
)


@given(RECORDS)
def test_records_come_back(records: list[journal.Record]) -> None:
    assert journal.parse(b"".join(map(journal.line, records))) == records


@given(RECORDS.filter(bool), st.data())
def test_a_torn_last_line_is_absent(records: list[journal.Record], choice: st.DataObject) -> None:
    whole = b"".join(map(journal.line, records))
    last = len(journal.line(records[-1]))
    cut = choice.draw(st.integers(1, last - 1))
    found = journal.parse(whole[: len(whole) - last + cut])
    assert found in (records[:-1], records)  # without its newline alone the record is whole


def test_damage_in_the_middle_is_not_guessed_at() -> None:
    lines = [journal.line({"rec": name}) for name in ("BEGIN", "PREPARED", "FLIP")]
    lines[1] = lines[1].replace(b"PREPARED", b"PREPARES")
    with pytest.raises(Broken, match="line 2"):
        journal.parse(b"".join(lines))


def test_what_follows_a_torn_line_stands_by_itself(tmp_path: Path) -> None:
    disk = Disk(str(tmp_path))
    disk.folder("/etc/ogen")
    log = journal.Journal(disk)
    log.begin({"tx": "1"})
    disk.append(journal.PATH, b"0badc0de {to")
    log.add("FLIP")
    assert [r["rec"] for r in log.records()] == ["BEGIN", "FLIP"]


def test_idle() -> None:
    assert journal.idle([])
    assert journal.idle([{"rec": "BEGIN"}, {"rec": "END"}])
    assert journal.idle([{"rec": "BEGIN"}, {"rec": "STUCK"}])
    assert not journal.idle([{"rec": "BEGIN"}, {"rec": "PROVEN"}])


def test_epoch_is_the_largest_so_far() -> None:
    assert journal.epoch([]) == 0
    assert journal.epoch([{"rec": "BEGIN", "epoch": 7}, {"rec": "END"}]) == 7
