"""Every fsync is needed: without any one of them some power cut leaves a host that recovery can't mend."""

from __future__ import annotations

from pathlib import Path

from power import Cut
from scenarios import SCENARIOS


def survivors(room: Path) -> dict[str, list[str]]:
    """Sites by how they fared: killed in a scenario, or not in any."""
    fared: dict[str, list[str]] = {}
    for scenario in SCENARIOS:
        cut = Cut(scenario, room / scenario.name)
        for site in sorted(cut.sites()):
            if fared.get(site):
                continue
            fared.setdefault(site, [])
            for where, tree, told in cut.without(site):
                wrong = cut.wrong(tree, told)
                if wrong:
                    fared[site] = [scenario.name, where, *wrong]
                    break
    return fared


def test_every_fsync_is_needed(room: Path) -> None:
    fared = survivors(room)
    assert len(fared) >= 28  # the transaction has that many places that sync
    for site, how in sorted(fared.items()):
        print(f"{site}: {'; '.join(how[:3])}")
    assert not [site for site, how in fared.items() if not how]
