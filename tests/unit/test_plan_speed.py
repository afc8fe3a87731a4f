"""Large fleets are placed whole, and nothing is put over a card; benchmarks/plan.py tells the times."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleets import balancer, fleet, host, locked, model, places
from hypothesis import given, settings
from hypothesis import strategies as st

from ogen.errors import PlanError, Problems
from ogen.fit.account import margin
from ogen.inventory.model import Ollama
from ogen.plan import plan

KINDS = ("RTX 3060", "RTX 3070", "RTX 3090", "RTX 4070 Ti SUPER", "A100 80GB", "RX 7900 XTX")


def test_two_hundred_replicas_over_a_hundred_hosts():
    hosts = [host(f"h{n}", *(KINDS[(n + c) % 5] for c in range(4))) for n in range(100)]
    models = [
        model("tiny", replicas=60),
        model("chat", replicas=60, context=16384, at_least=4096),
        model("writer", replicas=40),
        model("coder", replicas=30),
        model("large", replicas=10),
    ]
    found = places(plan(fleet(hosts, models)))
    assert {name: len(all_) for name, all_ in found.items()} == {m.name: m.replicas for m in models}


def test_a_thousand_hosts_of_eight_cards():
    hosts = [host(f"h{n}", *([KINDS[n % 5]] * 8)) for n in range(1000)]
    models = [
        model("chat", context=16384, at_least=4096),
        model("coder", replicas=500),
        model("large", replicas=50),
    ]
    planned = plan(fleet(hosts, models, [balancer(hosts="h0")]))
    assert sum(len(h.instances) for h in planned.hosts) > 7000


def test_a_lock_of_a_thousand_hosts_changes_nothing():
    hosts = [host(f"h{n}", *([KINDS[n % 5]] * 8)) for n in range(1000)]
    inventory = fleet(
        hosts, [model("chat"), model("coder", replicas=500), model("embed", replicas=100, context=2048)]
    )
    first = plan(inventory)
    again = plan(replace(inventory, lock=locked(first)))
    assert again.hosts == first.hosts


def test_absurd_numbers_of_replicas_are_refused():
    with pytest.raises(Problems) as caught:
        plan(fleet([host("a", "RTX 3090")], [model("chat", replicas=10**9), model("large", replicas=10**9)]))
    assert "no room for 999999999 of 1000000000 replicas" in str(caught.value)


def test_a_host_of_many_kinds_of_cards_comes_to_an_end():
    one = host("a", *["RTX 3090"] * 24)
    odd = tuple(replace(gpu, reserve=gpu.index * 2**20) for gpu in one.gpus)
    with pytest.raises(PlanError):
        plan(fleet([replace(one, gpus=odd)], [model("large", context=131072, parallel=4, replicas=9)]))


cards = st.lists(st.sampled_from(KINDS), min_size=0, max_size=4)


@st.composite
def wishes(draw):
    names = draw(
        st.lists(
            st.sampled_from(("tiny", "chat", "writer", "coder", "large", "embed")), unique=True, min_size=1
        )
    )
    return [
        model(
            name,
            context=draw(st.sampled_from((2048, 8192, 32768))),
            at_least=draw(st.sampled_from((None, 1024))),
            replicas=draw(st.sampled_from((0, 1, 2, "fill"))),
            parallel=draw(st.sampled_from((1, 2, 4))),
            gpu_layers_at_least=draw(st.sampled_from((None, 1))),
            residency=draw(st.sampled_from(("resident", "resident", "on_demand"))),
            low_vram=draw(st.booleans()),
        )
        for name in names
    ]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(cards, min_size=1, max_size=4),
    wishes(),
    st.sampled_from(("0.12.3", "0.24.0", "0.32.15")),
    st.booleans(),
)
def test_no_plan_puts_more_on_a_card_than_it_has(boxes, models, version, reserve):
    size = 2**30 if reserve else 0
    hosts = [host(f"h{n}", *names, ollama=Ollama(version=version)) for n, names in enumerate(boxes)]
    hosts = [replace(h, gpus=tuple(replace(g, reserve=size) for g in h.gpus)) for h in hosts]
    try:
        planned = plan(fleet(hosts, models))
    except (PlanError, Problems):
        return  # too small: the errors are tested elsewhere
    for one in planned.hosts:
        for gpu in one.host.gpus:
            assert held(one, gpu, version) <= gpu.vram - gpu.reserve
        ports = [instance.port for instance in one.instances]
        names = [instance.name for instance in one.instances]
        assert len(set(ports)) == len(ports)
        assert len(set(names)) == len(names)


def held(one, gpu, version):
    """Bytes of a card at most in use: all servers' models, of turns the largest, and the margin once."""
    resident, turns = 0, 0
    for instance in one.instances:
        if gpu.index in [g.index for g in instance.gpus]:
            card = [g.index for g in instance.gpus].index(gpu.index)
            sizes = [p.account.per_card[card] - margin(version) for p in instance.placements]
            if instance.placements[0].model.residency == "on_demand":
                turns = max(turns, *sizes)
            else:
                resident += sum(sizes)
    used = resident + turns
    return used + margin(version) if used else 0
