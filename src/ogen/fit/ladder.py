"""The ladder of concessions: complete configurations from the one wished down to the least allowed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..catalog.shape import ModelShape
from ..catalog.versions import Era, at_least, era
from ..errors import UsageError
from .account import account
from .cache import CACHE_TYPES
from .compute import auto_batch
from .costs import concessions_of
from .model import Account, Card, KvType, Settings, Verdict
from .wishes import ORDER, Choice, DoesNotFit, Wishes

#: a batch below this makes the engine compute prompts on the host
SMALLEST_BATCH = 32
_TO_HOST = ("experts", "gpu_layers", "kv_on_host")
_LEAST_CONTEXT = 2048  # below this nobody is helped
_STEP = 256  # the cache is padded to this many tokens


@dataclass(frozen=True, slots=True)
class Rung:
    """One complete configuration: a candidate and its settings."""

    candidate: int
    settings: Settings


def choose(candidates: Sequence[tuple[str, ModelShape]], wishes: Wishes, cards: Sequence[Card]) -> Choice:
    """The first rung of the ladder that fits on `cards`; raises DoesNotFit.

    `candidates` are (source, shape), best quantisation first. Without a card the wished settings are taken
    as they are, on the host.
    """
    if not candidates:
        raise UsageError("no candidate to choose from")
    if wishes.num_gpu is not None and wishes.num_gpu < 0:
        wishes = replace(wishes, num_gpu=None)  # Ollama's own word for automatic
    shares = _shares(wishes, cards)
    rungs = list(ladder(candidates, wishes)) if cards else [_top(candidates, wishes)]
    for rung in rungs:
        need = _account(candidates, rung, cards, shares)
        if _fits(need, cards):
            return _choice(candidates, wishes, rungs[0], rung, need, cards, shares)
    raise _does_not_fit(candidates, wishes, rungs, cards, shares)


def below(
    candidates: Sequence[tuple[str, ModelShape]],
    wishes: Wishes,
    cards: Sequence[Card],
    candidate: int,
    settings: Settings,
) -> tuple[Choice, ...]:
    """The rungs below one of the ladder, best first, whether they fit on `cards` or not."""
    if wishes.num_gpu is not None and wishes.num_gpu < 0:
        wishes = replace(wishes, num_gpu=None)
    shares, rungs = _shares(wishes, cards), list(ladder(candidates, wishes))
    start = Rung(candidate, settings)
    lower = rungs[rungs.index(start) + 1 :] if start in rungs else []
    return tuple(
        _choice(candidates, wishes, rungs[0], rung, _account(candidates, rung, cards, shares), cards, shares)
        for rung in lower
    )


def ladder(candidates: Sequence[tuple[str, ModelShape]], wishes: Wishes) -> Iterator[Rung]:
    """All rungs, best first. It does not depend on the cards: so more room never gives a lower rung."""
    rung = _top(candidates, wishes)
    yield rung
    rungs = [rung]
    for what in _order(wishes):
        if what == "kv_on_host" and any(r.settings.gpu_layers is not None for r in rungs):
            rung = _with(rung, gpu_layers=wishes.num_gpu)
        for lower in _levels(what, candidates, wishes, rung):
            rungs.append(lower)
            yield lower
            rung = lower
        if what == "kv_on_host" and rung.settings.kv_on_host and "gpu_layers" in _order(wishes):
            yield from _levels("gpu_layers", candidates, wishes, rung)


def _order(wishes: Wishes) -> tuple[str, ...]:
    order = ORDER if wishes.order is None else wishes.order
    for what in order:
        if what not in ORDER:
            raise UsageError(f"no concession called {what!r}", hint=f"known: {', '.join(ORDER)}")
    if wishes.order is None and wishes.gpu_layers_at_least is None:
        return tuple(what for what in order if what not in _TO_HOST)
    return tuple(dict.fromkeys(order))


def _top(candidates: Sequence[tuple[str, ModelShape]], wishes: Wishes) -> Rung:
    return Rung(0, wished_settings(candidates[0][1], wishes))


def wished_settings(shape: ModelShape, wishes: Wishes) -> Settings:
    """The settings as wished, as far as the model and the version of Ollama can do it."""
    kv_cache = wishes.kv_cache or "f16"
    flash = flash_attention(wishes)
    if kv_cache != "f16" and not flash:
        if wishes.flash_attention is False:
            raise UsageError(
                f"a {kv_cache} cache needs flash attention",
                hint="allow flash attention or take kv_cache: f16",
            )
        flash = True
    return Settings(
        context=_trained(shape, wishes.context),
        parallel=1 if shape.single_slot else max(1, wishes.parallel),
        batch=wishes.batch,
        kv_cache=kv_cache,
        flash_attention=flash,
        gpu_layers=wishes.num_gpu,
        kv_on_host=wishes.low_vram and era(wishes.version) is Era.C,
        version=wishes.version,
        backend=wishes.backend,
        split=wishes.split,
        margin=wishes.margin,
    )


def flash_attention(wishes: Wishes) -> bool:
    """Whether flash attention is on: from era C on by itself, earlier only where asked for."""
    if wishes.flash_attention is not None:
        return wishes.flash_attention
    return era(wishes.version) is Era.C


def _trained(shape: ModelShape, context: int) -> int:
    """Ollama never starts an engine with more context than the model was trained for."""
    return min(context, shape.context_train) if shape.context_train else context


def _with(rung: Rung, **changes: object) -> Rung:
    return Rung(rung.candidate, replace(rung.settings, **changes))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ levels
def _levels(
    what: str, candidates: Sequence[tuple[str, ModelShape]], wishes: Wishes, rung: Rung
) -> Iterator[Rung]:
    """The lower levels of one concession, from `rung` on."""
    settings = rung.settings
    if what == "quantisation":
        # what was cut to the training of one candidate is no concession: the next one may be trained for more
        whole = settings.context == _trained(candidates[rung.candidate][1], wishes.context)
        context = wishes.context if whole else settings.context
        for index in range(rung.candidate + 1, len(candidates)):
            yield Rung(index, replace(settings, context=_trained(candidates[index][1], context)))
    elif what == "kv_cache":
        for kind in _cache_levels(wishes, settings):
            yield _with(rung, kv_cache=kind, flash_attention=True)
    elif what == "context":
        for context in _contexts(settings.context, wishes.context_at_least):
            yield _with(rung, context=context)
    elif what == "batch":
        for batch in _batches(wishes, settings):
            yield _with(rung, batch=batch)
    else:
        yield from _host_levels(what, candidates[rung.candidate][1], wishes, rung)


def _host_levels(what: str, shape: ModelShape, wishes: Wishes, rung: Rung) -> Iterator[Rung]:
    """Levels that move something into host memory; experts and cache only where the engine can (era C)."""
    in_era_c = era(wishes.version) is Era.C
    if what == "experts" and shape.is_moe and in_era_c:
        for count in range(1, shape.blocks + 1):
            yield _with(rung, experts_on_host=count)
    elif what == "gpu_layers" and wishes.num_gpu is None and wishes.gpu_layers_at_least is not None:
        for layers in range(shape.layers - 1, max(0, wishes.gpu_layers_at_least) - 1, -1):
            yield _with(rung, gpu_layers=layers)
    elif what == "kv_on_host" and in_era_c and not rung.settings.kv_on_host:
        yield _with(rung, kv_on_host=True)


def _cache_levels(wishes: Wishes, settings: Settings) -> tuple[KvType, ...]:
    """Smaller cache types: they need flash attention, and Ollama 0.5.0."""
    if wishes.flash_attention is False or not at_least(wishes.version, "0.5.0"):
        return ()
    lowest = wishes.kv_cache_at_least or wishes.kv_cache or "q8_0"
    start, end = CACHE_TYPES.index(settings.kv_cache), CACHE_TYPES.index(lowest)
    return CACHE_TYPES[start + 1 : end + 1]


def _contexts(want: int, least: int | None) -> Iterator[int]:
    """Contexts between the wanted and the least: steps of an eighth of the wanted, in multiples of 256."""
    if least is None or least >= want:
        return
    before = want
    for eighths in range(7, 0, -1):
        context = -(-want * eighths // 8 // _STEP) * _STEP
        if least < context < before:
            before = context
            yield context
    lower = before // 2
    while lower > least:
        yield max(_STEP, lower // _STEP * _STEP)
        lower //= 2
    yield least


def _batches(wishes: Wishes, settings: Settings) -> Iterator[int]:
    batch = settings.batch if settings.batch is not None else auto_batch(settings)
    least = max(SMALLEST_BATCH, wishes.batch_at_least)
    while batch // 2 >= least:
        batch //= 2
        yield batch


# ------------------------------------------------------------------------------------------ results
def _shares(wishes: Wishes, cards: Sequence[Card]) -> tuple[float, ...]:
    """How the cards share a model: as asked, else by their free memory as llama.cpp does."""
    return wishes.shares or tuple(float(card.free) for card in cards)


def _account(
    candidates: Sequence[tuple[str, ModelShape]], rung: Rung, cards: Sequence[Card], shares: tuple[float, ...]
) -> Account:
    return account(candidates[rung.candidate][1], rung.settings, cards=len(cards), shares=shares)


def _fits(need: Account, cards: Sequence[Card]) -> bool:
    return all(bytes_ <= card.free for bytes_, card in zip(need.per_card, cards, strict=True))


def verdict_of(need: Account, settings: Settings) -> Verdict:
    """full: nothing but the token embedding is on the host."""
    if need.layers == 0:
        return "cpu"
    partial = need.layers < need.layers_total or settings.kv_on_host or settings.experts_on_host
    return "partial" if partial else "full"


def _choice(
    candidates: Sequence[tuple[str, ModelShape]],
    wishes: Wishes,
    top: Rung,
    rung: Rung,
    need: Account,
    cards: Sequence[Card],
    shares: tuple[float, ...],
) -> Choice:
    def total(candidate: int, settings: Settings) -> int:
        return _account(candidates, Rung(candidate, settings), cards, shares).total_gpu_bytes

    num_gpu = wishes.num_gpu
    if rung.settings.experts_on_host and need.layers < need.layers_total:
        num_gpu = need.layers  # llama.cpp's fit steps aside once experts are placed by hand
    return Choice(
        rung.candidate,
        candidates[rung.candidate][0],
        rung.settings,
        need,
        verdict_of(need, rung.settings),
        concessions_of(candidates, top.candidate, top.settings, rung.candidate, rung.settings, total),
        num_gpu,
        _remarks(candidates[rung.candidate][1], wishes, rung.settings),
    )


def _remarks(shape: ModelShape, wishes: Wishes, settings: Settings) -> tuple[str, ...]:
    remarks = []
    if shape.single_slot and wishes.parallel > 1:
        remarks.append(
            f"Ollama serves {shape.arch} models with one slot: parallel {wishes.parallel} becomes 1"
        )
    if wishes.low_vram and not settings.kv_on_host:
        remarks.append(f"Ollama {wishes.version} ignores low_vram: the cache stays on the card")
    if settings.context < wishes.context and settings.context == shape.context_train:
        remarks.append(f"the model was trained for a context of {shape.context_train}: it gets no more")
    return tuple(remarks)


def _does_not_fit(
    candidates: Sequence[tuple[str, ModelShape]],
    wishes: Wishes,
    rungs: Sequence[Rung],
    cards: Sequence[Card],
    shares: tuple[float, ...],
) -> DoesNotFit:
    def missing(rung: Rung) -> int:
        need = _account(candidates, rung, cards, shares)
        return sum(max(0, b - card.free) for b, card in zip(need.per_card, cards, strict=True))

    least = min(rungs, key=missing)
    lacking = missing(least)
    name = candidates[least.candidate][1].name
    nearest = _nearest(candidates, wishes, cards, lacking)
    return DoesNotFit(
        f"{name} does not fit: {lacking / 2**30:.2f} GiB are missing with the least that is allowed",
        missing_bytes=lacking,
        nearest=nearest,
    )


def _nearest(
    candidates: Sequence[tuple[str, ModelShape]], wishes: Wishes, cards: Sequence[Card], lacking: int
) -> str:
    """The smallest loosening of the bounds that would do, in words."""
    given = _order(wishes)
    on_card = tuple(what for what in ORDER if what in given or what not in _TO_HOST)
    context = min(_LEAST_CONTEXT, wishes.context, wishes.context_at_least or wishes.context)
    looser = (
        replace(wishes, order=on_card, kv_cache_at_least="q4_0"),
        replace(wishes, order=on_card, context_at_least=context),
        replace(wishes, order=on_card, kv_cache_at_least="q4_0", context_at_least=context),
        replace(wishes, order=ORDER, gpu_layers_at_least=1, context_at_least=context),
    )
    for wish in looser:
        shares, rungs = _shares(wish, cards), list(ladder(candidates, wish))
        for rung in rungs:
            need = _account(candidates, rung, cards, shares)
            if _fits(need, cards):
                made = _choice(candidates, wish, rungs[0], rung, need, cards, shares).concessions
                return "allow " + ", ".join(f"{c.what} {c.after}" for c in made)
    room = max(card.free for card in cards) + lacking
    return f"take a card with {room / 2**30:.1f} GiB or a smaller model"
