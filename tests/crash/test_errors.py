"""The disk fails at every change: a clean abort, a proven rollback, or STUCK; never a half state."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from pretend import Systemd, host
from scenarios import SCENARIOS, Scenario, in_force
from test_kills import Stage, contact

from ogen.agent import alarm
from ogen.agent.disk import Change, Hook

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.EIO)
GROWS = ("mkdir", "create", "write", "symlink")  # what a full disk refuses


STATUSES = ("applied", "rolled_back", "stuck", "waiting", "refused")


def fail_at(count: int, number: int, lasting: bool) -> Hook:
    """The change `count` fails; `lasting`: so do all that follow, of those that this error refuses."""
    seen = 0

    def before(change: Change) -> None:
        nonlocal seen
        seen += 1
        later = lasting and seen > count and (number == errno.EROFS or change.operation in GROWS)
        if seen == count or later:
            raise OSError(number, os.strerror(number), change.path)

    return before


def answer(stage: Stage, folder: Path, machine: Systemd, before: Hook) -> dict[str, object]:
    said = stage.act(folder, machine, before)
    assert said["reply"] in ("error", "result", "ok"), said
    return said


def honest(stage: Stage, folder: Path, machine: Systemd, said: dict[str, object]) -> list[str]:
    """Whether the host is what the answer says, before anybody mends anything."""
    one = host(folder, machine=machine)
    status = said.get("status", "refused")
    if status == "applied":
        return in_force(one, stage.scenario.new, stage.scenario.keys)
    if status == "rolled_back":
        return in_force(one, stage.scenario.old, stage.scenario.keys)
    if status in ("stuck", "waiting"):
        return [] if alarm.heard(one.disk) or machine.alarms else ["stuck without an alarm"]
    if "nothing has changed" in str(said.get("message")):
        return in_force(one, stage.scenario.old, stage.scenario.keys)
    return [] if said.get("message") or said["reply"] == "ok" else ["an error without a message"]


def examine(scenario: Scenario, room: Path, number: int, lasting: bool) -> dict[str, int]:
    stage = Stage(scenario, room)
    total, ends = len(stage.log()), dict.fromkeys(STATUSES, 0)
    for count in range(1, total + 1):
        folder, machine = stage.copy()
        said = answer(stage, folder, machine, fail_at(count, number, lasting))
        wrong = honest(stage, folder, machine, said)
        contact(folder, machine)  # the disk is well again
        one = host(folder, machine=machine)
        wrong += min((in_force(one, each, scenario.keys) for each in (scenario.old, scenario.new)), key=len)
        wrong += stage.check_next(folder, machine)
        assert not wrong, f"{os.strerror(number)} at change {count} of {total}: {said}"
        ends[str(said.get("status", "refused"))] += 1
        shutil.rmtree(folder)
    return ends


CASES = [(errno.ENOSPC, False), (errno.ENOSPC, True), (errno.EROFS, True)]


@pytest.mark.parametrize(("number", "lasting"), CASES)
def test_an_apply_on_a_failing_disk(number: int, lasting: bool, room: Path) -> None:
    ends = examine(SCENARIOS[1], room, number, lasting)
    assert ends["refused"] > 40
    assert ends["rolled_back"] + ends["stuck"] + ends["waiting"] > 0


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scenario", SCENARIOS[:7], ids=lambda s: s.name)
def test_every_error_in_every_scenario(scenario: Scenario, room: Path) -> None:
    for number in ERRORS:
        for lasting in (False, True):
            ends = examine(scenario, room / f"{number}{lasting}", number, lasting)
            print(scenario.name, errno.errorcode[number], "lasting" if lasting else "once", ends)
