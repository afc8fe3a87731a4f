"""A diff as JSON values, for programs."""

from __future__ import annotations

from typing import Any

from .change import Change, Diff, Facet, Group


def document(diff: Diff) -> dict[str, Any]:
    """`lines` is a unified diff from its first @@ on; null where it is hidden or only access differs."""
    return {
        "changed": diff.changed,
        "old": diff.old,
        "new": diff.new,
        "summary": diff.summary() if diff.changed else "no changes",
        "notes": [{"host": host.host, "note": host.note} for host in diff.hosts if host.note],
        "changes": [_change(group) for group in diff.groups()],
    }


def _change(group: Group) -> dict[str, Any]:
    change = group.change
    shown: dict[str, Any] = {"hosts": list(group.hosts), "kind": change.kind.value}
    if not isinstance(change, Change):
        return shown | {"what": change.what, "name": change.name, "detail": change.detail}
    return shown | {
        "what": "file",
        "path": change.path,
        "origin": change.origin.value,
        "old": _facet(change.old),
        "new": _facet(change.new),
        "hidden": change.hidden.value if change.hidden else None,
        "lines": list(change.lines) or None,
    }


def _facet(facet: Facet | None) -> dict[str, Any] | None:
    if facet is None:
        return None
    return {
        "mode": f"{facet.mode:04o}",
        "owner": facet.owner,
        "group": facet.group,
        "size": facet.size,
        "mark": facet.mark or None,
    }
