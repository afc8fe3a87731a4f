"""A diff for people: unified text, coloured where wanted, and the short form with counts.

Each part of a change has `---` and `+++` lines of its own, in the form that `patch -p1`, `git apply`
and review tools read: below a folder with a folder for each host, which is what `ogen render` writes.
Where several hosts share a change, they name the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .change import Change, Diff, Group, Hidden, Item, Kind, State, fold

Paint = Callable[[str, str], str]  # text, "red" | "green" | "cyan" | "bold" | "yellow" → text

_COLOUR = {Kind.ADDED: "green", Kind.CHANGED: "yellow", Kind.REMOVED: "red"}
VERBS = ("stop", "restart", "reload", "relink")  # items that an apply does, rather than has
_SIGN = {Kind.ADDED: "+", Kind.CHANGED: "~", Kind.REMOVED: "-"}
_KEPT = "kept under /etc/ogen/edited"
_WORDS = {
    State.PENDING: "",
    State.REMOVED: "",
    State.EDITED: "edited on the host; apply puts it back",
    State.CONFLICT: f"edited on the host, and not yet applied; apply overwrites the edit, {_KEPT}",
    State.REMOVED_EDITED: "removed from the inventory, and edited on the host",
    State.CONVERGED: "edited on the host to what the inventory wants",
    State.IN_THE_WAY: "somebody else's file is in the way, and apply does not replace it",
    State.FOREIGN: "foreign drop-in for a unit of ogen's; apply leaves it",
}
_SHORT = {
    State.PENDING: "",
    State.REMOVED: "",
    State.EDITED: "edited",
    State.CONFLICT: "edited, and not yet applied",
    State.REMOVED_EDITED: "removed from the inventory, and edited",
    State.CONVERGED: "edited to what is wanted",
    State.IN_THE_WAY: "in the way",
    State.FOREIGN: "foreign drop-in",
}
HERE = "on the host"


def plain(text: str, _: str) -> str:
    return text


def unified(diff: Diff, paint: Paint = plain) -> str:
    """Every change with its lines; the hosts as headings, the summary last. Empty for no change."""
    if not diff.changed:
        return ""
    parts: list[str] = [f"{note}: {hosts}" for note, hosts in diff.notes()]
    last = ""
    for group in diff.groups():
        if group.on != last:
            last = group.on
            parts.append("\n" * bool(parts) + paint(f"=== {last}", "bold"))
        parts.append(paint(title(group.change), _COLOUR[group.change.kind]))
        parts += [_painted(line, paint) for line in patch(group, diff)]
    parts.append("\n" + diff.summary())
    return "\n".join(parts) + "\n"


def patch(group: Group, diff: Diff) -> Iterator[str]:
    """The lines of a change with their headers; first what was edited on the host, if that is apart."""
    change = group.change
    if not isinstance(change, Change):
        return
    path = f"{group.hosts[0]}{change.path}"
    if change.edit:
        gone = change.state is not State.FOREIGN and change.old is None
        yield f"--- a/{path}\t{diff.old}"
        yield "+++ /dev/null" if gone else f"+++ b/{path}\t{HERE}"
        yield from change.edit
    if change.lines:
        by_hand = change.state.is_drift
        old = diff.old if change.edit and change.state is State.CONFLICT else HERE if by_hand else diff.old
        new = HERE if change.state is State.FOREIGN else diff.new
        added = change.old is None and old != diff.old if by_hand else change.old is None
        yield "--- /dev/null" if added else f"--- a/{path}\t{old}"
        yield "+++ /dev/null" if change.new is None else f"+++ b/{path}\t{new}"
        yield from change.lines


def stat(diff: Diff, paint: Paint = plain) -> str:
    """One line for each change, with how many lines come and go."""
    if not diff.changed:
        return ""
    order = {host.host: number for number, host in enumerate(diff.hosts)}
    rows: dict[str, set[str]] = {}
    for group in diff.groups():
        rows.setdefault(_row(group.change, paint), set()).update(group.hosts)
    notes = [f"{note}: {hosts}" for note, hosts in diff.notes()]
    lines = [f"{row}  ({fold(sorted(hosts, key=order.__getitem__))})" for row, hosts in rows.items()]
    return "\n".join([*notes, *lines, diff.summary()]) + "\n"


def _row(change: Change | Item, paint: Paint) -> str:
    if isinstance(change, Item):
        return f" {paint('!' if change.what in VERBS else _SIGN[change.kind], 'yellow')} {_item(change)}"
    word = _SHORT[change.state] and f"  {_SHORT[change.state]}"
    return f" {paint(_SIGN[change.kind], _COLOUR[change.kind])} {change.path}{_counts(change, paint)}{word}"


def title(change: Change | Item) -> str:
    """Such as "changed /etc/x (mode 0644 root:root → 0600 root:root; secret <secret:1> → <secret:2>)"."""
    if isinstance(change, Item):
        verb = "" if change.what in VERBS else f"{change.kind.value} "
        return verb + _item(change)
    parts = (_WORDS[change.state], change.remark, _access(change), _hidden(change))
    remarks = [part for part in parts if part]
    return f"{change.kind.value} {change.path}" + (f" ({'; '.join(remarks)})" if remarks else "")


def _item(item: Item) -> str:
    detail = f"({item.detail})" if item.detail and item.what in VERBS else item.detail
    return " ".join(word for word in (item.what, item.name, detail) if word)


def _access(change: Change) -> str:
    if change.old is None or change.new is None:
        facet = change.old or change.new
        ordinary = facet is None or facet.access == "0644 root:root"
        return "" if ordinary or facet is None else facet.access
    if change.old.access == change.new.access:
        return ""
    return f"{change.old.access} → {change.new.access}"


def _hidden(change: Change) -> str:
    if change.hidden is None:
        return ""
    marks = " → ".join(facet.mark for facet in (change.old, change.new) if facet is not None)
    if change.hidden is Hidden.SECRET:
        return f"secret, not shown: {marks}"
    sizes = " → ".join(
        _size(f.size) for f in (change.old, change.new) if f is not None and f.size is not None
    )
    what = {
        Hidden.BINARY: "not text",
        Hidden.LARGE: "too large to show",
        Hidden.UNREAD: "the host's text was not read",
    }[change.hidden]
    return f"{what}: {sizes + ', ' if sizes else ''}sha256 {marks}"


def _size(size: int) -> str:
    return f"{size} bytes" if size < 10_000 else f"{size / 1000:.0f} kB"


def _counts(change: Change, paint: Paint) -> str:
    if change.hidden is not None:
        return f"  {change.hidden.value}"
    if not change.lines:
        return f"  {change.remark or _access(change)}".rstrip()
    return f"  {paint(f'+{change.added}', 'green')} {paint(f'-{change.removed}', 'red')}"


def _painted(line: str, paint: Paint) -> str:
    if line.startswith(("--- a/", "+++ b/", "--- /dev/null", "+++ /dev/null")):
        return paint(line, "bold")
    colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
    return paint(line, colour) if colour else line
