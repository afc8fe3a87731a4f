"""Autofit's rungs: what the planner sends to a host to choose from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fleets import GIB, balancer, fleet, host, model
from hypothesis import given, settings
from hypothesis import strategies as st
from rendering import check_units, run, systemd_root

from ogen.inventory.model import Autofit, Context, Gpu, Inventory
from ogen.plan import plan
from ogen.plan.model import Instance
from ogen.render import render

ON = Autofit()
CHAT = model("chat", "llama3.1:8b-instruct-q4_K_M", context=32768, at_least=4096)


def instances(inventory: Inventory) -> dict[str, Instance]:
    return {f"{i.host}/{i.name}": i for h in plan(inventory).hosts for i in h.instances}


def contexts(one: Instance) -> list[tuple[str | None, int]]:
    return [(rung.server.kv_cache, rung.placements[0].settings.context) for rung in one.rungs]


def test_without_a_word_there_are_none() -> None:
    assert instances(fleet([host("a", "RTX 3090")], [CHAT]))["a/gpu0"].rungs == ()


def test_the_planned_one_is_the_first_and_each_needs_less() -> None:
    one = instances(fleet([host("a", "RTX 3090", autofit=ON)], [CHAT]))["a/gpu0"]
    first = one.rungs[0]
    assert (first.server, first.placements) == (one.server, one.placements)
    assert first.need == (one.placements[0].account.total_gpu_bytes,)
    needs = [rung.need[0] for rung in one.rungs]
    assert needs == sorted(set(needs), reverse=True)
    assert contexts(one)[:2] == [(None, 32768), ("q8_0", 32768)]
    assert contexts(one)[-1] == ("q8_0", 4096)
    assert {rung.server.context for rung in one.rungs} == {32768}, "less context needs no restart"


@pytest.mark.parametrize(
    ("hosts", "pool", "still"),
    [("a", 1, True), ("a", 2, False), ("edge", 2, True), ("a,edge", 2, True)],
    ids=["the-last-of-its-pool", "another-beside-it", "elsewhere", "here-and-elsewhere"],
)
def test_a_server_that_others_send_to_is_left_as_it_is(hosts: str, pool: int, still: bool) -> None:
    cards = ["RTX 3090"] * pool
    fleet_ = fleet([host("a", *cards, autofit=ON), host("edge")], [CHAT], [balancer(hosts=hosts)])
    one = instances(fleet_)["a/gpu0"]
    assert len(one.rungs) > 3
    assert (
        {rung.server for rung in one.rungs} == {one.server}
        if still
        else {None, "q8_0"} == {rung.server.kv_cache for rung in one.rungs}
    )
    assert contexts(one)[-1][1] == 4096


def test_models_of_one_server_go_down_together() -> None:
    models = [
        replace(CHAT, replicas=1),
        model("coder", "qwen2.5-coder:7b-instruct-q4_K_M", context=16384, at_least=4096, replicas=1),
    ]
    one = instances(fleet([host("a", "RTX 3090", autofit=ON)], models))["a/gpu0"]
    assert len(one.placements) == 2
    assert len(one.rungs) > 3
    assert {rung.server for rung in one.rungs} == {one.server}
    assert [p.settings.context for p in one.rungs[-1].placements] == [4096, 4096]


def test_a_model_has_the_last_word() -> None:
    models = [replace(CHAT, replicas=1, autofit=False), replace(CHAT, name="talk", replicas=1)]
    found = instances(fleet([host("a", "RTX 3090", "RTX 3090", autofit=ON)], models))
    assert {i.placements[0].model.name: bool(i.rungs) for i in found.values()} == {
        "chat": False,
        "talk": True,
    }
    alone = fleet([host("a", "RTX 3090")], [replace(CHAT, autofit=True)])
    assert instances(alone)["a/gpu0"].rungs


def test_a_reviewer_sees_how_far_it_may_go_down() -> None:
    names = ["RTX 3090"] * 6
    made = plan(fleet([host("a", *names, autofit=ON)], [CHAT]))
    (said,) = [remark.message for remark in made.remarks if "autofit" in remark.message]
    assert said == (
        "autofit: chat may go down 4 rungs, from 10.0 GiB to 6.0 GiB "
        "(a/gpu0, a/gpu1, a/gpu2, a/gpu3 and 2 more)"
    )


def test_layers_on_the_host_are_counted_in_the_modelfile() -> None:
    big = model("big", "qwen2.5:14b-instruct-q4_K_M", context=8192, gpu_layers_at_least=20)
    one = instances(fleet([host("a", "RTX 3060", autofit=ON)], [big]))["a/gpu0"]
    last = one.rungs[-1].placements[0]
    assert (last.verdict, last.settings.num_gpu, last.account.layers) == ("partial", 20, 20)


def test_what_can_not_follow_is_told() -> None:
    wish = replace(CHAT, kv_cache="q4_0", batch_at_least=512, context=Context(8192, 8192))
    made = plan(
        fleet([replace(host("a", autofit=ON), gpus=(Gpu(0, "RTX 3090", "nvidia", 24 * GIB),))], [wish])
    )
    assert made.hosts[0].instances[0].rungs == ()
    assert any("nothing to give up" in remark.message for remark in made.remarks)


def test_an_amd_card_has_rungs_too() -> None:
    made = plan(fleet([replace(host("a", autofit=ON), gpus=(Gpu(0, "MI210", "amd", 24 * GIB),))], [CHAT]))
    assert len(made.hosts[0].instances[0].rungs) > 1
    assert not any("autofit" in remark.message and "left as" in remark.message for remark in made.remarks)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["llama3.1:8b-instruct-q4_K_M", "qwen2.5:14b-instruct-q4_K_M", "gemma3:4b-it-q4_K_M"]),
    st.sampled_from([2048, 4096, 16384, 32768, 131072]),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from([1, 2]),
)
def test_rungs_fall_on_every_card_whatever_is_asked(
    tag: str, want: int, parallel: int, spill: bool, cards: int
) -> None:
    wish = model("m", tag, context=want, at_least=2048, parallel=parallel, gpus_per_replica=cards)
    wish = replace(wish, gpu_layers_at_least=1 if spill else None)
    names = ["RTX 3090"] * cards
    for one in instances(fleet([host("a", *names, autofit=ON)], [wish])).values():
        for before, after in pairwise(one.rungs):
            assert all(b >= a for b, a in zip(before.need, after.need, strict=True))
            assert sum(before.need) - sum(after.need) >= 128 << 20
        assert len(one.rungs) <= 9


def test_balancers_probe_for_any_of_the_rungs() -> None:
    wish = replace(CHAT, gpu_layers_at_least=20)
    made = plan(fleet([host("a", "RTX 3090", autofit=ON), host("edge")], [wish], [balancer()]))
    release = next(r for r in render(made) if r.host == "edge")
    members = json.loads(next(f.content for f in release.files if f.path.endswith("/members.json")))
    assert "rungs" in str(members)
    (told,) = next(p for p in members["probes"].values())
    assert told["verdict"] == "partial", "a lower rung has layers on the host, and is as well as the others"
    assert (told["context"], told["rungs"][0]) == (32768, 4096)


# ---------------------------------------------------------------------------------- the release
def test_a_release_holds_every_rung_ready_made() -> None:
    made = plan(fleet([host("a", "RTX 3090", "RTX 3090", autofit=Autofit(hold=60.0))], [CHAT]))
    release = render(made)[0]
    files = {file.path: file.content.decode() for file in release.files}
    ladder = json.loads(files["/etc/ogen/current/instances/gpu0/rungs.json"])
    planned = made.hosts[0].instances[0]
    assert [rung["need"] for rung in ladder["rungs"]] == [list(rung.need) for rung in planned.rungs]
    assert ladder["rungs"][0]["env"] == {}
    assert ladder["rungs"][1]["env"] == {"OLLAMA_FLASH_ATTENTION": "1", "OLLAMA_KV_CACHE_TYPE": "q8_0"}
    builds = {build.name: build.request["parameters"]["num_ctx"] for build in release.models}
    views = {view.path: view.model for view in release.views}
    for rung in ladder["rungs"]:
        told = rung["models"]["chat"]
        assert builds[told["build"]] == told["context"]
        assert [views[f"{rung['folder']}/{path}"] for path in rung["manifests"]] == [told["build"]]
    assert len({rung["id"] for rung in ladder["rungs"]}) == len(ladder["rungs"])
    assert "rungs/2/chat.Modelfile" in " ".join(files)
    unit = files["/etc/systemd/system/ogen-ollama-gpu0.service"]
    assert "ExecStartPre=+python3 -I /etc/ogen/current/bin/autofit.py adopt gpu0" in unit
    assert "BindReadOnlyPaths=-/var/lib/ogen/autofit/gpu0/manifests:/run/ogen-gpu0/models/manifests" in unit
    assert json.loads(files["/etc/ogen/current/autofit.json"])["hold"] == 60.0
    assert "ogen-autofit.service" in [unit.name for unit in release.units]


def test_a_choice_is_known_again_after_a_change_that_is_not_its_own() -> None:
    def ids(wish: Any) -> list[str]:
        release = render(plan(fleet([host("a", "RTX 3090", autofit=ON)], [wish])))[0]
        text = next(f.content for f in release.files if f.path.endswith("/rungs.json"))
        return [rung["id"] for rung in json.loads(text)["rungs"]]

    assert ids(CHAT) == ids(replace(CHAT, system="Be brief.", aliases=("gpt",)))
    assert set(ids(CHAT)) - set(ids(replace(CHAT, batch=256)))


def test_the_engine_leaves_nothing_to_others_by_itself() -> None:
    """The host sees what they really take; leaving the reserve twice would put layers on the host."""
    for on in (None, ON):
        kept = replace(host("a", autofit=on), gpus=(Gpu(0, "RTX 3090", "nvidia", 24 * GIB, reserve=2 * GIB),))
        release = render(plan(fleet([kept], [CHAT])))[0]
        unit = next(f.content.decode() for f in release.files if f.path.endswith("gpu0.service"))
        assert ("LLAMA_ARG_FIT_TARGET" in unit) == (on is None)


def test_systemd_takes_the_units_and_their_exposure_is_small(
    tmp_path: Path, need: Callable[[str], str]
) -> None:
    need("systemd-analyze")
    hosts = [host("a", "RTX 3090", "RTX 3090", autofit=ON)]
    release = render(plan(fleet(hosts, [CHAT], [balancer(hosts="a")])))[0]
    root = systemd_root(tmp_path / "root")
    check_units(release, root)
    scores = {}
    for file in release.files:
        if file.path.endswith(("ogen-autofit.service", "gpu0.service")):
            unit = tmp_path / Path(file.path).name
            unit.write_bytes(file.content)
            _, output = run("systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit))
            found = re.search(r"exposure level for \S+: ([\d.]+)", output)
            assert found, output
            scores[unit.name] = float(found[1])
    print(scores)
    assert len(scores) == 2
    assert max(scores.values()) <= 3.0, scores
