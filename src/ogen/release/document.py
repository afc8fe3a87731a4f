"""A diff as JSON values, for programs."""

from __future__ import annotations

from typing import Any

from .change import Change, Diff, Facet, Group


def document(diff: Diff) -> dict[str, Any]:
    """A file's `state` is one of change.State's words, its `lines` are a unified diff from the first @@ on.

    `lines` is null where it is hidden or only access differs; `edit` is null but for files that somebody
    edited while the inventory changed too. `unseen` hosts are known, and were not asked.
    """
    return {
        "changed": diff.changed,
        "old": diff.old,
        "new": diff.new,
        "summary": diff.summary() if diff.changed else "no changes",
        "notes": [{"host": host.host, "note": host.note} for host in diff.hosts if host.note],
        "unseen": [{"host": host, "why": why} for host, why in diff.unseen],
        "changes": [_change(group) for group in diff.groups()],
    }


def _change(group: Group) -> dict[str, Any]:
    change = group.change
    shown: dict[str, Any] = {"hosts": list(group.hosts), "kind": change.kind.value}
    if not isinstance(change, Change):
        return shown | {
            "what": change.what,
            "name": change.name,
            "detail": change.detail,
            "drift": change.drift,
        }
    return shown | {
        "what": "file",
        "path": change.path,
        "state": change.state.value,
        "drift": change.state.is_drift,
        "old": _facet(change.old),
        "new": _facet(change.new),
        "hidden": change.hidden.value if change.hidden else None,
        "lines": list(change.lines) or None,
        "edit": list(change.edit) or None,
        "remark": change.remark,
        "file": change.where.file if change.where else None,
        "line": change.where.line if change.where else None,
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
