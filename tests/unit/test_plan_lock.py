"""The lock: what it keeps, what it lets move, and what `lock` writes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from fleets import fleet, host, locked, model, places

from ogen.inventory.model import Lock
from ogen.plan import lock, plan, seen

KINDS = ("RTX 3060", "RTX 3090", "RTX 4090", "A100 80GB")


def models(dice):
    return [
        model("tiny", replicas=dice.randint(1, 3), context=4096),
        model("coder", replicas=dice.randint(1, 2), context=4096),
        model("large", replicas=1, context=4096),
        model("chat", context=8192, at_least=2048),
        model("writer", context=4096),
    ]


def random_fleet(seed):
    dice = random.Random(seed)
    hosts = [host("big", "A100 80GB", "A100 80GB")]
    for number in range(dice.randint(3, 6)):
        hosts.append(host(f"h{number}", *dice.choices(KINDS, k=dice.randint(1, 4))))
    dice.shuffle(hosts)
    return dice, fleet(hosts, models(dice))


def moved(before, after):
    """Places that were there before and are not any more, by model."""
    return {name: set(was) - set(after.get(name, ())) for name, was in before.items()}


@pytest.mark.parametrize("seed", range(25))
def test_adding_a_host_moves_nothing(seed):
    dice, inventory = random_fleet(seed)
    first = plan(inventory)
    at = dice.randint(0, len(inventory.hosts))
    new = host("new", *dice.choices(KINDS, k=3))
    grown = replace(inventory, hosts=(*inventory.hosts[:at], new, *inventory.hosts[at:]), lock=locked(first))
    second = plan(grown)
    assert not any(moved(places(first), places(second)).values())
    fresh = {p for name, all_ in places(second).items() for p in set(all_) - set(places(first)[name])}
    assert all(place.startswith("new/") for place in fresh)


@pytest.mark.parametrize("seed", range(25))
def test_removing_a_host_moves_only_its_own(seed):
    dice, inventory = random_fleet(seed)
    first = plan(inventory)
    gone = dice.choice([h.name for h in inventory.hosts if h.name != "big"])
    less = replace(inventory, hosts=tuple(h for h in inventory.hosts if h.name != gone), lock=locked(first))
    second = plan(less)
    fills = {m.name for m in inventory.models if m.replicas == "fill"}
    lost = {name: {p for p in all_ if p.startswith(f"{gone}/")} for name, all_ in places(first).items()}
    orphans = sum(len(all_) for name, all_ in lost.items() if name not in fills)
    stood_back = 0
    for name, left in moved(places(first), places(second)).items():
        if name not in fills:
            assert left <= lost[name]  # a numbered replica moves only when its host went
        else:
            stood_back += len(left - lost[name])
    # `fill` gives way to orphans: a card to each, two where it needs two
    assert stood_back <= 2 * orphans


def test_adding_a_model_moves_only_fill():
    inventory = fleet([host("a", "RTX 3090", "RTX 3090")], [model("chat", replicas=1), model("tiny")])
    first = plan(inventory)
    more = replace(inventory, models=(model("writer", replicas=1), *inventory.models), lock=locked(first))
    assert places(plan(more))["chat"] == places(first)["chat"]


def test_the_same_inventory_with_its_lock_is_the_same_plan():
    for seed in range(10):
        _, inventory = random_fleet(seed)
        first = plan(inventory)
        again = plan(replace(inventory, lock=locked(first)))
        assert again.hosts == first.hosts


def test_a_shared_card_stays_shared():
    crowded = fleet(
        [host("a", "RTX 4070 Ti SUPER")],
        [model("chat", context=36864, at_least=2048, replicas=1), model("writer", replicas=1, context=2048)],
    )
    first = plan(crowded)
    grown = replace(crowded, hosts=(host("z", "RTX 3090"), *crowded.hosts), lock=locked(first))
    assert places(plan(grown)) == places(first)


def test_riders_keep_their_card_and_cost_their_driver_nothing():
    chat = model("chat", context=65536, at_least=2048, parallel=2)
    inventory = fleet(
        [host("a", "RTX 3090"), host("b", "RTX 3090")], [model("embed", replicas=1, context=2048), chat]
    )
    first = plan(inventory)
    new = replace(inventory, hosts=(host("z", "A100 80GB"), *inventory.hosts), lock=locked(first))
    assert [h.instances for h in plan(new).hosts[1:]] == [h.instances for h in first.hosts]


def test_a_card_that_goes_out_moves_only_its_own():
    inventory = fleet([host("a", "RTX 3090", "RTX 3090", "RTX 3090")], [model("coder", replicas=2)])
    first = plan(inventory)
    cards = inventory.hosts[0].gpus
    out = replace(inventory.hosts[0], gpus=(replace(cards[0], state="out"), *cards[1:]))
    assert places(first) == {"coder": ["a/gpu0", "a/gpu1"]}
    found = places(plan(replace(inventory, hosts=(out,), lock=locked(first))))
    assert found == {"coder": ["a/gpu1", "a/gpu2"]}


def test_a_locked_place_that_does_not_hold_it_any_more_is_left():
    inventory = fleet([host("a", "RTX 3060", "RTX 3090")], [model("coder", replicas=1)])
    stale = Lock(placements={"coder": ("a/gpu0", "b/gpu7", "a/cpu"), "gone": ("a/gpu1",)})
    assert places(plan(replace(inventory, lock=stale))) == {"coder": ["a/gpu1"]}


def test_what_the_lock_keeps_moves_rather_than_fail():
    """tiny sits on the only card that holds coder, and there is no room for both."""
    wide = [model("tiny", replicas=1, context=131072), model("coder", replicas=1)]
    inventory = fleet([host("a", "RTX 3060", "RTX 3090")], wide)
    stuck = Lock(placements={"tiny": ("a/gpu1",)})
    assert places(plan(replace(inventory, lock=stuck))) == {"tiny": ["a/gpu0"], "coder": ["a/gpu1"]}


def test_a_newcomer_on_a_card_takes_nobodys_name():
    """coder is the larger, and would be gpu0 without the lock."""
    crowd = [model("tiny", replicas=1, context=4096), model("coder", replicas=1, context=4096, parallel=2)]
    inventory = fleet([host("a", "RTX 3090")], crowd)
    assert places(plan(inventory)) == {"coder": ["a/gpu0"], "tiny": ["a/gpu0-b"]}
    held = replace(inventory, lock=Lock(placements={"tiny": ("a/gpu0",)}))
    instances = plan(held).hosts[0].instances
    assert [(i.name, i.port, i.placements[0].model.name) for i in instances] == [
        ("gpu0", 11434, "tiny"),
        ("gpu0-b", 11534, "coder"),
    ]
    left = replace(inventory, models=(crowd[0],), lock=Lock(placements={"tiny": ("a/gpu0-b",)}))
    assert places(plan(left)) == {"tiny": ["a/gpu0-b"]}


def test_fewer_replicas_leave_the_last_places():
    inventory = fleet([host("a", "RTX 3090", "RTX 3090")], [model("chat", replicas=1)])
    two = Lock(placements={"chat": ("a/gpu1", "a/gpu0")})
    assert places(plan(replace(inventory, lock=two))) == {"chat": ["a/gpu1"]}


# ------------------------------------------------------------------------------------ UUIDs and `lock`
def test_locked_uuids_reach_the_plan():
    known = Lock(uuids={"a": {0: "GPU-1111"}})
    instance = plan(fleet([host("a", "RTX 3090")], [model("chat")], lock=known)).hosts[0].instances[0]
    assert instance.gpus[0].uuid == "GPU-1111"


def test_the_inventorys_uuid_is_believed_before_the_locks():
    one = host("a", "RTX 3090")
    one = replace(one, gpus=(replace(one.gpus[0], uuid="GPU-2222"),))
    planned = plan(fleet([one], [model("chat")], lock=Lock(uuids={"a": {0: "GPU-1111"}})))
    assert planned.hosts[0].instances[0].gpus[0].uuid == "GPU-2222"
    assert any("uuid" in remark.message for remark in planned.remarks)


def test_lock_keeps_what_is_still_there_and_adds_what_was_seen():
    old = Lock(
        uuids={"a": {0: "GPU-0", 5: "GPU-5"}, "gone": {0: "GPU-9"}},
        versions={"a": "0.32.14", "gone": "0.1.0"},
        digests={model("chat").sources[0].ref: "sha256:old", "other": "sha256:x"},
        sizes={"other": 1},
    )
    seen = Lock(uuids={"a": {1: "GPU-1"}}, versions={"a": "0.32.15"})
    inventory = fleet([host("a", "RTX 3090", "RTX 3090")], [model("chat")], lock=old)
    new = lock(inventory, plan(inventory), seen)
    assert new == Lock(
        uuids={"a": {0: "GPU-0", 1: "GPU-1"}},
        versions={"a": "0.32.15"},
        digests={model("chat").sources[0].ref: "sha256:old"},
        sizes={},
        placements={"chat": ("a/gpu0", "a/gpu1")},
    )


def test_locking_twice_changes_nothing():
    _, inventory = random_fleet(3)
    once = lock(inventory, plan(inventory))
    held = replace(inventory, lock=once)
    assert lock(held, plan(held)) == once


def test_what_hosts_say_becomes_a_lock():
    facts = {
        "a": {
            "gpus": [{"index": 0, "uuid": "GPU-a0"}, {"index": 1, "uuid": ""}],
            "ollama": "0.32.15",
            "models": {"mistral": {"digest": "ab" * 32, "size": 7}},
        },
        "b": {"gpus": [], "ollama": "", "models": {"mistral": {"digest": "cd" * 32, "size": 9}}},
    }
    assert seen(facts) == Lock(
        uuids={"a": {0: "GPU-a0"}, "b": {}},
        versions={"a": "0.32.15"},
        digests={"mistral": "sha256:" + "ab" * 32},
        sizes={"mistral": 7},
    )
