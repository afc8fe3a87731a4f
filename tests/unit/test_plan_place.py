"""Placement: what goes where, and why not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleets import GIB, fleet, gpus, host, model, places

from ogen.errors import CatalogError, PlanError, Problems, Text, Where
from ogen.inventory.model import Gpu, Ollama, Pin
from ogen.plan import plan

TWO = ("RTX 3090", "RTX 3090")


def failure(inventory):
    with pytest.raises((PlanError, CatalogError, Problems)) as caught:
        plan(inventory)
    error = caught.value
    return error.errors if isinstance(error, Problems) else [error]


def only(inventory, name):
    return next(i for h in plan(inventory).hosts for i in h.instances if i.name == name)


def test_fill_takes_every_card_that_numbers_leave():
    found = places(
        plan(fleet([host("a", *TWO), host("b", *TWO)], [model("chat"), model("coder", replicas=1)]))
    )
    assert len(found["coder"]) == 1
    assert len(found["chat"]) == 3
    assert not set(found["chat"]) & set(found["coder"])


def test_several_fill_models_get_the_same_number_of_cards():
    found = places(plan(fleet([host("a", *TWO, *TWO)], [model("chat"), model("writer")])))
    assert len(found["chat"]) == len(found["writer"]) == 2


def test_replicas_spread_over_hosts():
    found = places(plan(fleet([host("a", *TWO), host("b", *TWO)], [model("chat", replicas=2)])))
    assert {place.split("/")[0] for place in found["chat"]} == {"a", "b"}


def test_a_small_model_leaves_the_large_card_to_the_one_that_needs_it():
    inventory = fleet(
        [host("a", "RTX 3090"), host("b", "RTX 3060")],
        [model("chat", replicas=1), model("coder", replicas=1)],
    )
    assert places(plan(inventory)) == {"coder": ["a/gpu0"], "chat": ["b/gpu0"]}


def test_a_model_too_large_for_one_card_goes_over_as_few_as_will_hold_it():
    instance = only(fleet([host("a", *TWO, *TWO)], [model("large", replicas=1)]), "gpu0-1")
    assert [gpu.index for gpu in instance.gpus] == [0, 1]
    assert (instance.port, instance.server.split) == (11434, "layer")
    assert max(instance.placements[0].account.per_card) <= min(gpu.vram for gpu in instance.gpus)


def test_row_split_and_shares_reach_the_server():
    wish = model("chat", replicas=1, split="row", shares=(3, 1))
    server = only(fleet([host("a", *TWO)], [wish]), "gpu0-1").server
    assert (server.split, server.shares) == ("row", (3, 1))


def test_before_0_30_a_split_is_by_layers_and_the_plan_says_so():
    wish = model("chat", replicas=1, split="row", shares=(3, 1))
    old = host("a", *TWO, ollama=Ollama(version="0.24.0"))
    planned = plan(fleet([old], [wish]))
    server = planned.hosts[0].instances[0].server
    assert (server.split, server.shares) == ("layer", ())
    assert any("split has no effect on Ollama 0.24.0" in remark.message for remark in planned.remarks)


def test_cards_of_two_vendors_never_share_a_model():
    mixed = host("a", "RTX 3090", "RX 7900 XTX")
    (error,) = failure(fleet([mixed], [model("large", replicas=1)]))
    assert "large fits nowhere" in error.message


def test_a_card_that_is_out_is_left_out_and_the_others_keep_their_names():
    first, *others = gpus(*TWO, "RTX 3090")
    one = replace(host("a"), gpus=(replace(first, state="out", reason="fan"), *others))
    planned = plan(fleet([one], [model("chat")]))
    assert [(i.name, i.port) for i in planned.hosts[0].instances] == [("gpu1", 11435), ("gpu2", 11436)]
    assert "a card 0 is out: fan" in [remark.message for remark in planned.remarks]


def test_a_host_that_is_out_gets_nothing():
    planned = plan(fleet([host("a", *TWO, state="out"), host("b", *TWO)], [model("chat")]))
    (said,) = [remark for remark in planned.remarks if remark.message == "a is out"]
    assert "left as it is" in str(said.hint)
    assert [h.host.name for h in planned.hosts] == ["b"]


def test_reserve_is_left_to_others():
    free = fleet([host("a", "RTX 3090")], [model("chat", context=8192, at_least=2048)])
    tight = replace(free, hosts=(replace(host("a"), gpus=gpus("RTX 3090", reserve=18 * GIB)),))
    assert only(free, "gpu0").placements[0].concessions == ()
    placement = only(tight, "gpu0").placements[0]
    assert placement.concessions
    assert placement.account.total_gpu_bytes <= 6 * GIB


def test_on_keeps_a_model_to_its_hosts():
    inventory = fleet([host("a", *TWO), host("b", *TWO)], [model("chat", on="b")])
    assert places(plan(inventory)) == {"chat": ["b/gpu0", "b/gpu1"]}


def test_main_gpu_is_the_card_of_the_host():
    instance = only(fleet([host("a", *TWO)], [model("chat", main_gpu=1)]), "gpu1")
    assert instance.placements[0].settings.main_gpu is None


# ---------------------------------------------------------------------------------- several on a card
def test_models_share_a_card_only_when_there_are_too_few():
    apart = places(plan(fleet([host("a", *TWO)], [model("chat", replicas=1), model("writer", replicas=1)])))
    assert apart["chat"] != apart["writer"]
    shared = plan(fleet([host("a", "RTX 3090")], [model("chat", replicas=1), model("writer", replicas=1)]))
    (instance,) = shared.hosts[0].instances
    assert [p.model.name for p in instance.placements] == ["writer", "chat"]  # the largest is loaded first
    assert instance.server.max_loaded_models == 2


def test_sharing_makes_models_concede_what_they_allow():
    models = [model("chat", context=36864, at_least=4096, parallel=2), model("tiny", replicas=1, parallel=2)]
    alone = plan(fleet([host("a", "RTX 4070 Ti SUPER")], models[:1]))
    assert alone.hosts[0].instances[0].placements[0].settings.context == 36864
    both = plan(fleet([host("a", "RTX 4070 Ti SUPER")], models))
    used = [p for i in both.hosts[0].instances for p in i.placements]
    chat = next(p for p in used if p.model.name == "chat")
    assert {c.what for c in chat.concessions} & {"kv_cache", "context"}
    assert sum(p.account.total_gpu_bytes for p in used) - GIB <= both.hosts[0].host.gpus[0].vram


def test_embedding_models_ride_along():
    found = places(plan(fleet([host("a", *TWO)], [model("embed", replicas=1, context=2048), model("chat")])))
    assert found["chat"] == ["a/gpu0", "a/gpu1"]
    assert found["embed"][0] in found["chat"]


def test_embedding_models_alone_get_cards_of_their_own():
    found = places(plan(fleet([host("a", *TWO)], [model("embed", context=2048)])))
    assert found == {"embed": ["a/gpu0", "a/gpu1"]}


def test_models_that_take_turns_share_a_card_that_could_not_hold_both():
    models = [model("writer", residency="on_demand"), model("tiny", residency="on_demand")]
    big = replace(models[0], sources=model("coder").sources)
    planned = plan(fleet([host("a", "RTX 3090")], [big, replace(models[1], sources=model("writer").sources)]))
    (instance,) = planned.hosts[0].instances
    assert instance.server.max_loaded_models == 1
    assert instance.server.keep_alive == "5m"
    assert any("take turns" in remark.message for remark in planned.remarks)


# ------------------------------------------------------------------------------------------ pins
def pinned(*pins, cards=TWO, **more):
    return host("a", *cards, pins=pins, **more)


def test_a_pin_comes_first_and_keeps_its_card_to_itself():
    one = pinned(Pin((0,), ("tiny",)))
    found = places(plan(fleet([one], [model("tiny", replicas=0), model("chat")])))
    assert found == {"tiny": ["a/gpu0"], "chat": ["a/gpu1"]}


def test_a_pinned_replica_counts():
    found = places(plan(fleet([pinned(Pin((1,), ("coder",)))], [model("coder", replicas=1), model("chat")])))
    assert found == {"coder": ["a/gpu1"], "chat": ["a/gpu0"]}


def test_the_words_of_a_pin_are_heard_before_the_models():
    one = pinned(
        Pin((0,), ("chat",), port=12000, low_vram=True, context=4096, env={"A": "1"}), env={"A": "0"}
    )
    instance = only(fleet([one], [model("chat")]), "gpu0")
    assert instance.port == 12000
    assert instance.server.kv_on_host
    assert instance.placements[0].settings.context == 4096
    assert instance.env["A"] == "1"


def test_a_fixed_number_of_layers_is_only_the_users():
    one = pinned(Pin((0,), ("chat",), num_gpu=20))
    instance = only(fleet([one], [model("chat")]), "gpu0")
    assert instance.placements[0].settings.num_gpu == 20
    assert instance.placements[0].verdict == "partial"
    assert only(fleet([one], [model("chat")]), "gpu1").placements[0].settings.num_gpu is None


def test_an_instance_without_a_card():
    bare = host("a", pins=(Pin((), ("tiny",)),))
    instance = only(fleet([bare], [model("tiny")]), "cpu")
    assert (instance.port, instance.gpus, instance.placements[0].verdict) == (11434, (), "cpu")
    beside = only(fleet([pinned(Pin((), ("tiny",)))], [model("tiny"), model("chat")]), "cpu")
    assert beside.port == 11524


def test_two_pins_on_one_card_are_two_instances():
    one = pinned(Pin((0,), ("chat",)), Pin((0,), ("tiny",)), cards=("RTX 3090",))
    planned = plan(fleet([one], [model("chat"), model("tiny")]))
    assert [(i.name, i.port) for i in planned.hosts[0].instances] == [("gpu0", 11434), ("gpu0-b", 11534)]


def test_a_pin_whose_models_need_two_servers_is_an_error():
    one = pinned(Pin((0,), ("chat", "tiny")))
    (error,) = failure(fleet([one], [model("chat", parallel=2), model("tiny", parallel=1)]))
    assert "parallel is 2 and 1" in error.message
    assert "two instances" in error.hint


def test_a_pin_on_a_card_that_is_out_is_left_out():
    first, second = gpus(*TWO)
    one = replace(pinned(Pin((0,), ("chat",))), gpus=(replace(first, state="out"), second))
    planned = plan(fleet([one], [model("chat")]))
    assert places(planned) == {"chat": ["a/gpu1"]}
    assert any("left out with its card" in remark.message for remark in planned.remarks)


def test_a_pin_that_does_not_fit_says_what_is_missing():
    (error,) = failure(fleet([pinned(Pin((0,), ("large",)))], [model("large")]))
    assert "large does not fit where it is pinned, on a card 0 (RTX 3090)" in error.message
    assert "GiB are missing" in error.message
    assert error.hint


# -------------------------------------------------------------------------------- one server or two
def test_models_whose_server_settings_differ_get_servers_of_their_own():
    models = [model("chat", replicas=1, parallel=4), model("tiny", replicas=1)]
    planned = plan(fleet([host("a", "RTX 3090")], models))
    assert [(i.name, i.port, i.server.parallel) for i in planned.hosts[0].instances] == [
        ("gpu0", 11434, 4),
        ("gpu0-b", 11534, 1),
    ]


def test_one_file_with_two_contexts_gets_two_servers():
    models = [
        model("chat", replicas=1),
        model("long", "llama3.1:8b-instruct-q4_K_M", context=16384, replicas=1),
    ]
    planned = plan(fleet([host("a", "RTX 3090")], models))
    assert [[p.model.name for p in i.placements] for i in planned.hosts[0].instances] == [["long"], ["chat"]]


def test_what_ollama_would_evict_gets_a_server_of_its_own():
    """Both fit, but the predictor takes the cache at full precision and 80 % of what is free."""
    models = [model("chat", replicas=1, context=32768), model("writer", replicas=1, context=32768)]
    new = plan(fleet([host("a", "RTX 3090")], [replace(m, kv_cache="q8_0") for m in models]))
    assert [i.name for i in new.hosts[0].instances] == ["gpu0", "gpu0-b"]


def test_an_embedding_model_does_not_mind_the_servers_slots():
    models = [model("chat", parallel=4), model("embed", replicas=1, context=2048, parallel=4)]
    (instance,) = plan(fleet([host("a", "RTX 3090")], models)).hosts[0].instances
    assert {p.model.name: p.slots for p in instance.placements} == {"chat": 4, "embed": 1}


# ---------------------------------------------------------------------------------------- failures
def test_the_error_names_model_place_missing_gib_and_what_would_do():
    where = Where(Text("fleet.yaml", ["models:", "  large:"]), 2, 3)
    (error,) = failure(fleet([host("a", "RTX 3060")], [replace(model("large", replicas=1), where=where)]))
    assert error.where is where
    assert "large" in error.message
    assert "a card 0 (RTX 3060" in error.message
    assert "GiB are missing" in error.message
    assert error.hint


def test_all_shortages_are_told_at_once():
    models = [model("large", replicas=1), model("coder", replicas=1)]
    assert len(failure(fleet([host("a", "RTX 3060")], models))) == 2


def test_a_full_fleet_says_who_has_the_cards():
    (error,) = failure(
        fleet([host("a", "RTX 3090")], [model("coder", replicas=1), model("writer", replicas=1)])
    )
    assert "no room for 1 of 1 replicas" in error.message
    assert "beside coder" in error.message or "beside writer" in error.message


def test_a_model_without_any_card():
    (error,) = failure(fleet([host("a", *TWO), host("b")], [model("chat", on="b")]))
    assert "chat has no card of `on: b`" in error.message


def test_more_cards_than_any_host_has():
    (error,) = failure(fleet([host("a", *TWO)], [model("chat", replicas=1, gpus_per_replica=4)]))
    assert "chat" in error.message
    assert "cards" in error.message


def test_an_unknown_model_is_an_error_at_its_source():
    (error,) = failure(fleet([host("a", *TWO)], [model("chat", "no-such-model:1b")]))
    assert "no-such-model:1b" in error.message


def test_idle_cards_are_remarked():
    planned = plan(fleet([host("a", *TWO)], [model("chat", replicas=1)]))
    assert any("no model uses a/gpu1 (RTX 3090)" in remark.message for remark in planned.remarks)


def test_an_amd_card_is_accounted_as_such():
    planned = plan(fleet([host("a", "RX 7900 XTX")], [model("chat")]))
    assert [gpu.vendor for gpu in planned.hosts[0].instances[0].gpus] == ["amd"]


def test_an_unknown_card_with_its_vram_will_do():
    card = Gpu(0, "Some Card", "nvidia", 24 * GIB)
    planned = plan(fleet([replace(host("a"), gpus=(card,))], [model("chat")]))
    assert places(planned) == {"chat": ["a/gpu0"]}
