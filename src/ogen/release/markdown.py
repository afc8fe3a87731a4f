"""A diff as a comment on a pull request: fences that content can't break, and never too long."""

from __future__ import annotations

import html
import re

from .change import Change, Diff, Group
from .text import patch, title

LIMIT = 65_000  # characters; GitHub takes 65,536
_NOTE = 300  # kept free for the words about what was left out


def markdown(diff: Diff, limit: int = LIMIT) -> str:
    """The whole diff within `limit` characters; what does not fit is named, then counted."""
    heading = f"### ogen: {diff.summary()}\n" if diff.changed else "### ogen: no changes\n"
    notes = [*diff.notes(), *((why, host) for host, why in diff.unseen)]
    parts = [heading, *(f"\n{_code(hosts)}: {html.escape(note)}.\n" for note, hosts in notes)]
    room = limit - _NOTE - sum(map(len, parts))
    left_out = 0
    for group in diff.groups():
        fitting = next((text for text in (_section(group, diff), _bullet(group)) if len(text) <= room), None)
        if fitting is None:
            left_out += 1
            continue
        parts.append(fitting)
        room -= len(fitting)
    if left_out:
        parts.append(f"\n{left_out} more changes do not fit into this comment; `ogen diff` shows them.\n")
    return "".join(parts)[:limit]


def _section(group: Group, diff: Diff) -> str:
    lines = list(patch(group, diff))
    if not lines:
        return f"\n* {_heading(group)}\n"
    fence = "`" * max(3, 1 + max((len(run) for line in lines for run in re.findall("`+", line)), default=0))
    body = "\n".join(lines)
    return f"\n<details><summary>{_heading(group)}</summary>\n\n{fence}diff\n{body}\n{fence}\n\n</details>\n"


def _bullet(group: Group) -> str:
    change = group.change
    counts = (
        f" (+{change.added} −{change.removed}, too long to show here)" if isinstance(change, Change) else ""
    )
    return f"\n* {_heading(group)}{counts}\n"


def _heading(group: Group) -> str:
    return f"{_code(title(group.change))} on {_code(group.on)}"


def _code(text: str) -> str:
    """Text as code in HTML: no markup, link or mention in it comes alive."""
    return f"<code>{html.escape(text).replace('@', '&#64;').replace('|', '&#124;')}</code>"
