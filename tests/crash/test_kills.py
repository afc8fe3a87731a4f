"""Killed ahead of every change of the file system: after recovery the host is wholly old or wholly new."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from pretend import Controller, Host, Systemd, host
from scenarios import (
    SCENARIOS,
    Scenario,
    books,
    edit_is_kept,
    in_force,
    left_over,
    next_apply,
    previous,
    runs,
)

from ogen.agent import alarm, journal, recovery, store, transaction
from ogen.agent.disk import Change, Hook
from ogen.agent.transaction import Locks


class State(NamedTuple):
    """What a kill leaves: a folder, what runs, what the controller has heard."""

    where: str
    folder: Path
    machine: Systemd
    told: str


class Stage:
    """A scenario's host as it is before: copied for each run."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario = scenario
        self.template = folder / "template"
        self.template.mkdir(parents=True)
        self.machine = Systemd(self.template)
        one = host(self.template, machine=self.machine)
        scenario.prepare(one)
        self.entries = len(transaction.history(one))
        self.epoch = scenario.epoch(one)
        self.folder = folder
        self.number = 0
        self.fine: set[str] = set()  # states from which the next apply was seen to succeed

    def copy(self, template: Path | None = None, machine: Systemd | None = None) -> tuple[Path, Systemd]:
        self.number += 1
        folder = self.folder / str(self.number)
        shutil.copytree(template or self.template, folder, symlinks=True)
        made = Systemd(folder)
        made.running = dict((machine or self.machine).running)
        made.dying = set(self.machine.dying)
        return folder, made

    def act(self, folder: Path, machine: Systemd, before: Hook | None) -> dict[str, object]:
        """The scenario; returns what the controller heard last."""
        controller = self.scenario.controller()
        self.scenario.act(host(folder, before, machine), controller)
        return controller.last

    def kills(self, torn: bool = True) -> list[State]:
        """The states ahead of every change of one run; `torn`: and those with half of a write."""
        folder, machine = self.copy()
        states: list[State] = []
        controller = self.scenario.controller()
        before = self.recorder(folder, machine, states, controller, torn)
        self.scenario.act(host(folder, before, machine), controller)
        shutil.rmtree(folder)
        return states

    def watched(self) -> Iterator[tuple[Change, State]]:
        """Each change with the state ahead of it."""
        yield from zip(self.log(), self.kills(torn=False), strict=True)

    def recorder(
        self, folder: Path, machine: Systemd, states: list[State], controller: Controller, torn: bool
    ) -> Hook:
        def keep(where: str) -> Path:
            copy, own = self.copy(folder, machine)
            states.append(State(where, copy, own, str(controller.last.get("status"))))
            return copy

        def before(change: Change) -> None:
            where = f"killed ahead of {change.operation} {change.path} ({len(states)})"
            keep(where)
            if torn and change.operation == "write":
                with (keep(where + ", torn") / change.path[1:]).open("ab") as file:
                    file.write(change.data[: len(change.data) // 2])

        return before

    def log(self) -> list[Change]:
        """The changes of a run that nobody kills."""
        folder, machine = self.copy()
        seen: list[Change] = []
        said = self.act(folder, machine, seen.append)
        one = host(folder, machine=machine)
        assert said.get("status", said.get("kind", self.scenario.status)) in (self.scenario.status, "failed")
        assert in_force(one, self.scenario.new, self.scenario.keys) == []
        assert runs(one, machine) == [], "without a kill"
        shutil.rmtree(folder)
        return seen

    def check(self, folder: Path, machine: Systemd, told: str = "") -> list[str]:
        """What is wrong with a host after recovery."""
        one = host(folder, machine=machine)
        wanted = [self.scenario.old, self.scenario.new]
        if told == "applied":
            wanted = wanted[1:]
        found = min((in_force(one, each, self.scenario.keys) for each in wanted), key=len)
        found += left_over(one, False) + previous(one) + runs(one, machine)
        ends = one.journal.state()
        if self.scenario.name != "unreadable journal":
            found += books(one, self.entries, self.epoch)
        elif journal.epoch(one.journal.records()) < self.epoch:
            found.append("the epoch went back")
        if ends == "STUCK" and not alarm.heard(one.disk):
            found.append("no alarm")
        if self.scenario.status != "stuck" and (alarm.heard(one.disk) or ends == "STUCK"):
            found.append("an alarm")
        if self.scenario.name == "apply over an edit":
            found += edit_is_kept(one)
        return found

    def check_next(self, folder: Path, machine: Systemd) -> list[str]:
        state = fingerprint(folder, machine)
        if state in self.fine:
            return []
        found = next_apply(folder, machine)
        if not found:
            self.fine.add(state)
        return found


def fingerprint(folder: Path, machine: Systemd) -> str:
    """All that the next apply finds, without names and times of the transaction."""
    found = [str(sorted(machine.running.items()))]
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found.append(f"{name} -> {path.readlink()}")
        elif path.is_dir():
            found.append(name)
        elif "lock" not in name and "run/" not in name:
            data = path.read_bytes()
            if name.endswith(("journal", "audit.jsonl")):
                data = b"".join(json.dumps(_plain(line)).encode() for line in data.splitlines())
            found.append(f"{name} {path.stat().st_mode} {hash(data)}")
    return "\n".join(found)


def _plain(line: bytes) -> object:
    try:
        record = json.loads(line[line.index(b"{") :])
    except ValueError:
        return line.hex()
    return {k: v for k, v in record.items() if k not in ("tx", "time", "seconds", "boot")}


def contact(folder: Path, machine: Systemd, before: Hook | None = None, boot: bool = False) -> None:
    """What every apply does first, and what happens at boot."""
    one: Host = host(folder, before, machine)
    one.disk.folder(store.RELEASES)
    held = Locks(one)
    held.take({"who": "next"})
    try:
        recovery.recover(one, boot=boot)
    finally:
        held.drop()


def examine(stage: Stage, state: State) -> None:
    wrong = stage.check(state.folder, state.machine, state.told)
    again: list[Change] = []
    contact(state.folder, state.machine, again.append)
    if again:
        wrong.append(f"a second recovery still changes {again[0]}")
    wrong += stage.check_next(state.folder, state.machine)
    assert not wrong, state.where
    shutil.rmtree(state.folder)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_killed_at_every_change(scenario: Scenario, room: Path) -> None:
    stage = Stage(scenario, room)
    states = stage.kills()
    assert len(states) >= len(stage.log())
    for state in states:
        contact(state.folder, state.machine)
        examine(stage, state)


def double(stage: Stage, chosen: Callable[[State], bool]) -> int:
    """Kills the recovery of killed runs as well; returns the number of pairs."""
    pairs = 0
    for state in stage.kills(torn=False):
        inner: list[State] = []
        if chosen(state):
            before = stage.recorder(state.folder, state.machine, inner, Controller(), torn=False)
            contact(state.folder, state.machine, before)
        for second in inner:
            contact(second.folder, second.machine)
            examine(stage, second._replace(where=f"{state.where}; then {second.where}", told=state.told))
        pairs += len(inner)
        shutil.rmtree(state.folder)
    return pairs


@pytest.mark.parametrize("scenario", [SCENARIOS[1], SCENARIOS[4]], ids=lambda s: s.name)
def test_killed_again_in_the_recovery(scenario: Scenario, room: Path) -> None:
    """Of runs that were killed right after a record; everywhere else it is the long variant's."""
    assert double(Stage(scenario, room), lambda s: "fdatasync /etc/ogen/journal" in s.where) > 0


@pytest.mark.soak
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_killed_again_everywhere(scenario: Scenario, room: Path) -> None:
    print(f"{scenario.name}: {double(Stage(scenario, room), lambda s: True)} pairs of kills")


def test_without_recovery_a_kill_shows(room: Path) -> None:
    """The control of the tests above: they see what recovery mends."""
    stage = Stage(SCENARIOS[1], room)
    wrong = [bool(stage.check(state.folder, state.machine)) for state in stage.kills(torn=False)]
    assert sum(wrong) > len(wrong) / 2
