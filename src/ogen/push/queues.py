"""Questions to a queue, through the first of its fronts that can be reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import HostError, RemoteError, UsageError
from ..inventory.faults import near_or_list
from ..plan.model import Plan, Work
from .contact import contact
from .results import Options


def work_of(plan: Plan, name: str | None) -> Work:
    """The queue `name`, or the only one. Raises UsageError without it."""
    known = [work.queue.name for work in plan.works]
    if not known:
        raise UsageError("the inventory has no queue", hint="`queues:` in it makes one; docs/queue.md")
    if name is None and len(known) > 1:
        raise UsageError("which queue?", hint=f"--queue with one of {', '.join(known)}")
    found = next((work for work in plan.works if name in (None, work.queue.name)), None)
    if found is None:
        raise UsageError(f"there is no queue {name!r}", hint=near_or_list(str(name), known, "queues"))
    return found


def model_of(work: Work, name: str | None) -> None:
    """Raises UsageError where the queue takes no jobs for `name`."""
    known = [one for pool in work.pools for one in pool.names]
    if name is not None and name not in known:
        shown = [one for one in known if not one.endswith(":latest")]
        hint = near_or_list(name, shown, "models")
        raise UsageError(f"queue {work.queue.name} has no model {name!r}", hint=hint)


def ask(
    plan: Plan,
    work: Work,
    options: Options,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The answer of the queue. Raises HostError where no front answers, or where it says no."""
    last: HostError | None = None
    for name in work.fronts:
        host = plan.inventory.host(name)
        request = {
            "op": "queue",
            "name": work.queue.name,
            "method": method,
            "path": path,
            "body": body,
            "headers": dict(headers or {}),
        }
        try:
            with contact(host, options) as opened:
                reply = opened.ask(request)[0]
        except HostError as error:
            last = error
            continue
        if reply["status"] >= 300:
            said = str(reply["answer"].get("error") or f"status {reply['status']}")
            raise RemoteError(f"queue {work.queue.name}: {said}", host=name)
        return dict(reply["answer"])
    assert last is not None
    raise last
