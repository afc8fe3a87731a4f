"""Twenty healthy fleets of all sorts have no finding, and are of all sorts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from doctor_fleets import Said, fleet, looks

from ogen.observe.doctor import diagnose
from ogen.plan.model import Instance, Placement, Plan

FLEETS = range(20)
#: what the twenty must have between them, so that "none found" tells something
SORTS = {
    "by_model": lambda p: any(e.balancer.routing == "by_model" and not e.balancer.gate for e in p.entries),
    "gate": lambda p: any(e.balancer.gate for e in p.entries),
    "per_port in conf.d": lambda p: any(e.balancer.into == "conf.d" for e in p.entries),
    "single": lambda p: any(e.balancer.routing == "single" for e in p.entries),
    "sticky": lambda p: any(e.balancer.strategy == "ip_hash" for e in p.entries),
    "keys": lambda p: any(e.balancer.keys for e in p.entries),
    "limits": lambda p: any(e.balancer.limits.each.rate for e in p.entries),
    "networks": lambda p: any(e.balancer.allow for e in p.entries),
    "AMD": lambda p: any(g.vendor == "amd" for h in p.hosts for g in h.host.gpus),
    "UUIDs": lambda p: any(g.uuid for h in p.hosts for g in h.host.gpus),
    "room for others": lambda p: any(g.reserve for h in p.hosts for g in h.host.gpus),
    "a card out": lambda p: any(g.state == "out" for h in p.hosts for g in h.host.gpus),
    "queues": lambda p: bool(p.works),
    "no queue": lambda p: not p.works,
    "without a card": lambda p: any(not i.gpus for h in p.hosts for i in h.instances),
    "over several cards": lambda p: any(len(i.gpus) > 1 for h in p.hosts for i in h.instances),
    "two on a card": lambda p: any(len(i.placements) > 1 for h in p.hosts for i in h.instances),
    "in turns": lambda p: any(m.residency == "on_demand" for m in p.inventory.models),
    "partly on the card": lambda p: any(q.verdict == "partial" for q in placements(p)),
    "conceded": lambda p: any(q.concessions for q in placements(p)),
    "quantised cache": lambda p: any(i.server.kv_cache == "q8_0" for h in p.hosts for i in h.instances),
    "era A": lambda p: p.hosts[0].host.ollama.version.startswith(("0.9", "0.12")),
    "era B": lambda p: p.hosts[0].host.ollama.version.startswith(("0.13", "0.20")),
    "era C": lambda p: p.hosts[0].host.ollama.version.startswith("0.3"),
    "five hosts": lambda p: len(p.hosts) >= 5,
    "one host": lambda p: len(p.hosts) == 1,
}


def placements(planned: Plan) -> list[Placement]:
    return [p for host in planned.hosts for instance in host.instances for p in instance.placements]


@pytest.fixture(scope="module")
def fleets(tmp_path_factory: pytest.TempPathFactory) -> list[Plan]:
    folder = tmp_path_factory.mktemp("fleets")
    return [fleet(seed, folder) for seed in FLEETS]


@pytest.mark.parametrize("seed", FLEETS)
def test_a_healthy_fleet_has_no_finding(fleets: list[Plan], seed: int, tmp_path: Path) -> None:
    assert diagnose(fleets[seed], looks(fleets[seed], seed, tmp_path)) == ()


def test_they_are_of_all_sorts(fleets: list[Plan]) -> None:
    assert [sort for sort, has in SORTS.items() if not any(map(has, fleets))] == []


def silent(said: Said, instance: Instance) -> None:
    said["instances"][instance.name] = {"error": "timed out"}


def down(said: Said, instance: Instance) -> None:
    said["units"][instance.unit].update(active="failed", sub="failed")
    said["listeners"] = [line for line in said["listeners"] if f":{instance.port} " not in line]


def short(said: Said, instance: Instance) -> None:
    line = "ggml_cuda: cudaMalloc failed: out of memory"
    said["logs"][instance.unit]["lines"].append([said["time"] - 5, line])


def elsewhere(said: Said, instance: Instance) -> None:
    said["store"]["unmounted"] = "/var/lib/ollama"


def older(said: Said, instance: Instance) -> None:
    said["instances"][instance.name]["version"] = "0.1.2"


HURTS = {
    "no-answer": silent,
    "instance-down": down,
    "out-of-memory": short,
    "wrong-store": elsewhere,
    "version": older,
}


@pytest.mark.parametrize("seed", FLEETS)
def test_one_thing_that_is_wrong_is_found_there(fleets: list[Plan], seed: int, tmp_path: Path) -> None:
    """The control: in the same fleets the same look has one finding, with its line, if one thing is wrong."""
    kind = list(HURTS)[seed % len(HURTS)]
    (one,) = diagnose(fleets[seed], looks(fleets[seed], seed, tmp_path, HURTS[kind]))
    assert one.kind == kind
    assert one.host == [h for h in fleets[seed].hosts if h.instances][-1].host.name
    assert one.where
    if kind == "out-of-memory" and fleets[seed].host(one.host).instances[-1].gpus:
        assert one.sets


def unloaded(said: Said) -> None:
    said["cards"]["rows"] = []


def one_gone(said: Said) -> None:
    del said["cards"]["rows"][-1]


def heated(said: Said) -> None:
    said["cards"]["rows"][0]["temperature.gpu"] = "97"


@pytest.mark.parametrize(
    ("hurt", "kind", "evidence"),
    [
        (unloaded, "driver", "amdgpu"),
        (one_gone, "card-lost", "sysfs shows"),
        (heated, "card-hot", "sysfs: 97"),
    ],
)
def test_amd_cards_are_looked_at_too(
    fleets: list[Plan], tmp_path: Path, hurt: Callable[[Said], None], kind: str, evidence: str
) -> None:
    for seed, planned in enumerate(fleets):
        host = [h for h in planned.hosts if h.instances][-1].host
        cards = [gpu for gpu in host.gpus if gpu.state == "in"]
        if len(cards) == len(host.gpus) > 1 and {gpu.vendor for gpu in cards} == {"amd"}:
            found = diagnose(planned, looks(planned, seed, tmp_path, lambda said, _: hurt(said)))
            assert [(one.kind, one.host) for one in found] == [(kind, host.name)]
            assert evidence in " ".join(found[0].evidence)
            return
    pytest.fail("none of the fleets has such a host")
