"""The plan without what did not come into force."""

from __future__ import annotations

from fleets import balancer, fleet, host, model

from ogen.plan import plan
from ogen.plan.reduced import Seat, emptied, seats, without

TWO = ("RTX 3090", "RTX 3090")
PLAN = plan(
    fleet(
        [host("a", *TWO), host("b", *TWO), host("edge")],
        [model("chat", replicas=3), model("tiny", replicas=1)],
        [balancer("api"), balancer("all", listen=8090, routing="single")],
    )
)


def pools(found, name="api"):
    return {
        pool.name: [f"{m.host}/{m.instance}" for m in pool.members]
        for entry in found.entries
        if entry.balancer.name == name
        for pool in entry.pools
    }


def test_seats_are_all_that_the_balancers_of_a_host_list():
    found = seats(PLAN, "edge")
    assert {(s.pool, str(s)) for s in found} == {
        (pool, place)
        for name in ("api", "all")
        for pool, places in pools(PLAN, name).items()
        for place in places
    }
    assert {s.model for s in found} == {"chat", "tiny", None}, "a balancer over everything asks for no model"
    assert seats(PLAN, "a") == ()


def test_what_is_gone_is_in_no_pool_and_nothing_else_changes():
    gone = [s for s in seats(PLAN, "edge") if str(s) == "a/gpu0"]
    found = without(PLAN, gone)
    assert pools(found) == {n: [p for p in m if p != "a/gpu0"] for n, m in pools(PLAN).items()}
    assert "a/gpu0" not in pools(found, "all")["all"]
    assert [h.instances for h in found.hosts] == [h.instances for h in PLAN.hosts]
    assert [e.pools for h in found.hosts for e in h.entries] == [e.pools for e in found.entries]
    before, after = ({m.port for e in p.entries for o in e.pools for m in o.members} for p in (PLAN, found))
    assert after <= before
    assert without(PLAN, ()) == PLAN


def test_only_the_seat_in_that_pool_is_gone():
    (place, *_) = pools(PLAN)["chat"]
    host_, instance = place.split("/")
    found = without(PLAN, [Seat("chat", host_, instance)])
    assert place not in pools(found)["chat"]
    assert place in pools(found, "all")["all"]


def test_a_pool_that_loses_its_last_instance_is_named():
    gone = [s for s in seats(PLAN, "edge") if s.pool == "tiny"]
    assert emptied(PLAN, "edge", gone) == (("api", "tiny"),)
    assert emptied(PLAN, "edge", gone[:0]) == ()
    assert emptied(PLAN, "a", gone) == ()
    assert pools(without(PLAN, gone))["tiny"] == [], "clients' names for it stay known"
