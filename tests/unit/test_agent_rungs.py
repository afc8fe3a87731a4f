"""Autofit's choice as the agent sees it: what is in force, and what an instance must show then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ogen.agent import rungs

PROMISED = {"model": "chat", "verdict": "full", "resident": True}
LADDER = {
    "rungs": [
        {"id": "a", "models": {"chat": {"verdict": "full", "context": 8192}}},
        {"id": "b", "models": {"chat": {"verdict": "partial", "context": 4096}}},
    ]
}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Where the ladder of an instance lies, and its choice."""
    found = tmp_path / "rungs.json", tmp_path / "chosen.json"
    monkeypatch.setattr(rungs, "LADDER", str(tmp_path) + "/rungs.json%.0s")
    monkeypatch.setattr(rungs, "CHOSEN", str(tmp_path) + "/chosen.json%.0s")
    return found


def test_without_autofit_the_plan_counts(places: tuple[Path, Path]) -> None:
    assert rungs.chosen("gpu0") == {}
    assert rungs.served("gpu0", PROMISED) == PROMISED


def test_the_rung_in_force(places: tuple[Path, Path]) -> None:
    ladder, choice = places
    ladder.write_text(json.dumps(LADDER))
    choice.write_text(json.dumps({"id": "b", "rung": 7, "about": "less", "why": "short", "since": 5.0}))
    told = {"about": "less", "why": "short", "since": 5.0, "rung": 2, "of": 2}
    assert rungs.chosen("gpu0") == told, "its place is that of the release in force"
    assert rungs.served("gpu0", PROMISED) == {**PROMISED, "verdict": "partial", "context": 4096}
    assert rungs.served("gpu0", {**PROMISED, "model": "other"})["verdict"] == "full"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"id": "gone"}', '{"id": null}'])
def test_a_choice_that_is_damaged_or_of_another_release(places: tuple[Path, Path], text: str) -> None:
    ladder, choice = places
    ladder.write_text(json.dumps(LADDER))
    choice.write_text(text)
    assert rungs.chosen("gpu0") == {}
    assert rungs.served("gpu0", PROMISED) == PROMISED


def test_the_proof_of_an_apply_takes_what_the_rung_promises(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ogen.agent import prove

    ladder, choice = places
    ladder.write_text(json.dumps(LADDER))
    half = [{"name": "chat:latest", "size": 10, "size_vram": 5}]
    for chosen, wrong in (("a", True), ("b", False)):
        choice.write_text(json.dumps({"id": chosen}))
        served: Any = rungs.served("gpu0", PROMISED)
        assert (prove.check_loaded(served, half) is not None) == wrong
