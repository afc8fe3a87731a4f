"""The order between hosts, and what is withheld after a failure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Farm, host, options, release

from ogen import push
from ogen.errors import (
    BecomeError,
    ConnectError,
    HostError,
    LockedError,
    RemoteError,
    RolledBack,
)
from ogen.inventory.model import Host
from ogen.push.results import HostResult, Outcome, Target
from ogen.push.rollout import in_force, lacking, stages, together
from ogen.release.model import BalancerProof, Release


def seen(name: str, *instances: str, unchanged: bool = False) -> push.Comparison:
    return push.Comparison(name, "old", "old", unchanged, (), instances=instances)


def target(name: str, *instances: str, needs: tuple[str, ...] = ()) -> Target:
    made = release(name, "x", *instances)
    if needs:
        balancer = BalancerProof("b.service", "api", "/etc/ogen/current/n.conf", "/run/s", "h")
        made = Release(name, made.files, instances=made.instances, balancers=(balancer,))
    pairs = frozenset((n.split("/")[0], n.split("/")[1]) for n in needs)
    return Target(Host(name, name), made, pairs)


EDGE = target("edge", needs=("a/gpu0", "a/gpu1", "b/gpu0"))


def names(groups: tuple[list[Target], ...]) -> list[list[str]]:
    return [[t.host.name for t in group] for group in groups]


def test_expand_switch_contract() -> None:
    targets = [EDGE, target("a", "gpu0", "gpu1"), target("b", "gpu0"), target("c", "gpu0")]
    found = {
        "edge": seen("edge"),
        "a": seen("a", "gpu0"),
        "b": seen("b", "gpu0", "gpu1"),
        "c": seen("c", "gpu0"),
    }
    assert names(stages(targets, found)) == [["a", "c"], ["edge"], ["b"]]


def test_what_is_unchanged_or_unseen_is_in_no_stage() -> None:
    targets = [target("a", "gpu0"), target("b", "gpu0")]
    assert names(stages(targets, {"a": seen("a", "gpu0", unchanged=True)})) == [[], [], []]


def result(name: str, status: str) -> HostResult:
    return HostResult(name, status)  # type: ignore[arg-type]


def test_in_force_is_the_new_where_it_went_well_and_the_old_elsewhere() -> None:
    targets = [target("a", "gpu0", "gpu1"), target("b", "gpu0", "gpu1"), target("c", "gpu0")]
    found = {"a": seen("a", "gpu0"), "b": seen("b", "gpu0")}
    results = {"a": result("a", "applied"), "b": result("b", "rolled_back"), "c": result("c", "unreachable")}
    assert in_force(targets, found, results) == {("a", "gpu0"), ("a", "gpu1"), ("b", "gpu0")}


def test_a_balancer_lacks_only_what_does_not_serve() -> None:
    targets = [EDGE, target("a", "gpu0", "gpu1"), target("b", "gpu0")]
    assert lacking(EDGE, targets, frozenset({("a", "gpu0"), ("a", "gpu1"), ("b", "gpu0")})) == []
    assert lacking(EDGE, targets, frozenset({("a", "gpu0"), ("b", "gpu0")})) == ["a/gpu1"]
    assert lacking(EDGE, [EDGE], frozenset()) == [], "hosts outside of --limit are as they were"


def test_hosts_that_wait_for_each_other_go_together() -> None:
    a, b, c = target("a", "gpu0"), target("b", "gpu0"), target("c", "gpu0")
    lack = {"a": ["b/gpu0"], "b": ["a/gpu0"], "c": ["d/gpu0"]}
    assert together([a, b], lack) == [a, b]
    assert together([a, b, c], lack) == [a, b], "d is not coming, so c is not"
    assert together([a, b, c], lack | {"a": ["c/gpu0"]}) == []


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([], 0),
        ([LockedError], 5),
        ([LockedError, ConnectError], 4),
        ([ConnectError, RemoteError], 3),
        ([BecomeError], 3),
        ([LockedError, ConnectError, RemoteError, RolledBack], 6),
    ],
)
def test_exit_codes(errors: list[type[HostError]], code: int) -> None:
    results = [HostResult("h", "failed", error=error("x", host="h")) for error in errors]
    assert Outcome((HostResult("ok", "applied"), *results)).exit_code() == code


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with Farm(tmp_path / "farm", "a", "b", "edge") as made:
        yield made


def fleet(farm: Farm, text: str, *b: str) -> list[Target]:
    edge = release("edge", text)
    balancer = BalancerProof("b.service", "api", "/etc/ogen/current/0.txt", "/run/s", "h")
    return [
        Target(
            host(farm, "edge"),
            Release("edge", edge.files, balancers=(balancer,)),
            frozenset({("a", "gpu0"), *(("b", i) for i in b)}),
        ),
        Target(host(farm, "a"), release("a", text, "gpu0")),
        Target(host(farm, "b"), release("b", text, *b)),
    ]


def statuses(outcome: push.Outcome) -> dict[str, str]:
    return {r.host: r.status for r in outcome.results}


def test_a_balancer_is_not_switched_to_what_does_not_serve(farm: Farm) -> None:
    assert push.apply(fleet(farm, "one", "gpu0"), options(farm)).exit_code() == 0
    foreign = farm.root("b") / "root/etc/ogen/releases"
    foreign.rename(foreign.with_name("away"))
    foreign.write_text("in the way")
    outcome = push.apply(fleet(farm, "two", "gpu0", "gpu1"), options(farm))
    assert statuses(outcome) == {"edge": "withheld", "a": "applied", "b": "failed"}
    assert "b/gpu1" in str(outcome.results[0].error)
    assert outcome.exit_code() == 3
    assert (farm.root("edge") / "root/etc/ogen/current/0.txt").read_text() == "one\n"


def both(farm: Farm, text: str, **instances: str) -> list[Target]:
    """Hosts with instances and a balancer that lists all of them."""
    needs = frozenset((name, i) for name, some in instances.items() for i in some.split())
    found = []
    for name, some in instances.items():
        made = release(name, text, *some.split())
        balancer = BalancerProof("b.service", "api", "/etc/ogen/current/0.txt", "/run/s", "h")
        made = Release(name, made.files, instances=made.instances, balancers=(balancer,))
        found.append(Target(host(farm, name), made, needs))
    return found


def test_balancers_beside_instances_start_and_grow_together(farm: Farm) -> None:
    assert statuses(push.apply(both(farm, "one", a="gpu0", b="gpu0"), options(farm))) == {
        "a": "applied",
        "b": "applied",
    }
    outcome = push.apply(both(farm, "two", a="gpu0 gpu1", b="gpu0", edge=""), options(farm))
    assert set(statuses(outcome).values()) == {"applied"}


def test_a_balancer_host_that_loses_an_instance_comes_last(farm: Farm) -> None:
    push.apply(both(farm, "one", a="gpu0 gpu1", b="gpu0"), options(farm))
    events: list[push.Event] = []
    push.apply(both(farm, "two", a="gpu0", b="gpu0"), options(farm), events.append)
    assert [e.host for e in events if e.phase == "done"] == ["b", "a"]


def test_a_balancer_host_keeps_its_instance_while_another_balancer_was_not_switched(farm: Farm) -> None:
    push.apply(both(farm, "one", a="gpu0 gpu1", b="gpu0"), options(farm))
    farm.servers["b"].close()
    outcome = push.apply(both(farm, "two", a="gpu0", b="gpu0"), options(farm))
    assert statuses(outcome) == {"a": "withheld", "b": "unreachable"}


def test_cards_that_change_hands_do_not_wait_for_the_balancer_that_waits_for_them(farm: Farm) -> None:
    push.apply(fleet(farm, "one", "gpu0", "gpu1"), options(farm))
    events: list[push.Event] = []
    outcome = push.apply(fleet(farm, "two", "gpu0-1"), options(farm), events.append)
    assert set(statuses(outcome).values()) == {"applied"}
    assert [e.host for e in events if e.phase == "done"] == ["a", "b", "edge"]


def test_cards_do_not_change_hands_while_a_balancer_is_out_of_reach(farm: Farm) -> None:
    push.apply(fleet(farm, "one", "gpu0", "gpu1"), options(farm))
    farm.servers["edge"].close()
    outcome = push.apply(fleet(farm, "two", "gpu0-1"), options(farm))
    assert statuses(outcome) == {"edge": "unreachable", "a": "applied", "b": "withheld"}


def test_nothing_contracts_while_a_balancer_is_out_of_reach(farm: Farm) -> None:
    push.apply(fleet(farm, "one", "gpu0", "gpu1"), options(farm))
    farm.servers["edge"].close()
    outcome = push.apply(fleet(farm, "two", "gpu0"), options(farm))
    assert statuses(outcome) == {"edge": "unreachable", "a": "applied", "b": "withheld"}


def test_an_interrupted_rollout_starts_no_other_host(farm: Farm) -> None:
    chosen = options(farm)
    events: list[push.Event] = []

    def watch(event: push.Event) -> None:
        events.append(event)
        if event.host == "a" and event.phase == "stage":
            chosen.stop.set()

    outcome = push.apply(fleet(farm, "one", "gpu0"), chosen, watch)
    assert statuses(outcome)["a"] == "applied"
    assert statuses(outcome)["edge"] == "withheld"
