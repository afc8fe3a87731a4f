"""A diff for people: unified text, coloured where wanted, and the short form with counts."""

from __future__ import annotations

from collections.abc import Callable

from .change import Change, Diff, Hidden, Item, Kind, Origin, fold

Paint = Callable[[str, str], str]  # text, "red" | "green" | "cyan" | "bold" | "yellow" → text

_COLOUR = {Kind.ADDED: "green", Kind.CHANGED: "yellow", Kind.REMOVED: "red"}
VERBS = ("stop", "restart", "reload", "relink")  # items that an apply does, rather than has
_SIGN = {Kind.ADDED: "+", Kind.CHANGED: "~", Kind.REMOVED: "-"}


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
        if isinstance(group.change, Change):
            parts += [_painted(line, paint) for line in group.change.lines]
    parts.append("\n" + diff.summary())
    return "\n".join(parts) + "\n"


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
    return f" {paint(_SIGN[change.kind], _COLOUR[change.kind])} {change.path}{_counts(change, paint)}"


def title(change: Change | Item) -> str:
    """Such as "changed /etc/x (mode 0644 root:root → 0600 root:root; secret <secret:1> → <secret:2>)"."""
    if isinstance(change, Item):
        verb = "" if change.what in VERBS else f"{change.kind.value} "
        return verb + _item(change)
    remarks = [remark for remark in (_origin(change), _access(change), _hidden(change)) if remark]
    return f"{change.kind.value} {change.path}" + (f" ({'; '.join(remarks)})" if remarks else "")


def _item(item: Item) -> str:
    return " ".join(word for word in (item.what, item.name, item.detail) if word)


def _origin(change: Change) -> str:
    return {
        Origin.PENDING: "",
        Origin.EDITED: "edited on the host; apply puts it back",
        Origin.BOTH: "edited on the host, and not applied yet",
    }[change.origin]


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
        return f"  {_access(change)}"
    return f"  {paint(f'+{change.added}', 'green')} {paint(f'-{change.removed}', 'red')}"


def _painted(line: str, paint: Paint) -> str:
    colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
    return paint(line, colour) if colour else line
