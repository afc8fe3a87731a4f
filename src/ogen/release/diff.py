"""Two sets of releases → what differs, host by host: pure, and the same for the same input."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from .change import Change, Diff, Facet, Hidden, HostDiff, Item, Kind, Side, State
from .model import Release
from .plaintext import visible
from .redaction import Redactor

MAX_BYTES = 256 * 1024  # a larger file is summarised; difflib is quadratic at worst
MAX_LINES = 4000
NO_NEWLINE = "\\ No newline at end of file"
NEW_HOST, GONE_HOST = "new in the inventory", "no longer in the inventory; nothing is changed there"


class Sides(NamedTuple):
    """The three versions of a file; None where there is no such file."""

    base: Side | None  # as ogen put it there
    mine: Side | None  # as the inventory wants it
    theirs: Side | None  # as it is on the host


def diff(
    old: Iterable[Release],
    new: Iterable[Release],
    *,
    context: int = 3,
    redactor: Redactor | None = None,
    names: tuple[str, str] = ("base", "inventory"),
) -> Diff:
    """What changes on each host when `new` takes the place of `old`."""
    before = {release.host: release for release in old}
    after = {release.host: release for release in new}
    compare = Comparer(context, redactor or Redactor())
    hosts = [_host(before.get(name), after.get(name), name, compare) for name in sorted({*before, *after})]
    return Diff(tuple(host for host in hosts if host.changed), *names)


def _host(old: Release | None, new: Release | None, name: str, compare: Comparer) -> HostDiff:
    if new is None:
        return HostDiff(name, note=GONE_HOST)
    if old == new:
        return HostDiff(name)
    before = {f.path: f for f in old.files} if old else {}
    after = {f.path: f for f in new.files}
    changes = [
        (compare(path, Side.of(before.get(path)), Side.of(after.get(path))), after.get(path))
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    ]
    found = tuple(
        replace(
            change,
            state=State.PENDING if wanted else State.REMOVED,
            where=wanted.where if wanted else None,
        )
        for change, wanted in changes
        if change is not None
    )
    return HostDiff(name, found, _items(old, new, bool(found)), "" if old else NEW_HOST)


class Comparer:
    """Compares files; equal pairs of contents, on however many hosts, are compared once."""

    def __init__(self, context: int, redactor: Redactor) -> None:
        self._context = context
        self._redactor = redactor
        self._seen: dict[tuple[str, str, str], tuple[tuple[str, ...], Hidden | None]] = {}

    def __call__(self, path: str, old: Side | None, new: Side | None) -> Change | None:
        """The change at `path`; None when both sides are equal in content, mode and owner."""
        change = self._change(path, old, new)
        same_text = old is not None and new is not None and old.sha256 == new.sha256
        return None if same_text and change.old == change.new else change

    def three_way(self, path: str, state: State, sides: Sides) -> Change:
        """A file of a host with its three versions.

        `lines` say what an apply does to it; where the inventory has changed as well and ogen's own text
        is known, they say what the inventory changed, and `edit` what was changed on the host.
        """
        base, mine, theirs = sides
        if state is State.FOREIGN:
            return replace(self._change(path, None, theirs, by_hand="+"), state=state)
        if state is State.CONFLICT and _known(base, theirs):
            change = replace(self._change(path, base, mine), old=self._change(path, theirs, mine).old)
        else:
            change = self._change(path, theirs, mine, by_hand="-" if state.is_drift else "")
        edit: tuple[str, ...] = ()
        if state in (State.CONFLICT, State.REMOVED_EDITED) and base and _known(base, theirs):
            secret = any(side is not None and side.secret for side in sides)
            edit = self._lines(base, theirs, secret, "+")[0] if base.sha256 != _sha(theirs) else ()
        kind = Kind.REMOVED if mine is None else Kind.ADDED if theirs is None else Kind.CHANGED
        return replace(change, kind=kind, state=state, edit=edit)

    def _change(self, path: str, old: Side | None, new: Side | None, by_hand: str = "") -> Change:
        secret = bool((old and old.secret) or (new and new.secret))
        same_text = _sha(old) == _sha(new)
        lines, hidden = ((), None) if same_text else self._lines(old, new, secret, by_hand)
        kind = Kind.ADDED if old is None else Kind.REMOVED if new is None else Kind.CHANGED
        before, after = (self._facet(side, secret, hidden) for side in (old, new))
        return Change(visible(path), kind, before, after, lines, hidden)

    def _facet(self, side: Side | None, secret: bool, hidden: Hidden | None) -> Facet | None:
        if side is None:
            return None
        if hidden is None:
            return Facet(side.mode, visible(side.owner), visible(side.group))
        mark = self._redactor.mark(side.sha256) if secret else side.sha256[:12]
        size = len(side.content) if side.content is not None and not secret else None
        return Facet(side.mode, visible(side.owner), visible(side.group), size, mark)

    def _lines(
        self, old: Side | None, new: Side | None, secret: bool, by_hand: str
    ) -> tuple[tuple[str, ...], Hidden | None]:
        """`by_hand` is the sign of the lines that somebody wrote on the host."""
        if secret:
            return (), Hidden.SECRET
        if any(side is not None and side.content is None for side in (old, new)):
            return (), Hidden.UNREAD
        key = (old.sha256 if old else "", new.sha256 if new else "", by_hand)
        if key not in self._seen:
            self._seen[key] = self._compute(old, new, by_hand)
        return self._seen[key]

    def _compute(
        self, old: Side | None, new: Side | None, by_hand: str
    ) -> tuple[tuple[str, ...], Hidden | None]:
        texts = []
        for side in (old, new):
            content = (side.content if side else None) or b""
            text = _text(content)
            if text is None:
                return (), Hidden.BINARY
            if len(content) > MAX_BYTES or text.count("\n") > MAX_LINES:
                return (), Hidden.LARGE
            texts.append(text)
        lines = unified(texts[0], texts[1], self._context)
        return tuple(line[:1] + visible(self._hide(line, by_hand)) for line in lines), None

    def _hide(self, line: str, by_hand: str) -> str:
        """A line without secrets; in what people write on hosts, what looks like one counts as one."""
        text = self._redactor(line[1:])
        return self._redactor.suspect(text) if by_hand and line[:1] == by_hand else text


def _sha(side: Side | None) -> str | None:
    return side.sha256 if side else None


def _known(*sides: Side | None) -> bool:
    """Whether the texts of all sides are known; that of a file that is not there is."""
    return all(side is None or side.content is not None for side in sides)


def _text(content: bytes) -> str | None:
    """The content as text; None for what is binary."""
    if b"\0" in content:
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None


def unified(old: str, new: str, context: int) -> list[str]:
    """A unified diff without its two header lines; lines end at newlines only, as nginx sees them."""
    before, after = _split(old), _split(new)
    found: list[str] = []
    for line in list(difflib.unified_diff(before, after, n=context, lineterm=""))[2:]:
        body, newline, _ = line.partition("\n")
        found.append(body)
        if not newline and not line.startswith("@@"):
            found.append(NO_NEWLINE)
    return found


def _split(text: str) -> list[str]:
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _items(old: Release | None, new: Release, files_changed: bool) -> tuple[Item, ...]:
    """Models to create; and whatever else of the release differs where no file tells of it."""
    items = _named("model", old.models if old else (), new.models, "name")
    if old is not None and not files_changed:
        items += _named("unit", old.units, new.units, "name")
        items += _named("view", old.views, new.views, "path")
        items += _named("proof", old.instances, new.instances, "unit")
        items += _named("proof", old.balancers, new.balancers, "unit")
        if old.librarian != new.librarian:
            items.append(Item("librarian", "", Kind.CHANGED))
    return tuple(items)


def _named(what: str, old: Iterable[object], new: Iterable[object], key: str) -> list[Item]:
    before = {getattr(entry, key): entry for entry in old}
    after = {getattr(entry, key): entry for entry in new}
    items = []
    for name in sorted({*before, *after}):
        was, wanted = before.get(name), after.get(name)
        if was != wanted:
            kind = Kind.ADDED if was is None else Kind.REMOVED if wanted is None else Kind.CHANGED
            source = getattr(wanted or was, "source", "")
            items.append(Item(what, visible(name), kind, visible(f"from {source}") if source else ""))
    return items
