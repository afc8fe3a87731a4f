"""What the steps of a play did on a host, or would do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import RemoteError


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step on one host; in a check, `changed` is what it would do."""

    name: str
    module: str
    changed: bool
    failed: bool = False
    msg: str = ""
    before: str = ""
    after: str = ""

    def document(self) -> dict[str, Any]:
        """As JSON values, in Ansible's shape."""
        return {
            "name": self.name,
            "module": self.module,
            "changed": self.changed,
            "failed": self.failed,
            "msg": self.msg,
            "diff": {"before": self.before, "after": self.after},
        }


def results_of(whole: Mapping[str, Any]) -> list[StepResult]:
    """From the agent's results."""
    return [
        StepResult(
            name=str(result["name"]),
            module=str(result["module"]),
            changed=bool(result["changed"]),
            failed=bool(result["failed"]),
            msg=str(result["msg"]),
            before=str(result["diff"]["before"]),
            after=str(result["diff"]["after"]),
        )
        for result in whole["results"]
    ]


def failed_step(host: str, steps: Iterable[StepResult]) -> RemoteError | None:
    """The first step that failed, with its own last words."""
    bad = next((step for step in steps if step.failed), None)
    if bad is None:
        return None
    lines = bad.msg.splitlines() or ["no reason given"]
    return RemoteError(f"{bad.name}: {lines[0]}", host=host, log=lines[1:][-20:])
