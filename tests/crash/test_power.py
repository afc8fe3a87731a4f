"""Power cuts: whatever is lost of what was not synced, the host boots wholly old or wholly new."""

from __future__ import annotations

from pathlib import Path

import pytest
from power import Cut
from scenarios import SCENARIOS, Scenario


def examine(cut: Cut, bound: int, seed: int = 0) -> None:
    for where, tree, told in cut.trees(bound, seed):
        wrong = cut.wrong(tree, told)
        assert not wrong, where


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_power_cut(scenario: Scenario, room: Path) -> None:
    examine(Cut(scenario, room), bound=4)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_power_cut_at_length(scenario: Scenario, room: Path) -> None:
    cut = Cut(scenario, room)
    examine(cut, bound=256, seed=1)
    print(f"{scenario.name}: {len(cut.steps)} changes, {cut.states} states")
