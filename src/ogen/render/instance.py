"""The unit of one Ollama instance: its card, its environment for the era, who may talk to it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..catalog.versions import Era, era
from ..errors import RenderError
from ..inventory.model import Gpu, Host
from ..plan.model import Instance
from ..release.model import ModelBuild
from .services import AUTOFIT, interpreter

MIB = 1024 * 1024
FIT_MARGIN = 1024  # MiB that llama.cpp leaves free on each card unless told otherwise
OWN = frozenset(
    {"HOME", "OGEN_MODELS", "OGEN_RUNGS", "OGEN_UNIT_HASH", "OLLAMA_HOST", "OLLAMA_MODELS", "OLLAMA_NOPRUNE"}
)
_DEVICES = {"nvidia": ("char-nvidia*",), "amd": ("/dev/kfd", "char-drm")}


def unit_values(
    host: Host, instance: Instance, builds: tuple[ModelBuild, ...], allowed: tuple[str, ...]
) -> dict[str, object]:
    """What the template `ollama.service.j2` needs; `allowed`: addresses of balancers on other hosts."""
    vendors = sorted({gpu.vendor for gpu in instance.gpus})
    name = instance.name
    return {
        "name": name,
        "host": host.name,
        "about": _about(instance),
        "binary": host.ollama.program,
        "user": host.ollama.user,
        "group": host.ollama.group,
        "groups": ("render", "video") if "amd" in vendors else (),
        "home": f"/var/lib/ogen/{name}",
        "state": f"ogen/{name}",
        "runtime": f"ogen-{name}",
        "blobs": host.ollama.models_dir.rstrip("/") + "/blobs",
        "manifests": f"{AUTOFIT}/{name}/manifests"
        if instance.rungs
        else f"/etc/ogen/current/instances/{name}/manifests",
        "autofit": f"{AUTOFIT}/{name}" if instance.rungs else "",
        "python": interpreter(host),
        "models": len(builds),
        "cards": "nvidia" in vendors,
        "preload": any(p.model.residency == "resident" for p in instance.placements),
        "environment": [f"{k}={v}" for k, v in environment(host, instance, builds, allowed).items()],
        "protect_home": protect_home(host.ollama.program),
        "devices": [device for vendor in vendors for device in _DEVICES[vendor]],
        "allowed": allowed,
    }


def _about(instance: Instance) -> str:
    cards = ", ".join(f"GPU {gpu.index} ({gpu.model})" for gpu in instance.gpus) or "no card"
    models = ", ".join(p.model.name for p in instance.placements) or "no model"
    return f"{cards}; serves {models}"


def protect_home(binary: str) -> str:
    """Home folders are hidden, unless the program itself lies in one."""
    return "read-only" if binary.startswith(("/home/", "/root/")) else "yes"


def environment(
    host: Host, instance: Instance, builds: tuple[ModelBuild, ...], allowed: tuple[str, ...]
) -> dict[str, str]:
    """The instance's variables in a fixed order; the inventory's own `env` comes last and wins."""
    age = era(host.ollama.version)
    values = {
        "HOME": f"/var/lib/ogen/{instance.name}",
        "CUDA_CACHE_PATH": f"/var/lib/ogen/{instance.name}/cuda",
        "OLLAMA_HOST": f"{_bind(allowed)}:{instance.port}",
        "OLLAMA_MODELS": f"/run/ogen-{instance.name}/models",
        "OLLAMA_NOPRUNE": "1",
    }
    values |= _cards(instance.gpus, age)
    values |= _server(host, instance, age)
    if age is Era.C:
        values |= _engine(instance)
    for name, value in sorted({**host.ollama.env, **host.env, **instance.env}.items()):
        if name in OWN:
            raise RenderError(f"{name} is ogen's own", where=instance.where, hint="leave it out of `env`")
        values[name] = value
    values["OGEN_MODELS"] = " ".join(build.name for build in builds)
    return values


def _bind(allowed: tuple[str, ...]) -> str:
    """Loopback, unless a balancer on another host must get through (then the unit admits it alone)."""
    if not allowed:
        return "127.0.0.1"
    return "[::]" if any(":" in address for address in allowed) else "0.0.0.0"  # noqa: S104


def _cards(gpus: tuple[Gpu, ...], age: Era) -> dict[str, str]:
    """The cards that the instance may see, by UUID where all are known.

    Without OLLAMA_VULKAN=0 a card that CUDA hides can come back as a Vulkan device (eras B and C).
    """
    known = all(gpu.uuid for gpu in gpus)
    tokens = ",".join(str(gpu.uuid) if known else str(gpu.index) for gpu in gpus)
    values: dict[str, str] = {}
    if not gpus:
        values = {"CUDA_VISIBLE_DEVICES": "-1", "ROCR_VISIBLE_DEVICES": "-1"}
    elif gpus[0].vendor == "amd":
        values = {"ROCR_VISIBLE_DEVICES": tokens}
    else:
        values = {"CUDA_VISIBLE_DEVICES": tokens}
        if not known:
            values["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # indexes are nvidia-smi's
    if age is not Era.A:
        values["OLLAMA_VULKAN"] = "0"
    return values


def _server(host: Host, instance: Instance, age: Era) -> dict[str, str]:
    """Settings of the server that all eras have, and their conditions."""
    server, ollama = instance.server, host.ollama
    quantised = server.kv_cache not in (None, "f16")
    flash = True if quantised else server.flash_attention  # a quantised cache works with it only
    reserve = max(_reserves(instance), default=0)
    values: dict[str, str | None] = {
        "OLLAMA_CONTEXT_LENGTH": str(server.context),
        "OLLAMA_NUM_PARALLEL": str(server.parallel),
        "OLLAMA_MAX_LOADED_MODELS": str(server.max_loaded_models),
        "OLLAMA_KEEP_ALIVE": server.keep_alive,
        "OLLAMA_LOAD_TIMEOUT": ollama.load_timeout,
        "OLLAMA_MAX_QUEUE": None if ollama.max_queue is None else str(ollama.max_queue),
        "OLLAMA_FLASH_ATTENTION": None if flash is None else str(int(flash)),
        "OLLAMA_KV_CACHE_TYPE": server.kv_cache,
        "OLLAMA_SCHED_SPREAD": "1" if len(instance.gpus) > 1 else None,
        "OLLAMA_GPU_OVERHEAD": str(reserve) if reserve and age is not Era.C else None,
        "OLLAMA_NO_CLOUD": "1" if age is Era.C else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _reserves(instance: Instance) -> tuple[int, ...]:
    """What the engine leaves to others on each card; with autofit nothing: the host sees what they take."""
    return () if instance.rungs else tuple(gpu.reserve for gpu in instance.gpus)


def _engine(instance: Instance) -> dict[str, str]:
    """Levers of llama-server, which era C starts with the unit's environment."""
    server = instance.server
    reserves = [math.ceil(reserve / MIB) for reserve in _reserves(instance)]
    values = {}
    if any(reserves):
        values["LLAMA_ARG_FIT_TARGET"] = ",".join(str(FIT_MARGIN + reserve) for reserve in reserves)
    if server.kv_on_host:
        values["LLAMA_ARG_KV_OFFLOAD"] = "0"
    if server.experts_on_host:
        values["LLAMA_ARG_N_CPU_MOE"] = str(server.experts_on_host)
    if server.split is not None and len(instance.gpus) > 1:
        values["LLAMA_ARG_SPLIT_MODE"] = server.split
    if server.shares and len(instance.gpus) > 1:
        values["LLAMA_ARG_TENSOR_SPLIT"] = ",".join(f"{share:g}" for share in server.shares)
    return values


def librarian_values(host: Host) -> Mapping[str, object]:
    """What the template `librarian.service.j2` needs: no card, the whole store, loopback only."""
    ollama = host.ollama
    values = {
        "HOME": "/var/lib/ogen/librarian",
        "OLLAMA_HOST": f"127.0.0.1:{ollama.librarian_port}",
        "OLLAMA_MODELS": ollama.models_dir,
        "OLLAMA_NOPRUNE": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
        "ROCR_VISIBLE_DEVICES": "-1",
    }
    if era(ollama.version) is not Era.A:
        values["OLLAMA_VULKAN"] = "0"
    proxies = {name: value for name, value in sorted(ollama.env.items()) if name.lower().endswith("_proxy")}
    return {
        "binary": ollama.program,
        "user": ollama.user,
        "group": ollama.group,
        "models_dir": ollama.models_dir,
        "environment": [f"{name}={value}" for name, value in {**values, **proxies}.items()],
        "protect_home": protect_home(ollama.program),
    }
