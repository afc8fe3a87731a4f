"""What is told of a queue whose Redis goes: its jobs stay."""

from __future__ import annotations

import pytest

from ogen.cli import leftover
from ogen.push import Comparison
from ogen.push.results import HostResult

UNITS = ("ogen-queue-front-jobs.service", "ogen-queue-redis-my-jobs.service", "ogen-monitor.service")
NOTE = "note: edge: jobs of queue my-jobs stay on its disk (/var/lib/ogen-queue-redis-my-jobs)"


def compared(*stop: str) -> Comparison:
    return Comparison("edge", "a", "b", unchanged=False, files=(), stop=stop)


def test_before_an_apply_there_is_time_to_drain(capsys: pytest.CaptureFixture[str]) -> None:
    leftover.before("edge", compared(*UNITS))
    said = capsys.readouterr().err
    assert said.count("note:") == 1
    assert NOTE in said
    assert "ogen queue drain --wait" in said


def test_after_one_it_is_told_where_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    leftover.after([HostResult("edge", "applied", comparison=compared(*UNITS))])
    said = capsys.readouterr().err
    assert NOTE in said
    assert "rm -r /var/lib/private/ogen-queue-redis-my-jobs /var/lib/ogen-queue-redis-my-jobs" in said


def test_where_nothing_has_gone_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    failed = HostResult("edge", "rolled_back", comparison=compared(*UNITS))
    leftover.after(
        [failed, HostResult("edge", "applied"), HostResult("gpu1", "applied", comparison=compared())]
    )
    leftover.before("gpu1", compared("ogen-queue-worker-jobs-gpu0.service"))
    assert capsys.readouterr().err == ""
