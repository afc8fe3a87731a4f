"""What a failing instance costs: benchmarks/failures.py in its quick form, each tier under a real nginx."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rendering import pool, text_of
from tiers import TIERS, member, release_of, tier_of

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "failures.py"
NAMES = {"plain": "plain", "njs": "njs", "lua": "gate"}
#: another instance could answer, and nothing had reached the client
SPARED = (
    "unreachable",
    "refusing",
    "closing",
    "fast 500",
    "fast 503",
    "hanging, probed",
    "all busy",
    "drained",
)


def table(tier: str, folder: Path, *words: str) -> dict[str, dict[str, Any]]:
    file = folder / "found.json"
    command = [sys.executable, str(BENCHMARK), "--tiers", NAMES[tier], "--json", str(file), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return {found["case"]: found for found in json.loads(file.read_text())}


@pytest.mark.parametrize("tier", TIERS)
def test_one_faulty_instance_fails_no_request_that_another_can_answer(
    tier: str, tmp_path: Path, need: Callable[[str], str]
) -> None:
    need("nginx")
    found = table(tier, tmp_path, "--requests", "30", "--busy", "2")
    for case in SPARED:
        assert (found[case]["failed"], found[case]["whys"]) == (0, []), found[case]
    for case in ("closing", "fast 500", "fast 503", "hanging"):
        assert found[case]["faulty"] > 0, "the fault was met"
    for case in ("hanging, probed", "drained"):
        assert found[case]["faulty"] == 0, "what is down is asked no more"
    killed, hanging = found["killed"], found["hanging"]
    assert killed["failed"] <= killed["unavoidable"]
    assert killed["unavoidable"] > 0
    assert set(killed["whys"]) <= {"IncompleteRead"}, "a client sees that its answer is cut off"
    assert hanging["failed"] == hanging["faulty"], "who waited in vain is not sent on, and nobody else fails"
    assert set(hanging["whys"]) == {"504"}


@pytest.mark.parametrize("tier", TIERS)
def test_no_wait_is_shorter_than_an_hour(tier: str) -> None:
    """nginx's own limit of a minute would eject a whole pool that is well, but busy."""
    config = text_of(
        release_of(tier_of(tier, 8080), [pool("chat", [member(1)])]),
        "/etc/ogen/current/balancers/api/nginx.conf",
    )
    for name in ("proxy_read_timeout", "proxy_send_timeout", "send_timeout"):
        limits = re.findall(rf"^\s*{name} (\S+);", config, re.MULTILINE)
        assert limits, name
        # the second one is for what is asked of every pool, of which none generates
        assert [limit for limit in limits if limit != "3600s"] in ([], ["10s"]), (name, limits)


@pytest.mark.soak
@pytest.mark.parametrize("tier", TIERS)
def test_all_busy_for_longer_than_a_minute(tier: str, tmp_path: Path, need: Callable[[str], str]) -> None:
    need("nginx")
    assert table(tier, tmp_path, "--only", "all busy", "--busy", "65")["all busy"]["failed"] == 0
