"""The ladder: its order and bounds, and that the first rung that fits is the one chosen."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ogen.catalog import find_model
from ogen.errors import UsageError
from ogen.fit import ORDER, Card, DoesNotFit, Wishes, account, choose
from ogen.fit.ladder import ladder

GIB = 2**30


def card(gib):
    return Card(int(gib * GIB), int(gib * GIB))


def on(tag, gib, *more, **wishes):
    asked = Wishes(**{"context": 8192, **wishes})
    return choose([(t, find_model(t)) for t in (tag, *more)], asked, [card(gib)])


def test_what_fits_is_left_as_it_is():
    choice = on("llama3.1:8b", 12)
    assert (choice.verdict, choice.concessions, choice.num_gpu) == ("full", (), None)
    assert (choice.settings.context, choice.settings.kv_cache, choice.settings.batch) == (8192, "f16", None)


def test_concessions_come_in_their_order():
    tags = ["qwen2.5:14b-instruct-q8_0", "qwen2.5:14b-instruct-q4_K_M"]
    wishes = Wishes(context=32768, context_at_least=4096, kv_cache_at_least="q4_0", gpu_layers_at_least=10)
    seen = []
    for gib in (24, 20, 17, 14, 12.8, 11, 10.5, 9):
        found = choose([(t, find_model(t)) for t in tags], wishes, [card(gib)])
        seen.append([c.what for c in found.concessions])
    assert seen[0] == []
    assert seen[-1] == ["quantisation", "kv_cache", "context", "batch", "gpu_layers"]
    for names in seen:
        assert names == [what for what in ORDER if what in names]
    assert [len(names) for names in seen] == sorted(len(names) for names in seen)


def test_a_candidate_that_is_trained_for_more_gets_what_was_asked():
    pair = [(t, find_model(t)) for t in ("llama2:13b", "llama3.1:8b")]
    assert choose(pair, Wishes(context=4608), [card(24)]).settings.context == 4096, "its training"
    choice = choose(pair, Wishes(context=4608), [card(6.5)])
    assert (choice.candidate, choice.settings.context) == (1, 4608)


def test_the_order_can_be_another():
    choice = on("llama3.1:8b", 6.5, context_at_least=2048, order=("context",))
    assert [c.what for c in choice.concessions] == ["context"]
    with pytest.raises(UsageError, match="no concession called"):
        on("llama3.1:8b", 6, order=("colour",))


def test_bounds_are_kept():
    with pytest.raises(DoesNotFit) as caught:
        on("llama3.1:8b", 6)
    assert 0 < caught.value.missing_bytes < 2 * GIB
    assert "context" in caught.value.nearest or "kv_cache" in caught.value.nearest
    with pytest.raises(DoesNotFit) as caught:
        on("llama3.1:70b", 8, gpu_layers_at_least=40)
    assert "layers" in caught.value.nearest
    with pytest.raises(DoesNotFit) as caught:
        on("llama3.1:70b", 1, gpu_layers_at_least=1)
    assert "a card with" in caught.value.nearest


def test_nothing_goes_to_the_host_unless_it_is_allowed():
    for wishes in ({}, {"context_at_least": 256, "kv_cache_at_least": "q4_0"}):
        with pytest.raises(DoesNotFit):
            on("llama3.1:70b", 24, **wishes)


def test_experts_go_before_layers():
    choice = on("qwen3:30b-a3b", 12, gpu_layers_at_least=0)
    assert choice.concessions[-1].what == "experts"
    assert choice.account.layers == choice.account.layers_total
    assert (choice.verdict, choice.num_gpu) == ("partial", None)


def test_experts_on_the_host_and_fewer_layers_need_a_fixed_number():
    """llama.cpp's own fitting steps aside once experts are placed by hand."""
    choice = on("gpt-oss:120b", 4.0, gpu_layers_at_least=0)
    assert choice.settings.experts_on_host == 36
    assert choice.num_gpu == choice.account.layers < choice.account.layers_total


def test_the_engine_fits_layers_by_itself():
    for version in ("0.24.0", "0.32.15"):
        choice = on("llama3.1:70b", 24, gpu_layers_at_least=1, version=version)
        assert 1 <= choice.account.layers < choice.account.layers_total
        assert choice.num_gpu is None


def test_a_number_that_the_user_fixed_stays():
    choice = on("llama2:7b", 24, num_gpu=20)
    assert (choice.num_gpu, choice.account.layers, choice.verdict) == (20, 20, "partial")
    assert on("llama2:7b", 24, num_gpu=0).verdict == "cpu"
    assert on("llama2:7b", 24, num_gpu=999).verdict == "full"
    automatic = on("llama2:7b", 5, num_gpu=-1, gpu_layers_at_least=0)
    assert (automatic.num_gpu, automatic.verdict) == (None, "partial")
    with pytest.raises(DoesNotFit):
        on("llama2:7b", 4, num_gpu=33, gpu_layers_at_least=0)


def test_low_vram_works_where_there_is_a_lever_for_it():
    now = on("llama3:8b", 24, low_vram=True)
    assert now.settings.kv_on_host
    assert (now.account.kv_bytes, now.verdict, now.remarks) == (0, "partial", ())
    before = on("llama3:8b", 24, low_vram=True, version="0.24.0")
    assert not before.settings.kv_on_host
    assert "ignores low_vram" in before.remarks[0]


def test_the_cache_goes_to_the_host_last_and_layers_come_back():
    order = ("gpu_layers", "kv_on_host")
    wishes = {"context": 131072, "gpu_layers_at_least": 30, "order": order}
    choice = on("llama3.1:8b", 10, **wishes)
    assert choice.settings.kv_on_host
    assert choice.account.layers >= 30
    assert on("llama3.1:8b", 10, **{**wishes, "gpu_layers_at_least": 10}).settings.kv_on_host is False
    with pytest.raises(DoesNotFit):
        on("llama3.1:8b", 10, **wishes, version="0.24.0")


def test_small_caches_need_flash_attention():
    with pytest.raises(UsageError, match="flash attention"):
        on("llama2:7b", 24, kv_cache="q8_0", flash_attention=False)
    choice = on("llama2:7b", 24, kv_cache="q8_0", version="0.24.0")
    assert choice.settings.flash_attention
    assert on("llama2:7b", 24, version="0.24.0").settings.flash_attention is False
    less = {"context": 32768, "kv_cache_at_least": "q4_0", "order": ("kv_cache",)}
    assert on("llama3.1:8b", 8, **less, version="0.24.0").settings.kv_cache == "q8_0"
    with pytest.raises(DoesNotFit):
        on("llama3.1:8b", 8, **less, version="0.4.9")
    with pytest.raises(DoesNotFit):
        on("llama3.1:8b", 8, **less, flash_attention=False)


def test_what_the_model_and_ollama_decide():
    trained = on("llama3:8b", 24, context=65536)
    assert trained.settings.context == 8192
    assert "trained" in trained.remarks[0]
    one_slot = on("nomic-embed-text", 24, context=2048, parallel=4)
    assert one_slot.settings.parallel == 1
    assert "one slot" in one_slot.remarks[0]


def test_without_a_card_everything_is_on_the_host():
    choice = choose([("a", find_model("llama3.1:70b"))], Wishes(context=4096), [])
    assert (choice.verdict, choice.account.total_gpu_bytes) == ("cpu", 0)


def test_a_model_on_two_cards():
    wishes = Wishes(context=8192)
    choice = choose([("a", find_model("llama3.1:70b"))], wishes, [card(24), card(24)])
    assert choice.verdict == "full"
    assert all(size <= 24 * GIB for size in choice.account.per_card)
    uneven = choose([("a", find_model("llama3.1:70b"))], wishes, [card(34), card(16)])
    assert uneven.account.per_card[0] > uneven.account.per_card[1]


# ------------------------------------------------------------------------------- for all of them
TAGS = [
    "llama2:13b", "llama3.1:8b", "gemma3:4b", "gemma2:27b", "qwen3:30b", "gpt-oss:20b", "phi4", "mixtral",
    "llama3.2:1b", "nomic-embed-text",
]  # fmt: skip
asked = st.builds(
    Wishes,
    context=st.integers(256, 131072),
    context_at_least=st.one_of(st.none(), st.integers(256, 8192)),
    parallel=st.integers(1, 6),
    batch=st.one_of(st.none(), st.sampled_from([128, 512, 2048])),
    kv_cache=st.one_of(st.none(), st.sampled_from(["f16", "q8_0"])),
    kv_cache_at_least=st.one_of(st.none(), st.sampled_from(["f16", "q8_0", "q4_0"])),
    gpu_layers_at_least=st.one_of(st.none(), st.integers(0, 30)),
    low_vram=st.booleans(),
    flash_attention=st.sampled_from([None, True]),
    version=st.sampled_from(["0.9.0", "0.24.0", "0.32.15"]),
    order=st.one_of(st.none(), st.permutations(ORDER).map(tuple), st.just(())),
)
bundles = st.lists(st.sampled_from(TAGS), min_size=1, max_size=2).map(
    lambda tags: [(tag, find_model(tag)) for tag in tags]
)


def rung_of(candidates, wishes, room):
    """The height of the choice: its place on the whole ladder; None where nothing fits."""
    try:
        choice = choose(candidates, wishes, [room])
    except DoesNotFit:
        return None
    rungs = [(r.candidate, r.settings) for r in ladder(candidates, wishes)]
    assert choice.account.per_card[0] <= room.free
    return rungs.index((choice.candidate, choice.settings))


@settings(max_examples=250, deadline=None)
@given(bundles, asked, st.integers(1, 96), st.integers(0, 48))
def test_more_vram_never_gives_a_lower_rung(candidates, wishes, gib, more):
    low, high = (rung_of(candidates, wishes, card(size)) for size in (gib, gib + more))
    if low is not None:
        assert high is not None
        assert high <= low


@settings(max_examples=150, deadline=None)
@given(bundles, asked, st.integers(1, 96))
def test_the_ladder_stops_at_the_first_rung_that_fits(candidates, wishes, gib):
    height = rung_of(candidates, wishes, card(gib))
    needs = [account(candidates[r.candidate][1], r.settings).per_card[0] for r in ladder(candidates, wishes)]
    fitting = [place for place, need in enumerate(needs) if need <= gib * GIB]
    assert height == (fitting[0] if fitting else None)


@settings(max_examples=150, deadline=None)
@given(bundles, asked, st.integers(1, 96))
def test_no_bound_is_passed_and_savings_add_up(candidates, wishes, gib):
    try:
        choice = choose(candidates, wishes, [card(gib)])
    except DoesNotFit:
        assume(False)
        return
    chosen, shape = choice.settings, candidates[choice.candidate][1]
    least = wishes.context_at_least if wishes.context_at_least is not None else wishes.context
    assert chosen.context >= min(least, wishes.context, shape.context_train)
    if chosen.batch is not None and chosen.batch != wishes.batch:
        assert chosen.batch >= wishes.batch_at_least
    types = ["q4_0", "q8_0", "f16"]
    floor = wishes.kv_cache_at_least or wishes.kv_cache or "q8_0"
    assert types.index(chosen.kv_cache) >= min(types.index(floor), types.index(wishes.kv_cache or "f16"))
    if wishes.gpu_layers_at_least is None:
        assert choice.account.layers == choice.account.layers_total
    else:
        assert choice.account.layers >= min(wishes.gpu_layers_at_least, choice.account.layers_total)
    first = next(iter(ladder(candidates, wishes)))
    wished = account(candidates[0][1], first.settings).total_gpu_bytes
    assert sum(c.saved_bytes for c in choice.concessions) == wished - choice.account.total_gpu_bytes
