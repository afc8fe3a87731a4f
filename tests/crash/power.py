"""Power cuts in a scenario: every state that its log can leave, booted, recovered and looked at."""

from __future__ import annotations

import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from filesystem import FileSystem, Pending, Tree, choices, write
from pretend import BUNDLE, DIGEST, Systemd, host
from scenarios import Scenario
from test_kills import Stage

from ogen.agent import owner, store
from ogen.agent.disk import Change
from ogen.agent.errors import AgentError

SYNCS = ("fsync", "fdatasync")
AGENT = str(Path(owner.__file__).parent)


class Step(NamedTuple):
    """A change, who made it, and what the controller had heard by then."""

    change: Change
    site: str
    told: str


def record(stage: Stage) -> list[Step]:
    """The scenario's log; a site is the line of the agent that asked `Disk` for the change, by its name."""
    folder, machine = stage.copy()
    controller = stage.scenario.controller()
    steps: list[Step] = []

    def before(change: Change) -> None:
        steps.append(Step(change, site() + _record(steps, change), str(controller.last.get("status"))))

    stage.scenario.act(host(folder, before, machine), controller)
    steps.append(Step(Change("write", "", data=b""), "", str(controller.last.get("status"))))
    shutil.rmtree(folder)
    return steps


def _record(steps: list[Step], change: Change) -> str:
    """Of the journal's sync: the record that it is for."""
    found = re.search(rb'"rec":"(\w+)"', steps[-1].change.data) if steps else None
    return f" {found.group(1).decode()}" if found and change.operation == "fdatasync" else ""


def site() -> str:
    """Who asked for a change: `module.function > Disk.method`."""
    frame, names = sys._getframe(2), []
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(AGENT):
            module = Path(path).stem
            names.append((module, frame.f_code.co_name))
            if module != "disk" and len(names) > 1:
                break
        frame = frame.f_back  # type: ignore[assignment]
    inner = [name for module, name in names if module == "disk" and name not in ("_step", "_sync")]
    return f"{names[-1][0]}.{names[-1][1]} > {' < '.join(inner)}"


def boots(tree: Tree) -> bool:
    """Whether the recovery at boot is armed: its unit, its link, and the agent that it names."""
    unit = tree.get(store.RECOVER, ("", 0, b""))[2].decode()
    found = re.search(r"/etc/ogen/agent/\S+", unit)
    agent = tree.get(found.group() if found else "", ("", 0, b""))[2]
    linked = tree.get(owner.WANTED, ("", 0, b""))[2] == b"../ogen-recover.service"
    return linked and agent == BUNDLE and DIGEST in unit and "/etc/ogen/journal" in tree


class Cut:
    """Power cuts of one scenario; a state that was seen already is not looked at again."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.stage = Stage(scenario, folder)
        self.steps = record(self.stage)
        self.seen: set[int] = set()
        self.states = 0

    def filesystem(self) -> FileSystem:
        return FileSystem(self.stage.template)

    def trees(self, bound: int, seed: int = 0) -> Iterator[tuple[str, Tree, str]]:
        """Ahead of every change, up to `bound` states (more or less): where, the files, what was told."""
        system, rng = self.filesystem(), random.Random(seed)
        for number, step in enumerate(self.steps):
            for chosen in choices(system.pending, bound, rng):
                where = f"cut ahead of {number}: {step.change.operation} {step.change.path} {chosen}"
                yield where, system.tree(chosen), step.told
            system.do(step.change, number)

    def sites(self) -> set[str]:
        return {step.site for step in self.steps if step.change.operation in SYNCS}

    def without(self, site: str) -> Iterator[tuple[str, Tree, str]]:
        """States that only a log without this site's syncs can leave: what it would have synced is lost,
        all of it; then one change of it alone, or torn. All else is there."""
        for alone in (False, True):
            whole, less = self.filesystem(), self.filesystem()
            for number, step in enumerate(self.steps):
                where = f"cut ahead of {number}: {step.change.operation} {step.change.path}"
                for chosen in _lost(whole.pending, less.pending, alone):
                    yield where, less.tree(chosen), step.told
                whole.do(step.change, number)
                if step.site != site or step.change.operation not in SYNCS:
                    less.do(step.change, number)

    def wrong(self, tree: Tree, told: str, after: Callable[[Path], None] | None = None) -> list[str]:
        """What is wrong after boot and recovery; nothing for a state that was seen before."""
        key = hash((frozenset(tree.items()), told))
        if key in self.seen:
            return []
        self.seen.add(key)
        self.states += 1
        self.stage.number += 1
        folder = self.stage.folder / f"cut{self.stage.number}"
        write(tree, folder)
        try:
            return self._booted(folder, tree, told)
        except (AgentError, OSError) as error:  # so damaged that it can't be looked at
            return [str(error)]
        finally:
            shutil.rmtree(folder)

    def _booted(self, folder: Path, tree: Tree, told: str) -> list[str]:
        machine = Systemd(folder, f"boot-{self.stage.number}")
        machine.dying = set(self.stage.machine.dying)
        armed = boots(tree)
        if armed:
            owner.run_recover(host(folder, machine=machine))
        machine.bring_up()
        found = self.stage.check(folder, machine, told) if armed else self._unarmed(folder, machine)
        return found or self.stage.check_next(folder, machine)

    def _unarmed(self, folder: Path, machine: Systemd) -> list[str]:
        """Without a recovery at boot nothing outside of /etc/ogen may need one."""
        from scenarios import in_force, previous, runs

        one = host(folder, machine=machine)
        found = (
            in_force(one, self.stage.scenario.old, self.stage.scenario.keys)
            + previous(one)
            + runs(one, machine)
        )
        return [f"not armed, and {text}" for text in found]


def _lost(whole: Sequence[Pending], less: Sequence[Pending], alone: bool) -> Iterator[list[int]]:
    covered = {(one.number, one.kind) for one in whole}
    extra = [n for n, one in enumerate(less) if (one.number, one.kind) not in covered]
    if extra and not alone:
        yield [0 if n in extra else 1 for n in range(len(less))]
    if alone:
        for lost in extra:
            for choice in range(less[lost].choices):
                if choice != 1:
                    yield [choice if n == lost else 1 for n in range(len(less))]
