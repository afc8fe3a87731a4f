"""What stays on a host when a part of the inventory goes: jobs of a queue are nobody's to throw away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from . import console

if TYPE_CHECKING:
    from ..push import Comparison
    from ..push.results import HostResult

REDIS, SERVICE = "ogen-queue-redis-", ".service"


def before(host: str, comparison: Comparison) -> None:
    """A note for each queue whose Redis would go."""
    for unit in _going(comparison):
        console.say(f"note: {host}: {_kept(unit)}")
        console.say("  hint: `ogen queue drain --wait` first, for jobs that nobody shall wait for in vain")


def after(results: Iterable[HostResult]) -> None:
    """The same where it has gone, and how to be rid of what stays."""
    for result in results:
        for unit in _going(result.comparison) if result.status == "applied" and result.comparison else ():
            folders = f"/var/lib/private/{unit} /var/lib/{unit}"
            console.say(f"note: {result.host}: {_kept(unit)}")
            console.say(f"  hint: `rm -r {folders}` there, if nobody wants them any more")


def _going(comparison: Comparison) -> list[str]:
    return [name.removesuffix(SERVICE) for name in comparison.stop if name.startswith(REDIS)]


def _kept(unit: str) -> str:
    name = unit.removeprefix(REDIS)
    return f"jobs of queue {name} stay on its disk (/var/lib/{unit}), and go on when the queue is back there"
