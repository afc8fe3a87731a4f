"""Texts by lines: how far apart two are, what was replaced by what, an edit carried over to another text."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ..release.derived import masked

_WORD = re.compile(r"[\w.-]+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Pair:
    """A line and what stands in its place; "" for none."""

    old: str
    new: str

    def words(self) -> Iterator[tuple[str, str]]:
        """Words that were replaced by others, where the rest of the line is as it was."""
        old, new = _WORD.findall(self.old), _WORD.findall(self.new)
        if len(old) == len(new):
            yield from ((a, b) for a, b in zip(old, new, strict=True) if a != b)


def split(text: str) -> list[str]:
    """Lines without the hashes that follow from the rest; "\\n" alone ends a line."""
    return masked(text).split("\n")


def distance(first: str, second: str) -> int:
    """How many words are in one text's lines and not in the other's; 0: the same lines, in some order."""
    a, b = Counter(split(first)), Counter(split(second))
    gone, come = _words(a - b), _words(b - a)
    return (gone - come).total() + (come - gone).total() or (a - b).total() + (b - a).total()


def _words(lines: Counter[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for line, count in lines.items():
        for word in (*_WORD.findall(line), "\n"):
            found[word] += count
    return found


def equal(first: str, second: str) -> bool:
    return masked(first) == masked(second)


def pairs(old: str, new: str) -> tuple[Pair, ...]:
    """Lines that differ, those of one place paired in their order."""
    found: list[Pair] = []
    before, after = split(old), split(new)
    for word, i1, i2, j1, j2 in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if word != "equal":
            size = max(i2 - i1, j2 - j1)
            lines = (*before[i1:i2], *[""] * size), (*after[j1:j2], *[""] * size)
            found += [Pair(lines[0][n], lines[1][n]) for n in range(size)]
    return tuple(found)


def carried(base: str, theirs: str, mine: str) -> str | None:
    """The edit that made `theirs` of `base`, made to `mine`; None where both changed the same lines."""
    lines = base.split("\n")
    ours, edits = _changes(lines, mine.split("\n")), _changes(lines, theirs.split("\n"))
    for a1, a2, put in ours:
        for b1, b2, wanted in edits:
            if a1 <= b2 and b1 <= a2 and (a1, a2, put) != (b1, b2, wanted):
                return None
    both = {(i1, i2): put for i1, i2, put in (*ours, *edits)}
    for (i1, i2), put in sorted(both.items(), reverse=True):
        lines[i1:i2] = put
    return "\n".join(lines)


def _changes(old: list[str], new: list[str]) -> list[tuple[int, int, list[str]]]:
    codes = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return [(i1, i2, new[j1:j2]) for word, i1, i2, j1, j2 in codes if word != "equal"]
