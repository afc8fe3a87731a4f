"""Autofit's part of a release: each instance's rungs, ready-made, for its host to choose from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..inventory.model import Autofit
from ..plan.model import Instance, Placement, Rung
from ..release.model import ModelBuild, canonical
from .draft import CURRENT, Draft
from .instance import environment
from .models import manifest_path, modelfile_values, views
from .services import interpreter

#: variables that only a lower rung has, and what says on the planned one that they are not there
_OFF = {
    "OLLAMA_KV_CACHE_TYPE": "f16",
    "OLLAMA_FLASH_ATTENTION": "",
    "LLAMA_ARG_KV_OFFLOAD": "1",
    "LLAMA_ARG_N_CPU_MOE": "0",
}


def rungs(draft: Draft, instance: Instance, allowed: tuple[str, ...]) -> str:
    """Adds the rungs of an instance to the release; what tells one ladder from another, for the unit."""
    told = []
    for number, rung in enumerate(instance.rungs):
        builds = [draft.build(placement) for placement in rung.placements]
        folder = "manifests" if number == 0 else f"rungs/{number}/manifests"
        if number:
            _models(draft, instance, rung, builds, number)
        told.append(_told(draft, instance, rung, builds, folder, allowed))
    path = f"{CURRENT}/instances/{instance.name}/rungs.json"
    config = {**_instance(draft, instance), "rungs": told}
    draft.add(path, json.dumps(config, indent=1, ensure_ascii=False) + "\n")
    return hashlib.sha256(canonical(config)).hexdigest()[:16]


def _models(draft: Draft, instance: Instance, rung: Rung, builds: list[ModelBuild], number: int) -> None:
    """The models of a lower rung, their manifests beside the planned ones', and Modelfiles for people."""
    draft.builds.update({model.name: model for model in builds})
    for placement, model in zip(rung.placements, builds, strict=True):
        draft.views += views(placement, f"{instance.name}/rungs/{number}", model)
        label = model.name.split("/", 1)[1].rsplit(":", 1)[0]
        text = draft.engine.render("Modelfile.j2", modelfile_values(placement, model), placement.model.where)
        path = f"{CURRENT}/instances/{instance.name}/rungs/{number}/{label}.Modelfile"
        draft.add(path, text, placement.model.where)


def _instance(draft: Draft, instance: Instance) -> dict[str, Any]:
    """What is the same for all rungs."""
    return {
        "instance": instance.name,
        "unit": instance.unit,
        "port": instance.port,
        "server": f"127.0.0.1:{instance.port}",  # as this host's balancers list it
        "vendor": instance.gpus[0].vendor,
        "preload": any(p.model.residency == "resident" for p in instance.placements),
        "cards": [{"gpu": gpu.uuid or str(gpu.index), "reserve": gpu.reserve} for gpu in instance.gpus],
    }


def _told(
    draft: Draft,
    instance: Instance,
    rung: Rung,
    builds: list[ModelBuild],
    folder: str,
    allowed: tuple[str, ...],
) -> dict[str, Any]:
    """One rung as the host reads it."""
    planned = instance.rungs[0]
    variables = _variables(draft, instance, rung, allowed)
    names = [(p, name) for p in rung.placements for name in (p.model.name, *p.model.aliases)]
    return {
        "id": _identity(rung, variables),
        "about": "; ".join(_differences(planned, rung)) or "as planned",
        "need": list(rung.need),
        "env": variables,
        "folder": f"{CURRENT}/instances/{instance.name}/{folder}",
        "manifests": sorted({manifest_path(name) for _, name in names}),
        "models": {
            p.model.name: {"context": p.settings.context, "verdict": p.verdict, "build": build.name}
            for p, build in zip(rung.placements, builds, strict=True)
        },
    }


def _variables(draft: Draft, instance: Instance, rung: Rung, allowed: tuple[str, ...]) -> dict[str, str]:
    """What of the unit's environment is another than on the planned rung."""
    lower = replace(instance, server=rung.server, placements=rung.placements)
    before = environment(draft.host, instance, (), allowed)
    after = environment(draft.host, lower, (), allowed)
    gone = {name: _OFF.get(name, "") for name in before if name not in after}
    return gone | {name: value for name, value in after.items() if before.get(name) != value}


def _identity(rung: Rung, variables: dict[str, str]) -> str:
    """The same for the same settings, whatever else of a model changes: a choice outlives an apply."""
    models = [
        [p.model.name, p.source.ref, p.settings.context, p.settings.batch, p.settings.num_gpu]
        for p in rung.placements
    ]
    return hashlib.sha256(canonical([models, variables])).hexdigest()[:12]


def _differences(planned: Rung, rung: Rung) -> Iterator[str]:
    """What a rung gives up against the planned one, in words."""
    for before, after in zip(planned.placements, rung.placements, strict=True):
        words = list(_of_model(before, after))
        if words:
            yield f"{after.model.name}: {', '.join(words)}"
    server = rung.server
    if server.kv_cache != planned.server.kv_cache:
        yield f"{server.kv_cache or 'f16'} cache"
    if server.kv_on_host != planned.server.kv_on_host:
        yield "cache in host memory"
    if server.experts_on_host != planned.server.experts_on_host:
        yield f"experts of {server.experts_on_host} layers in host memory"


def _of_model(before: Placement, after: Placement) -> Iterator[str]:
    if before.source != after.source:
        yield after.source.quant or after.source.ref
    if before.settings.context != after.settings.context:
        yield f"context {after.settings.context}"
    if before.settings.batch != after.settings.batch:
        yield f"batch {after.settings.batch}"
    if before.account.layers != after.account.layers:
        yield f"{after.account.layers} of {after.account.layers_total} layers on the card"


def autofit(draft: Draft) -> None:
    """The script that chooses, its settings and its unit."""
    chosen = [instance.name for instance in draft.plan.instances if instance.rungs]
    if not chosen:
        return
    settings = draft.host.autofit or Autofit()
    config = {
        "every": settings.every,
        "hold": settings.hold,
        "margin": settings.margin,
        "per_hour": settings.per_hour,
        "instances": chosen,
    }
    text = json.dumps(config, indent=1) + "\n"
    script = draft.engine.copy("autofit.py")
    draft.add(f"{CURRENT}/bin/autofit.py", script, mode=0o755)
    draft.add(f"{CURRENT}/autofit.json", text)
    values = {
        "python": interpreter(draft.host),
        "config": hashlib.sha256(script + text.encode()).hexdigest()[:16],
        "balancers": any(proof.unit != "nginx.service" for proof in draft.balancers),
    }
    unit = draft.engine.render("autofit.service.j2", values, draft.host.where)
    draft.unit("ogen-autofit.service", "service", unit, draft.host.where)
