"""Leases: what may go down together, who waits for whom, and what becomes of a lease."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ogen.errors import ConnectError, HostError, RolledBack
from ogen.inventory.model import Host, Ollama
from ogen.push import leases as leasing
from ogen.push.edges import Failing, Lease, Member
from ogen.push.leases import Leases
from ogen.push.pools import Pools, admissible
from ogen.push.results import Options

MEMBERS = [(f"gpu{h}", f"gpu{i}") for h in range(3) for i in range(2)]
members = st.frozensets(st.sampled_from(MEMBERS))
pools = st.dictionaries(st.sampled_from(["a", "b", "c"]), members.filter(bool), max_size=3)


@given(pools, st.lists(st.sampled_from(MEMBERS), unique=True), members, members)
def test_no_pool_is_left_alone(
    found: dict[str, frozenset[Member]],
    wanted: list[Member],
    serving: frozenset[Member],
    leased: frozenset[Member],
) -> None:
    chosen = set(admissible(Pools(members=found), wanted, serving, leased))
    assert chosen <= set(wanted)
    for pool in found.values():
        if chosen & pool and len(pool) > 1:
            down = pool & (chosen | leased)
            assert (pool & serving) - down, "nobody of this pool would serve"
            assert len(down) <= max(1, len(pool) // 2)


@given(pools, st.sampled_from(MEMBERS))
def test_one_at_a_time_always_goes_where_all_serve(found: dict[str, frozenset[Member]], one: Member) -> None:
    assert admissible(Pools(members=found), [one], MEMBERS, ()) == [one]


class Edge:
    """A balancer host that is no host: remembers what it was told."""

    broken = False

    def __init__(self, host: Host, options: Options) -> None:
        self.host = host
        self.told: list[tuple[str, tuple[str, ...]]] = []
        self.away: set[str] = set()
        self.listing: list[Lease] = []
        self.bad: list[str] = []
        self.closed = False

    def lease(self, servers: Mapping[str, str], seconds: float = 60.0) -> None:
        if self.broken:
            raise ConnectError("no route", host=self.host.name)
        self.told.append(("lease", tuple(servers.values())))

    def renew(self, wanted: Callable[[], Mapping[str, str]]) -> None:
        self.lease(wanted())

    def listed(self) -> list[Lease]:
        return self.listing

    def failing(self) -> list[Failing]:
        return [Failing(server, "/api/ps: HTTP 500") for server in self.bad]

    def unlease(self, names: Collection[str], wait: float, strict: bool = False) -> set[str]:
        self.listing = [one for one in self.listing if one.id not in names]
        if not names:
            return set()
        servers = tuple(names.values()) if isinstance(names, Mapping) else tuple(names)
        self.told.append(("unlease", servers))
        return self.away & set(servers)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Leases]:
    """Two hosts with two instances each in one pool, balanced from `edge`; all of them serve."""
    monkeypatch.setattr(leasing, "Edge", Edge)
    four = frozenset((host, gpu) for host in ("one", "two") for gpu in ("gpu0", "gpu1"))
    edge = Host(name="edge", address="192.0.2.1", ollama=Ollama())
    addresses = {"one": "192.0.2.11", "two": "192.0.2.12", "edge": "192.0.2.1"}
    ports = {(host, gpu): 11434 + int(gpu[-1]) for host, gpu in four}
    with Leases(Pools((edge,), {"api/chat": four}, addresses, ports), Options(), lambda: four) as found:
        yield found


def told(made: Leases) -> list[tuple[str, tuple[str, ...]]]:
    edge = made.edges[0]
    assert isinstance(edge, Edge)
    return edge.told


BOTH = [("gpu0", 11434), ("gpu1", 11435)]


def ask(made: Leases, host: str, instances: list[tuple[str, int]] = BOTH, why: str = "restart") -> list[str]:
    answer = made.grant(host, instances, why, lambda: None)
    assert "refused" not in answer, answer
    return list(answer["instances"])


def test_half_of_a_pool_goes_and_the_rest_follows(made: Leases) -> None:
    with made.held_for("one"):
        assert ask(made, "one") == ["gpu0", "gpu1"]
    assert told(made) == [
        ("lease", ("192.0.2.11:11434", "192.0.2.11:11435")),
        ("unlease", ("192.0.2.11:11434", "192.0.2.11:11435")),
    ]


def test_a_host_waits_for_another_one(made: Leases) -> None:
    order: list[str] = []

    def second() -> None:
        with made.held_for("two"):
            ask(made, "two")
            order.append("two")

    with made.held_for("one"):
        ask(made, "one")
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("one")
    thread.join(10)
    assert order == ["one", "two"]


def test_what_is_not_asked_for_again_is_proven(made: Leases) -> None:
    with made.held_for("one"):
        ask(made, "one", BOTH[:1])
        ask(made, "one", BOTH[1:])
        assert told(made)[1:] == [("unlease", ("192.0.2.11:11434",)), ("lease", ("192.0.2.11:11435",))]
        ask(made, "one", BOTH[1:])  # once more: it took long to become idle
        assert told(made)[-1] == ("lease", ("192.0.2.11:11435",))


def listing(made: Leases, *leases: Lease) -> None:
    edge = made.edges[0]
    assert isinstance(edge, Edge)
    edge.listing = list(leases)


def test_what_is_drained_by_hand_does_not_serve(made: Leases) -> None:
    """Of four two may be away: one is by hand, so one more goes; the last but these waits for nobody."""
    by_hand = [Lease("drain", name, 3600, "somebody") for name in ("two.gpu0", "two.gpu1")]
    listing(made, by_hand[0])
    with made.held_for("one"):
        assert ask(made, "one") == ["gpu0"]
    listing(made, *by_hand)
    with made.held_for("one"):
        answer = made.grant("one", BOTH, "restart", lambda: None)
    assert "two/gpu1 is drained by somebody" in answer["refused"]
    assert "ogen undrain" in answer["hint"]


def test_what_fails_its_probes_does_not_serve_but_may_restart(made: Leases) -> None:
    edge = made.edges[0]
    assert isinstance(edge, Edge)
    edge.bad = ["192.0.2.12:11434", "192.0.2.12:11435", "192.0.2.99:11434"]
    with made.held_for("one"):
        assert ask(made, "one") == ["gpu0"], "gpu1 is the last one that serves"
        made.end([("one", "gpu0")], lambda: None)
        edge.bad.append("192.0.2.11:11435")
        answer = made.grant("one", [("gpu0", 11434)], "restart", lambda: None)
        assert "two/gpu1 fails the probes of edge: /api/ps: HTTP 500" in answer["refused"]
    with made.held_for("two"):
        assert ask(made, "two") == ["gpu0", "gpu1"], "they serve nobody, and a restart may mend them"


def test_leases_that_a_dead_rollout_left_behind_are_ended_first(made: Leases) -> None:
    """Who asks has the host's lock, so nobody else is at work there."""
    listing(made, Lease("0123abcd", "one.gpu1", 50, "a"), Lease("0123abcd", "two.gpu0", 50, "a"))
    with made.held_for("one"):
        assert ask(made, "one") == ["gpu0"]
    assert told(made)[:2] == [("unlease", ("0123abcd.one.gpu1",)), ("lease", ("192.0.2.11:11434",))]


def test_another_rollout_is_waited_for(made: Leases) -> None:
    listing(made, *(Lease("0123abcd", f"two.gpu{number}", 50, "another") for number in range(2)))
    threading.Timer(0.5, listing, (made,)).start()
    with made.held_for("one"):
        assert ask(made, "one") == ["gpu0", "gpu1"]


def test_nobody_else_serves(made: Leases) -> None:
    made.serving = lambda: [("one", "gpu0")]
    with made.held_for("one"):
        answer = made.grant("one", BOTH[:1], "restart", lambda: None)
    assert answer["refused"] == "no other instance would serve while one/gpu0 is down"
    assert "allow_outage" in answer["hint"]
    made.outage = True
    with made.held_for("one"):
        assert ask(made, "one", BOTH[:1]) == ["gpu0"]


def test_two_that_wait_for_each_other_do_not_wait_for_ever(made: Leases) -> None:
    made.serving = list
    answers = []

    def one(host: str) -> None:
        with made.held_for(host):
            answers.append(made.grant(host, BOTH, "restart", lambda: None))

    threads = [threading.Thread(target=one, args=(host,)) for host in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert ["refused" in answer for answer in answers] == [True, True]


def test_an_instance_that_does_not_come_back_counts_no_more(made: Leases) -> None:
    edge = made.edges[0]
    assert isinstance(edge, Edge)
    made.serving = lambda: [("one", "gpu0"), ("one", "gpu1"), ("two", "gpu0")]
    edge.away = {"192.0.2.11:11434", "192.0.2.11:11435"}
    with made.held_for("one"):
        ask(made, "one")
    with made.held_for("two"):
        answer = made.grant("two", BOTH[:1], "restart", lambda: None)
    assert "one/gpu0 does not answer to edge" in answer["refused"]


def test_a_balancer_that_can_not_be_told_refuses(made: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Edge, "broken", True)
    with made.held_for("one"):
        answer = made.grant("one", BOTH, "restart", lambda: None)
    assert "no route" in answer["refused"]
    assert not made.held


def ends(made: Leases, error: HostError) -> None:
    with made.held_for("one"):
        ask(made, "one")
        raise error


def test_a_lost_host_keeps_its_leases_until_they_end_by_themselves(made: Leases) -> None:
    with pytest.raises(ConnectError):
        ends(made, ConnectError("gone", host="one"))
    assert [word for word, _ in told(made)] == ["lease"]
    assert not made.held, "and nobody renews them"
    with pytest.raises(RolledBack):
        ends(made, RolledBack("not proven", host="one"))
    assert told(made)[-1][0] == "unlease"


def test_what_is_stopped_stays_leased_until_the_balancers_have_changed(made: Leases) -> None:
    with made.held_for("one", keep=["gpu0"]):
        assert ask(made, "one", BOTH[:1], "stop") == ["gpu0"]
    assert [word for word, _ in told(made)] == ["lease"]
    made.release()
    assert [word for word, _ in told(made)] == ["lease", "unlease"]


def test_leases_are_renewed_while_they_are_held(made: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leasing, "RENEWED", 0.05)
    with made.held_for("one"):
        ask(made, "one")
        end = time.monotonic() + 10
        while len(told(made)) < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
    made.close()
    assert not made.renewer.is_alive()
    assert all(isinstance(edge, Edge) and edge.closed for edge in made.edges)


class Slow:
    """A connection to a balancer host where the end of a lease takes a while: nginx has to take it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, tuple[str, ...]]] = []
        self.renewals = 0

    def lease(self, servers: Mapping[str, str], seconds: float) -> None:
        self.renewals += 1
        self.told.append(("lease", tuple(sorted(servers.values()))))

    def unlease(self, names: Collection[str], wait: float) -> list[str]:
        time.sleep(0.2)
        assert isinstance(names, Mapping)
        self.told.append(("unlease", tuple(sorted(names.values()))))
        return []

    def leases(self) -> dict[str, list[str]]:
        return {"leases": [], "failing": []}


def test_no_renewal_brings_an_ended_lease_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leasing, "RENEWED", 0.02)
    four = frozenset((host, gpu) for host in ("one", "two") for gpu in ("gpu0", "gpu1"))
    edge = Host(name="edge", address="192.0.2.1", ollama=Ollama())
    addresses = {"one": "192.0.2.11", "two": "192.0.2.12"}
    slow = Slow()
    with Leases(Pools((edge,), {"api/chat": four}, addresses, {}), Options(), lambda: four) as found:
        found.edges[0].contact = slow  # type: ignore[assignment]
        with found.held_for("one"):
            ask(found, "one", BOTH[:1])
            while slow.renewals < 3:
                time.sleep(0.01)
            ask(found, "one", BOTH[1:])
        ended = len(slow.told)
        time.sleep(0.1)
    for server in ("192.0.2.11:11434", "192.0.2.11:11435"):
        words = [word for word, servers in slow.told if server in servers]
        assert words[-1] == "unlease"
        assert "lease" not in words[words.index("unlease") :]
    assert len(slow.told) == ended, "nothing is left to be renewed"
