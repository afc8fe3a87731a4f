"""Pools, balancers, and what a reviewer is told of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleets import balancer, fleet, host, model

from ogen.errors import PlanError, Problems
from ogen.inventory.model import ClientOptions, Ollama, Pin
from ogen.plan import plan
from ogen.plan.pools import small_ratios

EDGE = host("edge")
TWO = ("RTX 3090", "RTX 3090")


def entry(inventory):
    (found,) = plan(inventory).entries
    return found


def messages(inventory):
    return [remark.message for remark in plan(inventory).remarks]


def refused(inventory):
    with pytest.raises((PlanError, Problems)) as caught:
        plan(inventory)
    return str(caught.value)


def test_a_pool_has_every_instance_of_its_model_and_where_it_is_reached():
    inside = host("a", *TWO, data_address="198.51.100.7")
    (pool,) = entry(fleet([inside, EDGE], [model("chat", parallel=3)], [balancer()])).pools
    assert [(m.host, m.instance, m.address, m.port, m.slots) for m in pool.members] == [
        ("a", "gpu0", "198.51.100.7", 11434, 3),
        ("a", "gpu1", "198.51.100.7", 11435, 3),
    ]


def test_names_come_with_and_without_the_default_tag():
    named = model("chat", aliases=("gpt-4o-mini", "llama3.1:8b", "team/chat", "plain:latest"))
    (pool,) = entry(fleet([host("a", *TWO), EDGE], [named], [balancer()])).pools
    assert pool.names == (
        *("chat", "chat:latest", "gpt-4o-mini", "gpt-4o-mini:latest", "llama3.1:8b"),
        *("team/chat", "team/chat:latest", "plain:latest", "plain"),
    )


def test_a_pools_context_is_the_smallest_of_its_members():
    wish = model("chat", context=65536, at_least=2048, parallel=4)
    (pool,) = entry(fleet([host("a", "RTX 3060", "A100 80GB"), EDGE], [wish], [balancer()])).pools
    planned = plan(fleet([host("a", "RTX 3060", "A100 80GB"), EDGE], [wish]))
    contexts = [i.placements[0].settings.context for i in planned.hosts[0].instances]
    assert pool.context == min(contexts) < max(contexts)


def test_weights_follow_the_bandwidth_of_the_cards():
    cards = host("a", "RTX 3090", "RTX 3060")  # 936 and 360 GB/s
    (pool,) = entry(fleet([cards, EDGE], [model("chat")], [balancer()])).pools
    first, second = (member.weight for member in pool.members)
    assert 2.2 < first / second < 3


def test_equal_cards_have_weight_one():
    (pool,) = entry(fleet([host("a", *TWO), EDGE], [model("chat")], [balancer()])).pools
    assert {member.weight for member in pool.members} == {1}


def test_the_inventorys_weight_is_believed():
    hosts = [host("a", "RTX 3090", weight=7), host("b", "RTX 3060"), EDGE]
    (pool,) = entry(fleet(hosts, [model("chat")], [balancer()])).pools
    assert [member.weight for member in pool.members] == [7, 1]


def test_a_cpu_is_much_slower_than_a_card():
    hosts = [host("a", "RTX 3090"), host("b", pins=(Pin((), ("chat",)),)), EDGE]
    (pool,) = entry(fleet(hosts, [model("chat")], [balancer()])).pools
    card, cpu = (member.weight for member in pool.members)
    assert card >= 10 * cpu


@pytest.mark.parametrize(
    ("speeds", "weights"),
    [([1.0, 1.0], [1, 1]), ([2.5, 1.0], [5, 2]), ([100.0, 1.0], [20, 1]), ([1.04, 1.0], [1, 1]), ([], [])],
)
def test_ratios_are_small_whole_numbers(speeds, weights):
    assert small_ratios(speeds) == weights


# -------------------------------------------------------------------------------------- routing and ports
def test_by_model_has_all_pools_at_one_port():
    found = entry(fleet([host("a", *TWO), EDGE], [model("chat"), model("writer")], [balancer()]))
    assert [pool.name for pool in found.pools] == ["chat", "writer"]
    assert (found.hosts, dict(found.ports)) == (("edge",), {})


def test_per_port_gives_each_pool_one_from_listen_on_around_the_given():
    models = [model("tiny", replicas=1), model("chat", replicas=1), model("writer", replicas=1)]
    wish = balancer(routing="per_port", listen=9000, ports={"writer": 9001})
    found = entry(fleet([host("a", *TWO, *TWO), EDGE], models, [wish]))
    assert found.ports == {"tiny": 9000, "chat": 9002, "writer": 9001}


def test_single_without_a_pool_is_every_instance_once():
    models = [model("chat", replicas=1), model("tiny", replicas=1)]
    (pool,) = entry(fleet([host("a", *TWO), EDGE], models, [balancer(routing="single")])).pools
    assert (pool.name, len(pool.members)) == ("all", 2)
    assert {"chat", "tiny:latest"} <= set(pool.names)


def test_single_with_a_pool_is_that_one():
    models = [model("chat", replicas=1), model("tiny", replicas=1)]
    found = entry(fleet([host("a", *TWO), EDGE], models, [balancer(routing="single", pool="tiny")]))
    assert [pool.name for pool in found.pools] == ["tiny"]


def test_a_model_without_replicas_has_no_pool():
    inventory = fleet([host("a", *TWO), EDGE], [model("chat"), model("tiny", replicas=0)], [balancer()])
    assert [pool.name for pool in entry(inventory).pools] == ["chat"]
    assert any("tiny has no replicas" in message for message in messages(inventory))


def test_a_balancer_with_nothing_to_balance_is_an_error():
    assert "nothing to balance" in refused(fleet([EDGE], [model("tiny", replicas=0)], [balancer()]))


def test_a_balancer_whose_hosts_are_out_is_an_error():
    out = replace(EDGE, state="out")
    assert "no host in service" in refused(fleet([host("a", *TWO), out], [model("chat")], [balancer()]))


@pytest.mark.parametrize(
    "wish",
    [
        balancer(hosts="a", listen=11434),
        balancer(hosts="a", listen=11433),
        balancer(hosts="a", routing="per_port", listen=11430, ports={"chat": 11435}),
    ],
)
def test_a_port_that_is_taken_on_the_host_is_an_error(wish):
    assert "both want port" in refused(fleet([host("a", *TWO)], [model("chat")], [wish]))


def test_two_balancers_may_have_one_port_at_different_addresses():
    hosts = [host("a", *TWO), EDGE]
    one, two = balancer("one", address="192.0.2.1"), balancer("two", address="192.0.2.2")
    assert len(plan(fleet(hosts, [model("chat")], [one, two])).entries) == 2
    assert "both want port 8080" in refused(fleet(hosts, [model("chat")], [one, balancer("two")]))


def test_there_is_no_port_above_65535():
    last = host("a", *TWO, ollama=Ollama(first_port=65535))
    assert "no port 65536" in refused(fleet([last], [model("chat")]))


def test_a_balancers_host_gets_its_entry():
    planned = plan(fleet([host("a", *TWO), EDGE], [model("chat")], [balancer()]))
    assert [e.balancer.name for e in planned.host("edge").entries] == ["api"]
    assert planned.host("a").entries == ()


# -------------------------------------------------------------------------------------------- remarks
def test_ip_hash_is_advised_against_with_the_measured_figure():
    found = messages(fleet([host("a", *TWO), EDGE], [model("chat")], [balancer(strategy="ip_hash")]))
    assert any("/24" in message and "one of 8 got all requests of 40 clients" in message for message in found)


def test_round_robin_over_unequal_cards_is_advised_against():
    wish = balancer(strategy="round_robin")
    mixed = messages(fleet([host("a", "RTX 3090", "RTX 3060"), EDGE], [model("chat")], [wish]))
    equal = messages(fleet([host("a", *TWO), EDGE], [model("chat")], [wish]))
    assert any("round_robin" in message for message in mixed)
    assert not any("round_robin" in message for message in equal)


def test_client_options_need_a_router_that_reads_requests():
    wish = balancer(routing="single", client_options=ClientOptions(allow=("seed",)))
    found = messages(fleet([host("a", *TWO), EDGE], [model("chat")], [wish]))
    assert any("client_options can't be enforced" in message for message in found)


def test_a_pool_of_one_is_noted():
    found = messages(fleet([host("a", "RTX 3090"), EDGE], [model("chat")], [balancer()]))
    assert any("chat has one instance" in message for message in found)


def test_a_blind_balancer_over_unequal_instances_is_warned_of():
    models = [model("chat", replicas=1), model("tiny", replicas=1)]
    found = messages(fleet([host("a", *TWO), EDGE], models, [balancer(routing="single")]))
    assert any("answered 404" in message for message in found)


def test_a_partial_placement_is_remarked():
    found = messages(fleet([host("a", "RTX 3060")], [model("coder", gpu_layers_at_least=1)]))
    assert any("of 65 layers on the card" in message for message in found)


def test_unequal_contexts_are_noted():
    wish = model("chat", context=65536, at_least=2048, parallel=4)
    found = messages(fleet([host("a", "RTX 3060", "A100 80GB")], [wish]))
    assert any("on a/gpu0 and 65536 elsewhere; clients can count on" in message for message in found)


def test_a_pinned_server_that_may_evict_is_warned_of():
    """Loaded in their order both stay; the larger one, were it to come back alone, would not be let in."""
    pin = Pin((0,), ("writer", "chat"))
    models = [model("writer", context=24576, replicas=0), model("chat", context=16384, replicas=0)]
    found = messages(fleet([host("a", "RTX 3090", pins=(pin,))], models))
    assert any("evicts chat" in message for message in found)


def test_what_fit_notes_is_passed_on():
    found = messages(fleet([host("a", "RTX 3090")], [model("chat", context=200_000, at_least=4096)]))
    assert any("trained for a context of 131072" in message for message in found)
