"""`ogen diff`: what an apply would change, against the hosts or against a git revision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from . import console, options
from .exits import Exit

if TYPE_CHECKING:
    from ..release.change import Diff, Group
    from ..release.model import Release


@click.command()
@options.inventory
@click.option("--base", metavar="REV", help="Compare with this git revision instead; no host is contacted.")
@options.limit
@click.option(
    "--context",
    metavar="N",
    type=click.IntRange(0, 1000),
    default=3,
    show_default=True,
    help="Lines around a change.",
)
@click.option("--stat", is_flag=True, help="One line for each file.")
@click.option("--drift", is_flag=True, help="Only what was changed on the hosts by hand, or does not run.")
@options.shape("text", "json", "markdown", "github")
@options.parallel
def command(
    path: Path,
    base: str | None,
    limit: str | None,
    context: int,
    stat: bool,
    drift: bool,
    shape: str,
    parallel: int,
) -> Exit:
    """Show what an apply would change.

    Without --base the hosts are asked. Each file has three versions: as ogen put it there, as the
    inventory wants it, and as it is. So one that is not yet applied is told from one that somebody
    edited on its host, and from one that was removed from the inventory; docs/drift.md has the words.
    `ogen adopt` takes an edit into the inventory.

    With --base both sides are rendered here: nothing is contacted, no command of the inventory runs, the
    git work tree stays as it is.

    Exit code 2 says that there are changes, 0 that there are none. With --drift only what happened on
    the hosts counts: an inventory that is not yet applied is 0.
    """
    if base is not None and drift:
        raise UsageError("--drift asks the hosts, --base asks none", hint="leave one of them out")
    if base is not None:
        found = against(path, base, limit, context)
    else:
        from .live import compare

        found = compare(path, limit, context, parallel)
    found = found.drift() if drift else found
    show(found, shape, stat=stat)
    return Exit.CHANGES if found.changed else Exit.DONE


def against(path: Path, base: str, limit: str | None, context: int) -> Diff:
    """The inventory at `path` against itself at the git revision `base`."""
    from ..release.diff import diff
    from . import project, revision

    with revision.at(path, base) as then:
        old = () if then is None else _as_it_was(then, base, path)
    planned, new = project.compiled(path)
    names = project.limited(planned.inventory, limit)
    if limit is not None:
        old, new = project.only(old, names), project.only(new, names)
    return diff(old, new, context=context, names=(base, "inventory"))


def _as_it_was(then: Path, base: str, path: Path) -> tuple[Release, ...]:
    """The base's releases; its mistakes are told as the base's, not as the inventory's."""
    from ..errors import DiffError, OgenError, Problems
    from . import project

    try:
        return project.compiled(then)[1]
    except OgenError as error:
        first = error.errors[0] if isinstance(error, Problems) else error
        place = f" (line {first.where.line})" if first.where else ""
        message = str(first.message).replace(str(then.parent), str(path.parent))
        raise DiffError(
            f"the inventory at {base} is not valid: {message}{place}",
            hint="compare with a revision that is; `ogen validate` on that revision shows everything",
        ) from None


def show(diff: Diff, shape: str, *, stat: bool) -> None:
    """Prints `diff`; a diff without changes is a word on stderr, and stdout stays empty."""
    from ..release import document, markdown, text

    if shape == "json":
        console.document({**document.document(diff), "errors": []})
    elif shape == "markdown":
        console.raw(markdown.markdown(diff))
    elif shape == "github":
        for group in diff.groups():
            console.out(_annotation(group))
    elif not diff.changed:
        console.say("no changes")
    else:
        form = text.stat if stat else text.unified
        console.raw(form(diff, _paint if console.colourful() else text.plain))


def _annotation(group: Group) -> str:
    """A change beside the inventory's line behind it: a warning, where a host left its release."""
    from ..release import text
    from ..release.change import Change
    from . import failure

    change = group.change
    by_hand = change.state.is_drift if isinstance(change, Change) else change.drift
    where = change.where if isinstance(change, Change) else None
    return failure.annotation("warning" if by_hand else "notice", f"{group.on}: {text.title(change)}", where)


def _paint(text: str, colour: str) -> str:
    return click.style(text, bold=True) if colour == "bold" else click.style(text, fg=colour)
