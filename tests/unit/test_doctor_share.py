"""One card idle: the balancer's log tells who served what, and who could have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from doctor_cases import (
    INVENTORY,
    NOW,
    SHARE,
    Change,
    Said,
    both,
    found,
    planned_from,
    put,
    unit,
)

from ogen.plan.model import Plan


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return planned_from(tmp_path_factory.mktemp("doctor"))


def shares(**more: Any) -> Change:
    return put("edges", "api", "shares", value=[{**SHARE, **more}], host="edge")


ALONE = {"192.0.2.1:11434": 400}


def one_instance(*changes: Change) -> Change:
    """What the hosts say where only the first card has an instance."""

    def change(solo: Said, edge: Said) -> None:
        solo["proofs"].pop()
        solo["cards"]["rows"][1]["memory.used"] = "1"
        edge["reached"].pop()
        both(*changes)(solo, edge)

    return change


def test_a_card_that_nobody_uses_while_requests_wait(tmp_path: Path) -> None:
    planned = planned_from(tmp_path, INVENTORY.replace("fill", "1"))
    busy = one_instance(shares(served=ALONE, busy=3500.0, waited=90, longest=12.0))
    (one,) = found(planned, busy)
    assert (one.kind, one.subject, one.sets) == ("card-unused", "solo/card 1", "replicas: 2")
    assert one.where
    assert one.where.text.lines[one.where.line - 1].strip() == "replicas: 1"
    assert "90 waited, the longest 12 s" in one.evidence[0]
    assert found(planned, one_instance(shares(served=ALONE))) == (), "one card is enough"
    burst = shares(served=ALONE, start=NOW - 12, end=NOW, busy=12.0)
    assert found(planned, one_instance(burst)) == (), "it was over in a moment"
    small = planned_from(
        tmp_path,
        INVENTORY.replace("fill", "1").replace(
            "      - model: RTX 3090\n  edge", "      - {model: RTX 3090, reserve: 22GiB}\n  edge"
        ),
    )
    assert found(small, busy) == (), "the model would not fit there"


def test_sticky_clients_keep_one_card_busy(tmp_path: Path) -> None:
    planned = planned_from(tmp_path, INVENTORY.replace("least_conn", "ip_hash"))
    (one,) = found(planned, shares(served=ALONE, clients=1, busy=3500.0))
    assert (one.kind, one.sets) == ("card-idle", "strategy: least_conn")
    assert one.where
    assert one.where.text.lines[one.where.line - 1].strip() == "strategy: ip_hash"
    assert "1 client" in one.evidence[1]
    assert found(planned, shares(served=ALONE, clients=1)) == (), "that is what ip_hash is for"


@pytest.mark.parametrize(
    "change",
    [
        shares(served={"192.0.2.1:11434": 40}),
        shares(served={**ALONE, "192.0.2.77:11434": 5}),
        both(shares(served=ALONE), put("units", "ogen-ollama-gpu1.service", value=unit(age=1800.0))),
    ],
)
def test_a_share_that_tells_nothing(planned: Plan, change: Change) -> None:
    """Few requests; some of an earlier release; an instance that was not there all the time."""
    assert found(planned, change) == ()
