"""Where a setting goes: into the Modelfile, or into the environment of the server's unit."""

from __future__ import annotations

from ..catalog.versions import Era, era
from .model import Settings


def modelfile_parameters(settings: Settings, num_gpu: int | None) -> dict[str, int]:
    """PARAMETER lines: settings of the model. What the engine chooses by itself stays out."""
    values = {"num_ctx": settings.context, "num_batch": settings.batch, "num_gpu": num_gpu}
    return {name: value for name, value in values.items() if value is not None}


def unit_environment(settings: Settings, cards: int = 1, shares: tuple[float, ...] = ()) -> dict[str, str]:
    """Environment of the unit: settings of the server, the same for all of its models.

    Ollama from 0.30 on starts llama-server with its own environment, which takes LLAMA_ARG_* for whatever
    has no option on the command line; earlier versions have no such levers.
    """
    values = {
        "OLLAMA_CONTEXT_LENGTH": str(settings.context),
        "OLLAMA_NUM_PARALLEL": str(settings.parallel),
        "OLLAMA_FLASH_ATTENTION": "1" if settings.flash_attention else "0",
    }
    if settings.kv_cache != "f16":
        values["OLLAMA_KV_CACHE_TYPE"] = settings.kv_cache
    if cards > 1:
        values["OLLAMA_SCHED_SPREAD"] = "1"
    if era(settings.version) is Era.C:
        values.update(_levers(settings, cards, shares))
    return values


def _levers(settings: Settings, cards: int, shares: tuple[float, ...]) -> dict[str, str]:
    values = {}
    if settings.margin is not None:
        values["LLAMA_ARG_FIT_TARGET"] = str(-(-settings.margin // 2**20))
    if settings.kv_on_host:
        values["LLAMA_ARG_KV_OFFLOAD"] = "0"
    if settings.experts_on_host:
        values["LLAMA_ARG_N_CPU_MOE"] = str(settings.experts_on_host)
    if cards > 1 and settings.split != "layer":
        values["LLAMA_ARG_SPLIT_MODE"] = settings.split
    if cards > 1 and shares:
        values["LLAMA_ARG_TENSOR_SPLIT"] = ",".join(f"{share:g}" for share in shares)
    return values
