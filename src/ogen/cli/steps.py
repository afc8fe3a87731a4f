"""The steps of a play, for people: what they did on a host, or would do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import unified_diff
from typing import TYPE_CHECKING

from . import console

if TYPE_CHECKING:
    from ..push.steps import StepResult


def show(tasks: Mapping[str, Sequence[StepResult]], *, check: bool) -> None:
    """Below the name of each host on which a task changed something, or would."""
    for host, some in tasks.items():
        if any(step.changed for step in some):
            console.out(f"{host}: tasks of the play")
            lines(some, check=check)


def changing(tasks: Mapping[str, Sequence[StepResult]]) -> list[str]:
    """A line for each task that would change something."""
    return [f"{host}: {step.name}" for host, some in tasks.items() for step in some if step.changed]


def lines(some: Iterable[StepResult], *, check: bool) -> None:
    for step in some:
        if not step.changed:
            continue
        console.out(f"  {step.name}" if check else f"  {step.name}: {step.msg or 'done'}")
        for line in difference(step) if check else ():
            console.raw(f"    {line}\n")


def difference(step: StepResult) -> list[str]:
    """The lines of a step's diff, coloured, without those that stay."""
    found = list(unified_diff(step.before.splitlines(), step.after.splitlines(), n=0, lineterm=""))[2:]
    return [console.paint(line, "green" if line[0] == "+" else "red") for line in found if line[0] in "+-"]
