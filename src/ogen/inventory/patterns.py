"""Patterns of hosts: "gpu*,@boxes,!gpu03" names hosts, globs, groups, and what is left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from ..errors import UsageError
from ..source import Node
from .faults import Faults, near_or_list
from .model import Host, Inventory
from .ranges import RangeError, expand, has_range


class PatternError(ValueError):
    """A term of a pattern matches nothing; `hint` says what there is."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def hosts_matching(inventory: Inventory, pattern: str) -> tuple[Host, ...]:
    """The hosts that `pattern` names, in the inventory's order. Raises UsageError if a term has no match."""
    try:
        names = set(matching([host.name for host in inventory.hosts], inventory.groups, pattern))
    except PatternError as error:
        raise UsageError(str(error), hint=error.hint) from None
    return tuple(host for host in inventory.hosts if host.name in names)


def matching(hosts: Sequence[str], groups: Mapping[str, Sequence[str]], pattern: str) -> tuple[str, ...]:
    """Names out of `hosts`, in their order; only exclusions mean all but those. Raises PatternError."""
    terms = [term.strip() for term in pattern.split(",")]
    if not all(terms):
        raise PatternError(f"the pattern {pattern!r} has an empty part")
    chosen: set[str] = set()
    left_out: set[str] = set()
    for term in terms:
        found = _term(hosts, groups, term.removeprefix("!"))
        (left_out if term.startswith("!") else chosen).update(found)
    if all(term.startswith("!") for term in terms):
        chosen = set(hosts)
    if not chosen - left_out:
        raise PatternError(f"{pattern!r} leaves no host")
    return tuple(host for host in hosts if host in chosen and host not in left_out)


def listed(
    hosts: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    items: Sequence[Node],
    subject: str,
    faults: Faults,
) -> tuple[str, ...]:
    """The hosts that a list of patterns names together; tells the items without a match."""
    good: list[str] = []
    for item in items:
        try:
            matching(hosts, groups, item.value.removeprefix("!"))
            good.append(item.value)
        except PatternError as error:
            faults.add(f"{subject}: {error}", item.where, error.hint)
    try:
        return matching(hosts, groups, ",".join(good)) if good else ()
    except PatternError as error:
        faults.add(f"{subject}: {error}", items[0].where)
        return ()


def _term(hosts: Sequence[str], groups: Mapping[str, Sequence[str]], term: str) -> Sequence[str]:
    known = set(hosts)
    if term.startswith("@"):
        if term[1:] in groups:
            return groups[term[1:]]
        raise PatternError(f"there is no group {term[1:]!r}", near_or_list(term[1:], groups, "groups"))
    if term in known:
        return [term]
    if term in groups:
        return groups[term]
    if term == "all":
        return hosts
    if has_range(term):
        return _range(known, term)
    if re.search(r"[*?\[]", term):
        found = [host for host in hosts if fnmatchcase(host, term)]
        if found:
            return found
        raise PatternError(f"no host matches {term!r}", near_or_list("", hosts, "hosts"))
    names = [*hosts, *groups]
    raise PatternError(f"there is no host or group {term!r}", near_or_list(term, names, "hosts and groups"))


def _range(known: set[str], term: str) -> list[str]:
    try:
        names = expand(term)
    except RangeError as error:
        raise PatternError(str(error)) from None
    missing = [name for name in names if name not in known]
    if missing:
        raise PatternError(
            f"{term!r}: there is no host {missing[0]!r}", near_or_list(missing[0], known, "hosts")
        )
    return names
