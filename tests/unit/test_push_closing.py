"""Balancers that come and go: who is taken away when, and when instances stop letting them in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hosts import Farm, host, options, release

from ogen import push
from ogen.agent import admission
from ogen.agent.disk import Disk
from ogen.errors import RemoteError
from ogen.inventory.model import Host
from ogen.plan.reduced import Seat
from ogen.push import closing
from ogen.push.contact import Contact
from ogen.push.force import in_force, lacking, source, stages
from ogen.push.results import HostResult, Serving, Target
from ogen.release.model import BalancerProof, InstanceProof, Release

OLD, NEW = "192.0.2.1", "192.0.2.2"
UNIT = "ogen-ollama-gpu0.service"


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with Farm(tmp_path / "farm", "gpu", "old", "new") as made:
        yield made


def edge(farm: Farm, name: str, balances: bool, text: str = "one") -> Target:
    made = release(name, text)
    proof = BalancerProof("b.service", "api", "/etc/ogen/current/0.txt", "/run/s", "h")
    made = Release(name, made.files, balancers=(proof,) if balances else ())
    return Target(host(farm, name), made, frozenset({("gpu", "gpu0")} if balances else ()))


def fleet(farm: Farm, *balancing: str) -> list[Target]:
    """One instance, which admits the edges that balance; the farm's hosts are all on loopback."""
    admits = tuple({"old": OLD, "new": NEW}[name] for name in balancing)
    proof = InstanceProof(UNIT, "gpu0", 11434, "0.32.15", (), (), admits)
    gpu = replace(release("gpu", " ".join(balancing)), instances=(proof,))
    edges = [edge(farm, name, name in balancing) for name in ("old", "new")]
    return [*edges, Target(host(farm, "gpu"), gpu)]


def admitted(farm: Farm) -> dict[str, list[str]]:
    return admission.leaving(Disk(str(farm.root("gpu") / "root")))


def statuses(outcome: push.Outcome) -> dict[str, str]:
    return {r.host: r.status for r in outcome.results}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Each request to an agent: host and operation."""
    found: list[tuple[str, str]] = []
    real = Contact.ask

    def ask(self: Contact, message: Any, data: bytes = b"") -> Any:
        found.append((self.host.name, message["op"]))
        return real(self, message, data)

    monkeypatch.setattr(Contact, "ask", ask)
    return found


def test_first_all_change_then_the_old_one_goes_then_nobody_lets_it_in(
    farm: Farm, asked: list[tuple[str, str]]
) -> None:
    push.apply(fleet(farm, "old"), options(farm))
    assert "close" not in [op for _, op in asked]
    asked.clear()
    outcome = push.apply(fleet(farm, "new"), options(farm))
    assert set(statuses(outcome).values()) == {"applied"}
    order = [(name, op) for name, op in asked if op in ("apply", "close")]
    assert order == [("gpu", "apply"), ("new", "apply"), ("old", "apply"), ("gpu", "close")]
    assert admitted(farm) == {}
    assert not any(result.message for result in outcome.results)


def test_what_changes_no_address_costs_no_message(farm: Farm, asked: list[tuple[str, str]]) -> None:
    push.apply(fleet(farm, "old"), options(farm))
    asked.clear()
    push.apply(fleet(farm, "old"), options(farm))
    assert sorted(asked) == [(name, "compare") for name in ("gpu", "new", "old")]
    asked.clear()
    push.apply(fleet(farm, "old", "new"), options(farm))
    assert "close" not in [op for _, op in asked], "what only comes needs no end"


def broken(farm: Farm, name: str) -> Path:
    place = farm.root(name) / "root/etc/ogen/releases"
    place.rename(place.with_name("away"))
    place.write_text("in the way")
    return place


def mended(place: Path) -> None:
    place.unlink()
    place.with_name("away").rename(place)


@pytest.mark.parametrize("max_fail", [0, "100%"])
def test_while_the_new_one_is_not_there_the_old_one_stays_and_is_let_in(
    farm: Farm, max_fail: int | str
) -> None:
    push.apply(fleet(farm, "old"), options(farm))
    places = []

    def strike(event: push.Event) -> None:
        if (event.host, event.phase) == ("gpu", "done") and not places:
            places.append(broken(farm, "new"))

    outcome = push.apply(fleet(farm, "new"), options(farm, max_fail=max_fail), strike)
    assert statuses(outcome) == {"old": "withheld", "new": "failed", "gpu": "applied"}
    assert "still admits 192.0.2.1" in outcome.results[2].message
    assert admitted(farm) == {UNIT: [OLD]}
    mended(places[0])
    again = push.apply(fleet(farm, "new"), options(farm, max_fail=max_fail))
    assert set(statuses(again).values()) == {"applied"}
    assert admitted(farm) == {}


def test_an_old_one_that_does_not_change_is_let_in_still(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    push.apply(fleet(farm, "old"), options(farm))
    monkeypatch.setattr(closing, "balancing", lambda *_: frozenset({OLD}))
    outcome = push.apply(fleet(farm, "new"), options(farm))
    assert outcome.exit_code() == 0
    assert "its host was not part of this, or did not change" in outcome.results[2].message
    assert admitted(farm) == {UNIT: [OLD]}


def test_from_where_balancers_may_still_come() -> None:
    pools = push.Pools(addresses={"a": "192.0.2.1", "b": "192.0.2.2", "c": "192.0.2.3", "d": "127.0.0.1"})
    ends = {"a": HostResult("a", "applied"), "b": HostResult("b", "unreachable")}
    assert closing.balancing(pools, [Host("e", "2001:db8:0::5")], ends) == {
        "192.0.2.2",
        "192.0.2.3",
        "2001:db8::5",
    }
    assert closing.balancing(pools, (), {"b": HostResult("b", "skipped")}) == {"192.0.2.1", "192.0.2.3"}


def test_a_host_that_can_not_close_has_failed(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    push.apply(fleet(farm, "old"), options(farm))

    def refuse(self: Contact, keep: object) -> list[str]:
        raise RemoteError("no", host="gpu")

    monkeypatch.setattr(Contact, "close", refuse)
    outcome = push.apply(fleet(farm, "new"), options(farm))
    assert statuses(outcome) == {"old": "applied", "new": "applied", "gpu": "failed"}
    assert outcome.exit_code() == 3
    monkeypatch.undo()
    assert statuses(push.apply(fleet(farm, "new"), options(farm)))["gpu"] == "applied"
    assert admitted(farm) == {}


def test_a_rollback_closes_as_well(farm: Farm) -> None:
    push.apply(fleet(farm, "old"), options(farm))
    push.apply(fleet(farm, "new"), options(farm))
    outcome = push.rollback([t.host for t in fleet(farm, "new")], None, options(farm))
    assert set(statuses(outcome).values()) == {"applied"}
    assert admitted(farm) == {}


def test_a_host_that_loses_its_balancer_changes_last() -> None:
    proof = BalancerProof("b.service", "api", "/etc/ogen/current/n.conf", "/run/s", "h")
    gone = Target(Host("old", "old"), release("old"))
    stays = Target(Host("new", "new"), Release("new", (), balancers=(proof,)))
    seen = {
        "old": push.Comparison("old", "x", "x", unchanged=False, files=(), pools={"api": {}}),
        "new": push.Comparison("new", "x", "x", unchanged=False, files=()),
    }
    assert stages([gone, stays], seen) == ([], [stays], [gone])


@pytest.mark.parametrize(
    ("address", "admits", "lacks"),
    [
        (NEW, (OLD,), True),
        (NEW, (OLD, NEW), False),
        ("2001:db8:0::5", ("2001:db8::5",), False),
        ("127.0.0.1", (), False),
        ("a.name", (), False),
    ],
)
def test_a_balancer_lists_only_what_lets_it_in(address: str, admits: tuple[str, ...], lacks: bool) -> None:
    gpu, here = Target(Host("gpu", "gpu"), release("gpu")), Host("edge", address)
    listing = Target(here, release("edge"), frozenset({("gpu", "gpu0")}))
    force = {("gpu", "gpu0"): Serving(11434, frozenset(), frozenset(admits))}
    assert lacking(listing, [gpu, listing], force) == ([Seat("", "gpu", "gpu0")] if lacks else [])
    assert not lacking(listing, [gpu, listing], {("gpu", "gpu0"): Serving(11434, frozenset())}), "not known"


def test_of_a_host_that_was_lost_only_whom_both_releases_admit_is_sure() -> None:
    proof = InstanceProof(UNIT, "gpu0", 11434, "0.32.15", (), (), (NEW, "192.0.2.3"))
    wish = Target(Host("gpu", "gpu"), replace(release("gpu"), instances=(proof,)))
    serving = {"gpu0": Serving(11434, frozenset(), frozenset({OLD, "192.0.2.3"}))}
    seen = push.Comparison("gpu", "x", "x", False, (), instances=("gpu0",), serving=serving)
    found = in_force([wish], {"gpu": seen}, {"gpu": HostResult("gpu", "unreachable")})
    assert found["gpu", "gpu0"].admits == {"192.0.2.3"}


def test_the_source_of_a_balancer_is_written_as_units_write_it() -> None:
    assert source("2001:db8:0:0::5") == "2001:db8::5"
    assert source("127.0.0.5") == source("::1") == source("edge.example") == ""
