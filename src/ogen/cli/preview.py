"""What would be done: a diff of the releases, and what the play's other tasks would change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import console, steps
from .exits import Exit

if TYPE_CHECKING:
    from ..errors import HostError
    from ..push import Comparison, Target
    from ..push.around import Around
    from .fleet import Fleet


def preview(ready: Fleet, targets: tuple[Target, ...], shape: str, around: Around | None) -> Exit:
    from ..errors import OfflineError, Problems
    from ..release.document import document
    from . import diff, live

    found, errors = looked(ready, targets, around)
    skipped = [e for e in errors if ready.options.skip_offline and isinstance(e, OfflineError)]
    if len(skipped) < len(errors):
        raise Problems(errors)
    for error in skipped:
        console.say(f"note: {error.host} is left out: {error.message}")
    live.tell_absent(found)
    live.tell_mirror(ready, targets, found)
    there = [t for t in targets if t.host.name in found]
    shown = live.differences(there, found, ready, context=3)
    tasks = {name: around.steps.get(name, []) for name in found} if around else {}
    if shape == "json":
        rows = [{"host": name, **one.document()} for name, some in tasks.items() for one in some]
        console.document({**document(shown), "tasks": rows, "errors": []})
    else:
        diff.show(shown, shape, stat=False)
        steps.show(tasks, check=True)
    changed = shown.changed or any(one.changed for some in tasks.values() for one in some)
    return Exit.CHANGES if changed else Exit.DONE


def looked(
    ready: Fleet, targets: tuple[Target, ...], around: Around | None
) -> tuple[dict[str, Comparison], list[HostError]]:
    """What the hosts say, and why some say nothing."""
    from .. import push
    from ..errors import HostError
    from .progress import progress

    with progress(len(targets), looking=True) as watch:
        answers = push.compare(targets, ready.options, watch, around)
    errors = [answer for answer in answers.values() if isinstance(answer, HostError)]
    return {n: a for n, a in answers.items() if not isinstance(a, HostError)}, errors
