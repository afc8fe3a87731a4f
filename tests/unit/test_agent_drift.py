"""The three versions of a file: the table of states is total, and agent and controller tell the same."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from agents import apply, host
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ogen.agent import compare, drift, owner
from ogen.cli import live
from ogen.inventory.model import Host as InventoryHost
from ogen.push.results import Target, comparison
from ogen.release.change import State
from ogen.release.diff import Comparer
from ogen.release.model import File, Release
from ogen.release.redaction import Redactor

VERSIONS = st.sampled_from([None, "A", "B", "C"])
LINKED = "/etc/systemd/system/ogen-x.service"
INSIDE = "/etc/ogen/current/x.txt"

#: base, mine, theirs → the word; "-" is no file. Written out by hand: it is what docs/drift.md says.
TABLE = {
    "AAA": "same",
    "AAB": "edited",
    "AA-": "edited",
    "ABA": "pending",
    "ABB": "converged",
    "ABC": "conflict",
    "AB-": "conflict",
    "A-A": "removed",
    "A-B": "removed_edited",
    "A--": "converged",
    "-A-": "pending",
    "-AA": "in_the_way",
    "-AB": "in_the_way",
}


def word(base: str | None, mine: str | None, theirs: str | None) -> str:
    """The table's word; letters are named in the order in which they come."""
    names: dict[str, str] = {}
    for one in (base, mine, theirs):
        if one is not None:
            names.setdefault(one, "ABC"[len(names)])
    return TABLE["".join(names[one] if one is not None else "-" for one in (base, mine, theirs))]


def test_the_words_are_the_same_on_both_sides() -> None:
    words = {value for name, value in vars(drift).items() if name.isupper() and isinstance(value, str)}
    assert words == {state.value for state in State} | {drift.SAME}
    assert set(drift.EDITS) == {s.value for s in State if s.is_drift} - {drift.IN_THE_WAY, drift.FOREIGN}
    assert set(TABLE.values()) | {drift.FOREIGN} == words


@given(VERSIONS, VERSIONS, VERSIONS)
def test_the_table_is_total(base: str | None, mine: str | None, theirs: str | None) -> None:
    if base is None and mine is None:  # a file of others, or none: ogen does not know of it
        return
    assert drift.classify(base, mine, theirs) == word(base, mine, theirs)


@pytest.fixture(autouse=True)
def _undeafened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_deaf", lambda: None)


def release(path: str, content: str | None) -> Release:
    other = File("/etc/ogen/current/other.txt", b"other\n")
    files = [other] if content is None else [other, File(path, f"{content}\n".encode())]
    return Release("gpu1", tuple(sorted(files, key=lambda f: f.path)))


def put(root: Path, path: str, content: str | None) -> None:
    """Somebody writes on the host, by renaming a new file over what is there, as editors do."""
    place = root / path.lstrip("/")
    place.unlink(missing_ok=True)
    if content is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{content}\n")


@given(VERSIONS, VERSIONS, VERSIONS, st.sampled_from([LINKED, INSIDE]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_real_host_tells_what_the_table_says(
    base: str | None, mine: str | None, theirs: str | None, path: str
) -> None:
    """From files in a folder, through the agent's report, to the change that is shown."""
    if base is None and (mine is None or path == INSIDE):  # a file in no manifest makes no difference there
        theirs = None
    with tempfile.TemporaryDirectory() as folder:
        one = host(Path(folder))
        assert apply(one, release(path, base))["status"] == "applied"
        if theirs != base:
            put(Path(folder), path, theirs)
        wish = release(path, mine)
        report, texts = compare.compare(one.disk, one.machine, wish.manifest(), want_text=True)
        seen = comparison("gpu1", report, texts)
        target = Target(InventoryHost("gpu1", "192.0.2.1", root=folder), wish)
        shown = live._host(target, seen, Comparer(3, Redactor()))
        expected = word(base, mine, theirs) if base or mine else "same"
        changes = {change.path: change for change in shown.changes}
        assert set(changes) == ({path} if expected != "same" else set())
        if expected == "same":
            assert not shown.items
            return
        change = changes[path]
        assert change.state.value == expected
        assert change.lines == lines(expected, base, mine, theirs)
        assert change.edit == (hunk(base, theirs) if expected in ("conflict", "removed_edited") else ())


def lines(state: str, base: str | None, mine: str | None, theirs: str | None) -> tuple[str, ...]:
    """The change's own part: from what the host has, or from the common text where there is an edit too."""
    if state == "converged":
        return ()
    return hunk(base, mine) if state == "conflict" else hunk(theirs, mine)


def hunk(old: str | None, new: str | None) -> tuple[str, ...]:
    if old == new:
        return ()
    head = f"@@ -{'1' if old else '0,0'} +{'1' if new else '0,0'} @@"
    return (head, *([f"-{old}"] if old else []), *([f"+{new}"] if new else []))


@given(VERSIONS, VERSIONS, VERSIONS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_said_of_apply_is_true(base: str | None, mine: str | None, theirs: str | None) -> None:
    """Afterwards the host is as the inventory wants, edits are kept; what is in the way is refused."""
    if base is None and mine is None:
        theirs = None
    with tempfile.TemporaryDirectory() as folder:
        one = host(Path(folder))
        apply(one, release(LINKED, base))
        if theirs != base:
            put(Path(folder), LINKED, theirs)
        state = word(base, mine, theirs) if base or mine else "same"
        result = apply(one, release(LINKED, mine))
        place, kept = Path(folder, LINKED.lstrip("/")), Path(folder, "etc/ogen/edited" + LINKED)
        if state == "in_the_way":
            assert "exists and is not ogen's" in result["message"]
            return
        assert result["status"] == "applied"
        if state == "removed_edited":
            assert place.read_text() == f"{theirs}\n"  # apply leaves what took the link's place
        elif mine is None:
            assert not place.is_symlink()
        else:
            there = place.readlink()
            assert Path(folder, str(there).lstrip("/")).resolve().read_text() == f"{mine}\n"
        if state in ("edited", "conflict") and theirs is not None:
            assert kept.read_text() == f"{theirs}\n"
