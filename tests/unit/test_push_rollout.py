"""The order between hosts, and what is withheld after a failure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
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
from ogen.plan.reduced import Seat
from ogen.push.force import in_force, lacking, stages, together
from ogen.push.results import HostResult, Outcome, Serving, Target
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
    assert set(in_force(targets, found, results)) == {("a", "gpu0"), ("a", "gpu1"), ("b", "gpu0")}


@pytest.mark.parametrize("status", ["failed", "unreachable", "stuck", "interrupted"])
def test_of_a_host_that_ended_nobody_knows_how_only_what_is_the_same_is_in_force(status: str) -> None:
    """gpu0 stays as it is, gpu1 is to have another port, gpu2 is new, gpu3 goes."""
    wish = target("a", "gpu0", "gpu1", "gpu2")
    now = {name: Serving(port, frozenset()) for name, port in (("gpu0", 11434), ("gpu1", 1), ("gpu3", 11434))}
    found = {"a": replace(seen("a", *now), serving=now)}
    assert set(in_force([wish], found, {"a": result("a", status)})) == {("a", "gpu0")}
    assert set(in_force([wish], found, {"a": result("a", "rolled_back")})) == {("a", n) for n in now}


def test_an_instance_is_in_a_pool_only_if_it_serves_its_model_on_its_port() -> None:
    serving = Serving(11434, frozenset({"chat"}))
    assert serving.meets(11434, "chat")
    assert serving.meets(None, None)
    assert not serving.meets(11435, "chat")
    assert not serving.meets(11434, "coder")
    assert Serving().meets(11434, "chat"), "nothing is known: nothing is held against it"


def test_what_could_not_be_asked_stays_in_the_pools_that_it_was_in() -> None:
    targets = [EDGE, target("a", "gpu0", "gpu1"), target("b", "gpu0")]
    asleep, before = {"a", "b"}, {("", "a/gpu0")}
    assert [str(s) for s in lacking(EDGE, targets, {}, asleep, before)] == ["a/gpu1", "b/gpu0"]


def lacks(targets: list[Target], *force: tuple[str, str]) -> list[str]:
    return [str(seat) for seat in lacking(EDGE, targets, {place: Serving() for place in force})]


def test_a_balancer_lacks_only_what_does_not_serve() -> None:
    targets = [EDGE, target("a", "gpu0", "gpu1"), target("b", "gpu0")]
    assert lacks(targets, ("a", "gpu0"), ("a", "gpu1"), ("b", "gpu0")) == []
    assert lacks(targets, ("a", "gpu0"), ("b", "gpu0")) == ["a/gpu1"]
    assert lacks([EDGE]) == [], "hosts outside of --limit are as they were"


def seat(host: str) -> Seat:
    return Seat("", host, "gpu0")


def test_hosts_that_wait_for_each_other_go_together() -> None:
    a, b, c = target("a", "gpu0"), target("b", "gpu0"), target("c", "gpu0")
    lack = {"a": [seat("b")], "b": [seat("a")], "c": [seat("d")]}
    assert together([a, b], lack) == [a, b]
    assert together([a, b, c], lack) == [a, b], "d is not coming, so c is not"
    assert together([a, b, c], lack | {"a": [seat("c")]}) == []


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
    assert statuses(outcome)["edge"] == "not_started"


# -------------------------------------------------------------------------------- batches, max_fail
def boxes(farm: Farm, text: str = "one") -> list[Target]:
    return [Target(host(farm, name), release(name, text, "gpu0")) for name in ("a", "b", "edge")]


def broken(farm: Farm, name: str) -> None:
    place = farm.root(name) / "root/etc/ogen/releases"
    place.parent.mkdir(parents=True)
    place.write_text("in the way")


def test_batches_go_one_after_the_other(farm: Farm) -> None:
    events: list[push.Event] = []
    push.apply(boxes(farm), options(farm, batches=(1, "100%")), events.append)
    told = [(e.host, e.phase) for e in events if e.phase in ("stage", "done", "batch")]
    assert told[:4] == [("", "batch"), ("a", "stage"), ("a", "done"), ("", "batch")]
    assert [e.message for e in events if e.phase == "batch"] == ["expand: canary 1/3", "expand: batch 2 of 2"]


def test_more_failures_than_max_fail_start_no_other_host(farm: Farm) -> None:
    broken(farm, "b")
    chosen = options(farm, batches=(1,), max_fail="10%")
    outcome = push.apply(boxes(farm), chosen)
    assert statuses(outcome) == {"a": "applied", "b": "failed", "edge": "not_started"}
    assert outcome.results[2].message == "1 failed (b), and max_fail is 10% of 3: 0"
    assert outcome.exit_code() == 3


def test_as_many_failures_as_max_fail_stop_nothing(farm: Farm) -> None:
    broken(farm, "b")
    outcome = push.apply(boxes(farm), options(farm, batches=(1,), max_fail="34%"))
    assert statuses(outcome) == {"a": "applied", "b": "failed", "edge": "applied"}


def test_within_a_batch_nobody_is_started_either_once_too_many_failed(farm: Farm) -> None:
    broken(farm, "a")
    outcome = push.apply(boxes(farm), options(farm, max_fail=0, parallel=1))
    assert statuses(outcome) == {"a": "failed", "b": "not_started", "edge": "not_started"}


def test_nothing_starts_while_too_many_are_out_of_reach(farm: Farm) -> None:
    farm.servers["b"].close()
    outcome = push.apply(boxes(farm), options(farm, max_fail=0))
    assert statuses(outcome) == {"a": "not_started", "b": "unreachable", "edge": "not_started"}
    skipping = push.apply(boxes(farm), options(farm, max_fail=0, skip_offline=True))
    assert statuses(skipping) == {"a": "applied", "b": "skipped", "edge": "applied"}
    assert skipping.exit_code() == 0


def test_a_skipped_balancer_keeps_nobody_from_shrinking(farm: Farm) -> None:
    push.apply(fleet(farm, "one", "gpu0", "gpu1"), options(farm))
    farm.servers["edge"].close()
    outcome = push.apply(fleet(farm, "two", "gpu0"), options(farm, skip_offline=True))
    assert statuses(outcome) == {"edge": "skipped", "a": "applied", "b": "applied"}


def test_a_host_whose_ollama_is_not_there_is_refused_before_any_other_changes(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = push.Contact.compare

    def compare(self: push.Contact, wish: Release, *, text: bool = True) -> push.Comparison:
        found = asked(self, wish, text=text)
        return replace(found, absent="/opt/ogen/ollama/1/bin/ollama") if self.host.name == "a" else found

    monkeypatch.setattr(push.Contact, "compare", compare)
    outcome = push.apply(fleet(farm, "one", "gpu0"), options(farm, max_fail=0))
    assert statuses(outcome) == {"edge": "not_started", "a": "rolled_back", "b": "not_started"}
    error = outcome.results[1].error
    assert error is not None
    assert (
        "refused before anything changed: /opt/ogen/ollama/1/bin/ollama is not on this host" in error.message
    )
    assert "ogen provision" in str(error.hint)
    assert outcome.exit_code() == 6
