"""Asks `ogen.fit` for the best configuration of a model on given cards, once per kind of question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..catalog import Era, era
from ..catalog.shape import ModelShape
from ..fit import (
    ORDER,
    Account,
    Backend,
    Card,
    Choice,
    Concession,
    DoesNotFit,
    Settings,
    Verdict,
    Wishes,
    below,
    choose,
)
from ..fit.account import margin
from ..inventory.model import Gpu, Host, Model, Pin, Source

#: sources of a model, best first, each with its shape
Candidates = tuple[tuple[Source, ModelShape], ...]
_TO_HOST = frozenset({"experts", "gpu_layers", "kv_on_host"})
_SERVER = frozenset({"kv_cache", "experts", "kv_on_host"})  # concessions that are the server's settings
_BACKENDS: Mapping[str, Backend] = {"nvidia": "cuda", "amd": "rocm"}


@dataclass(frozen=True, slots=True)
class Fit:
    """A configuration of a model that fits on certain cards."""

    source: Source
    shape: ModelShape
    settings: Settings
    account: Account
    verdict: Verdict
    concessions: tuple[Concession, ...]
    num_gpu: int | None
    notes: tuple[str, ...]
    margin: int  # bytes of each card's reserve that may be left free by several models together

    @property
    def whole(self) -> bool:
        """Whether no concession moved anything into host memory."""
        return not any(concession.what in _TO_HOST for concession in self.concessions)

    @property
    def rank(self) -> tuple[bool, int, int]:
        """What makes one configuration better than another of the same model; lower is better."""
        saved = sum(concession.saved_bytes for concession in self.concessions)
        return (not self.whole, len(self.concessions), saved)

    @property
    def single_slot(self) -> bool:
        """Whether Ollama serves one request at a time, whatever OLLAMA_NUM_PARALLEL says."""
        return self.shape.single_slot or self.shape.is_embedding

    def held(self, card: int) -> int:
        """Bytes of the `card`-th card that a neighbour can't have: all but the margin, which is for all."""
        return self.account.per_card[card] - self.margin if self.account.per_card else 0


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a model does not fit on certain cards."""

    missing: int  # bytes
    nearest: str  # the nearest change that would do, in words


class Fitter:
    """`fit.choose` for models of one inventory; the answer for equal cards is found once."""

    def __init__(self, candidates: Mapping[str, Candidates]) -> None:
        self.candidates = candidates
        self._known: dict[tuple[object, ...], Fit | Misfit] = {}
        self._below: dict[tuple[object, ...], tuple[Fit, ...]] = {}
        self._least: dict[tuple[object, ...], int] = {}

    def is_embedding(self, model: Model) -> bool:
        """Whether the inventory or the family says that the model makes embeddings."""
        return model.embedding or any(shape.is_embedding for _, shape in self.candidates[model.name])

    def fit(
        self, model: Model, host: Host, gpus: Sequence[Gpu], used: int = 0, pin: Pin | None = None
    ) -> Fit | Misfit:
        """The best configuration on `gpus`, of which others hold `used` bytes each; no card: the CPU."""
        return self._ask(model, host, gpus, used, pin, False)

    def fit_whole(
        self, model: Model, host: Host, gpu: Gpu, used: int, pin: Pin | None = None
    ) -> Fit | Misfit:
        """The best configuration beside others that concedes nothing to host memory: what is left free
        there an engine would fill with layers, and its neighbours count on it.
        """
        return self._ask(model, host, (gpu,), used, pin, True)

    def _ask(
        self, model: Model, host: Host, gpus: Sequence[Gpu], used: int, pin: Pin | None, whole: bool
    ) -> Fit | Misfit:
        cards = tuple((gpu.vendor, gpu.vram, gpu.vram - gpu.reserve - used) for gpu in gpus)
        key = (model.name, host_key(host), cards, _pin_key(pin), whole)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._choose(model, host, cards, pin, whole)
        return found

    def below(
        self, seat: tuple[Model, Host, Sequence[Gpu], Pin | None], fit: Fit, whole: bool, still: bool
    ) -> tuple[Fit, ...]:
        """What `fit` can be lowered to, best first; with `whole` nothing goes to host memory, with `still`
        nothing changes that the server must be restarted for."""
        model, host, gpus, pin = seat
        cards = tuple((gpu.vendor, gpu.vram, gpu.reserve) for gpu in gpus)
        key = (model.name, host_key(host), cards, _pin_key(pin), fit.source, fit.settings, whole, still)
        if key not in self._below:
            self._below[key] = self._lower(seat, fit, whole, still)
        return self._below[key]

    def _lower(
        self, seat: tuple[Model, Host, Sequence[Gpu], Pin | None], fit: Fit, whole: bool, still: bool
    ) -> tuple[Fit, ...]:
        model, host, gpus, pin = seat
        wishes = _asked(wishes_of(model, host, gpus[0].vendor, pin, len(gpus)), whole)
        candidates = self.candidates[model.name]
        at = next(number for number, (source, _) in enumerate(candidates) if source == fit.source)
        if still:
            candidates, at, wishes = candidates[at:], 0, _standing(wishes, fit)
        named = [(source.ref, shape) for source, shape in candidates]
        room = [Card(gpu.vram, gpu.vram - gpu.reserve) for gpu in gpus]
        found = below(named, wishes, room, at, fit.settings)
        return tuple(_fit(candidates, choice, wishes) for choice in found)

    def least(self, model: Model, host: Host, gpu: Gpu, pin: Pin | None = None) -> int:
        """Bytes that the least configuration beside others holds on a card like `gpu`, margin apart."""
        key = (model.name, host_key(host), gpu.vendor, gpu.vram, _pin_key(pin))
        if key not in self._least:
            found = self._choose(model, host, ((gpu.vendor, gpu.vram, 0),), pin, True)
            spare = margin(host.ollama.version)
            self._least[key] = found.missing - spare if isinstance(found, Misfit) else found.held(0)
        return self._least[key]

    def floor(self, model: Model, host: Host, gpu: Gpu) -> int:
        """Bytes below which no group of cards holds `model`, told without asking for each group."""
        spills = model.gpu_layers_at_least is not None or model.num_gpu is not None or model.low_vram
        if spills or any(what in _TO_HOST for what in model.concessions or ()):
            return 0
        return self.least(model, host, gpu)

    def _choose(
        self, model: Model, host: Host, cards: tuple[tuple[str, int, int], ...], pin: Pin | None, whole: bool
    ) -> Fit | Misfit:
        candidates = self.candidates[model.name]
        wishes = wishes_of(model, host, cards[0][0] if cards else "nvidia", pin, len(cards))
        wishes = _asked(wishes, whole)
        room = [Card(total, max(0, free)) for _, total, free in cards]
        try:
            choice = choose([(source.ref, shape) for source, shape in candidates], wishes, room)
        except DoesNotFit as problem:
            return Misfit(problem.missing_bytes, problem.nearest)
        return _fit(candidates, choice, wishes)


def _asked(wishes: Wishes, whole: bool) -> Wishes:
    """The wishes; with `whole` those that concede nothing to host memory."""
    if not whole:
        return wishes
    order = tuple(what for what in wishes.order or ORDER if what not in _TO_HOST)
    return replace(wishes, order=order, gpu_layers_at_least=None)


def _standing(wishes: Wishes, fit: Fit) -> Wishes:
    """Wishes whose ladder begins at `fit`, and leaves what is the server's as it is there."""
    order = tuple(what for what in wishes.order or ORDER if what not in _SERVER)
    if wishes.order is None and wishes.gpu_layers_at_least is None:
        order = tuple(what for what in order if what not in _TO_HOST)
    settings = fit.settings
    return replace(
        wishes,
        order=order,
        context=settings.context,
        batch=settings.batch,
        kv_cache=settings.kv_cache,
        flash_attention=settings.flash_attention if settings.kv_cache != "f16" else wishes.flash_attention,
    )


def host_key(host: Host) -> tuple[object, ...]:
    """What of a host a fit depends on."""
    return (host.ollama.version, host.ollama.flash_attention, host.ollama.kv_cache)


def _pin_key(pin: Pin | None) -> tuple[object, ...]:
    return (pin.low_vram, pin.num_gpu, pin.context) if pin else ()


def _fit(candidates: Candidates, choice: Choice, wishes: Wishes) -> Fit:
    source, shape = candidates[choice.candidate]
    return Fit(
        source=source,
        shape=shape,
        settings=choice.settings,
        account=choice.account,
        verdict=choice.verdict,
        concessions=choice.concessions,
        num_gpu=choice.num_gpu,
        notes=choice.remarks,
        margin=margin(wishes.version),
    )


def wishes_of(model: Model, host: Host, vendor: str, pin: Pin | None, cards: int) -> Wishes:
    """What the inventory wishes for `model` on `host`; a pin's words are heard before the model's."""
    context, least = model.context.want, model.context.at_least
    if pin and pin.context is not None:
        context = least = pin.context
    low_vram = model.low_vram if pin is None or pin.low_vram is None else pin.low_vram
    num_gpu = model.num_gpu if pin is None or pin.num_gpu is None else pin.num_gpu
    levers = era(host.ollama.version) is Era.C  # before, Ollama splits by layers and takes no word on it
    return Wishes(
        context=context,
        context_at_least=min(least, context),
        parallel=1 if model.embedding else model.parallel,
        batch=model.batch,
        batch_at_least=model.batch_at_least,
        kv_cache=model.kv_cache or host.ollama.kv_cache,
        kv_cache_at_least=model.kv_cache_at_least,
        num_gpu=num_gpu if cards else 0,
        gpu_layers_at_least=model.gpu_layers_at_least,
        low_vram=low_vram and cards > 0,
        flash_attention=host.ollama.flash_attention,
        version=host.ollama.version,
        backend=_BACKENDS[vendor],
        order=model.concessions,
        split=(model.split or "layer") if levers else "layer",
        shares=model.shares if levers and cards == len(model.shares) else (),
    )


def gib(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.0f} MiB"
