"""Each concession by itself: what it changed, what it saved, and what it costs, in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..catalog.shape import ModelShape
from .compute import auto_batch
from .model import Concession, Settings

_COSTS = {
    "quantisation": "answers lose some precision",
    "kv_cache": "answers lose a little precision; long contexts run a few percent slower",
    "context": "prompts and answers longer than this are cut",
    "batch": "prompts are read in more steps: the first token comes later",
    "experts": "each token waits for experts computed on the host",
    "gpu_layers": "layers on the host run at the speed of its memory",
    "kv_on_host": "attention crosses the bus: far slower the longer the context",
}


def concessions_of(
    candidates: Sequence[tuple[str, ModelShape]],
    top: int,
    wished: Settings,
    chosen: int,
    settings: Settings,
    total: Callable[[int, Settings], int],
) -> tuple[Concession, ...]:
    """The steps between two configurations, in the order of the ladder; savings add up to the difference."""
    steps: list[Concession] = []
    at, before = wished, total(top, wished)
    candidate = top

    def step(what: str, old: str, new: str, after: Settings) -> None:
        nonlocal at, before
        at = after
        now = total(candidate, at)
        steps.append(Concession(what, old, new, before - now, _COSTS[what]))
        before = now

    if chosen != top:
        candidate = chosen
        step("quantisation", candidates[top][1].quant, candidates[chosen][1].quant, at)
    if settings.kv_cache != at.kv_cache:
        after = replace(at, kv_cache=settings.kv_cache, flash_attention=settings.flash_attention)
        step("kv_cache", at.kv_cache, settings.kv_cache, after)
    if settings.context != at.context:
        step("context", str(at.context), str(settings.context), replace(at, context=settings.context))
    if settings.batch != at.batch:
        old = at.batch if at.batch is not None else auto_batch(at)
        step("batch", str(old), str(settings.batch), replace(at, batch=settings.batch))
    _host_steps(step, candidates[chosen][1], wished, settings, lambda: at)
    return tuple(steps)


def _host_steps(
    step: Callable[[str, str, str, Settings], None],
    shape: ModelShape,
    wished: Settings,
    settings: Settings,
    at: Callable[[], Settings],
) -> None:
    """The concessions that move something into host memory."""
    if settings.experts_on_host != wished.experts_on_host:
        after = replace(at(), experts_on_host=settings.experts_on_host)
        step(
            "experts",
            "on the card",
            f"{settings.experts_on_host} of {shape.blocks} layers' on the host",
            after,
        )
    if settings.gpu_layers != wished.gpu_layers:
        after = replace(at(), gpu_layers=settings.gpu_layers)
        step("gpu_layers", str(shape.layers), f"{settings.gpu_layers} of {shape.layers}", after)
    if settings.kv_on_host != wished.kv_on_host:
        step("kv_on_host", "on the card", "in host memory", replace(at(), kv_on_host=True))
