"""Runs out of the audits of hosts: which was the last, and where back goes."""

from __future__ import annotations

from typing import Any

from ogen.cli.runs import back, gathered, label


def entry(
    run: str, before: str | None, after: str, *, time: str = "2026-01-01", status: str = "applied"
) -> dict[str, Any]:
    who = label("ops@desk", "apply", run * 8)
    return {"who": who, "from": before, "to": after, "time": time, "status": status, "git": "abc", "tx": "t"}


def test_entries_of_one_run_are_found_on_all_hosts() -> None:
    runs = gathered({"a": [entry("1", None, "a1")], "b": [entry("1", None, "b1")]})
    assert [(r.id, r.who, r.what, r.git) for r in runs] == [("1" * 8, "ops@desk", "apply", "abc")]
    assert [(e.host, e.before, e.after) for e in runs[0].entries] == [("a", None, "a1"), ("b", None, "b1")]


def test_the_order_on_a_host_counts_and_not_its_clock() -> None:
    audits = {"a": [entry("1", None, "a1", time="2036"), entry("2", "a1", "a2", time="2026")]}
    assert [r.id[0] for r in gathered(audits)] == ["1", "2"]
    audits["b"] = [entry("1", None, "b1", time="2036"), entry("3", "b1", "b2", time="2027")]
    assert [r.id[0] for r in gathered(audits)] == ["1", "2", "3"]


def test_audits_that_contradict_each_other_end_too() -> None:
    audits = {
        "a": [entry("1", None, "x"), entry("2", "x", "y")],
        "b": [entry("2", None, "x"), entry("1", "x", "y")],
    }
    assert sorted(r.id[0] for r in gathered(audits)) == ["1", "2"]


def test_back_undoes_the_last_run_on_the_hosts_that_it_changed() -> None:
    audits = {
        "a": [entry("1", None, "a1"), entry("2", "a1", "a2")],
        "edge": [entry("1", None, "e1")],
    }
    assert back(gathered(audits), None) == {"a": "a1"}


def test_a_run_that_changed_nothing_is_not_undone() -> None:
    audits = {
        "a": [entry("1", None, "a1"), entry("2", "a1", "a2"), entry("3", "a2", "a3", status="rolled_back")]
    }
    assert back(gathered(audits), None) == {"a": "a1"}


def test_back_from_the_first_run_leads_nowhere() -> None:
    assert back(gathered({"a": [entry("1", None, "a1")]}), None) == {"a": None}
    assert back((), None) == {}


def test_back_to_a_run_or_to_a_release() -> None:
    audits = {
        "a": [entry("1", None, "aa11"), entry("2", "aa11", "aa22")],
        "b": [entry("1", None, "bb11"), entry("2", "bb11", "bb22")],
    }
    runs = gathered(audits)
    assert back(runs, "1" * 8) == {"a": "aa11", "b": "bb11"}
    assert back(runs, "bb1") == {"b": "bb11"}
    assert back(runs, "cc") == {}


def test_an_entry_of_somebody_else_is_a_run_of_its_own() -> None:
    (run,) = gathered(
        {"a": [{"who": "x", "tx": "0123456789abcdef", "from": None, "to": "a1", "status": "applied"}]}
    )
    assert (run.id, run.who, run.what) == ("01234567", "x", "")
