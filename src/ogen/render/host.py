"""One host's release: its files, units, models and what proves that they work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import RenderError, Where
from ..inventory.model import Host, Inventory
from ..plan.model import HostPlan, Instance, Placement
from ..release.model import (
    BalancerProof,
    File,
    InstanceProof,
    ModelBuild,
    ModelView,
    Release,
    Served,
    Unit,
)
from .balancer import render_balancer
from .engine import Engine
from .escape import path, unit_text
from .instance import librarian_values, unit_values
from .keys import Reveal
from .models import build, modelfile_values, views

SYSTEMD = "/etc/systemd/system"
CURRENT = "/etc/ogen/current"
Kind = Literal["instance", "balancer", "service", "timer", "oneshot", "target"]


@dataclass(slots=True)
class Draft:
    """A release under construction."""

    engine: Engine
    inventory: Inventory
    plan: HostPlan
    allowed: Callable[[str, str], tuple[str, ...]]  # (host, instance) → balancers' addresses elsewhere
    reveal: Reveal | None
    files: dict[str, File] = field(default_factory=dict)
    units: list[Unit] = field(default_factory=list)
    builds: dict[str, ModelBuild] = field(default_factory=dict)
    views: list[ModelView] = field(default_factory=list)
    instances: list[InstanceProof] = field(default_factory=list)
    balancers: list[BalancerProof] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.plan.host.name

    def add(self, path: str, text: str | bytes, where: Where | None = None, mode: int = 0o644) -> None:
        content = text.encode() if isinstance(text, str) else text
        self.files[path] = File(path, content, mode, where=where)

    def unit(self, name: str, kind: Kind, text: str, where: Where | None = None) -> None:
        """A unit file that carries its own hash in its environment where it has a [Service] section."""
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.add(
            f"{SYSTEMD}/{name}",
            _with_hash(text, digest) if kind in ("instance", "balancer", "service") else text,
            where,
        )
        self.units.append(Unit(name, kind, digest))

    def release(self, librarian: dict[str, Any]) -> Release:
        return Release(
            self.name,
            files=tuple(self.files[path] for path in sorted(self.files)),
            units=tuple(sorted(self.units, key=lambda unit: unit.name)),
            models=tuple(self.builds[name] for name in sorted(self.builds)),
            views=tuple(sorted(self.views, key=lambda view: view.path)),
            instances=tuple(self.instances),
            balancers=tuple(self.balancers),
            librarian=librarian,
        )


def _with_hash(text: str, digest: str) -> str:
    """`text` with the hash as the last line of its [Service] section."""
    lines = text.rstrip("\n").split("\n")
    try:
        start = lines.index("[Service]")
    except ValueError:
        raise RenderError("a unit needs a [Service] section") from None
    end = next((i for i, line in enumerate(lines) if i > start and line.startswith("[")), len(lines))
    lines.insert(end, f"Environment=OGEN_UNIT_HASH={digest}")
    return "\n".join(lines) + "\n"


def render_draft(draft: Draft) -> Release:
    """Fills the draft from the plan of its host."""
    host = draft.plan.host
    librarian: dict[str, Any] = {}
    for instance in draft.plan.instances:
        _instance(draft, instance)
    if draft.plan.instances:
        _modelfiles(draft)
        _preload(draft)
        path = f"{CURRENT}/librarian/ogen-librarian.service"
        draft.add(
            path, draft.engine.render("librarian.service.j2", librarian_values(host), host.where), host.where
        )
        draft.add(f"{SYSTEMD}/ollama.service.d/ogen.conf", draft.engine.copy("stock-ollama.conf"))
        librarian = {
            "unit": path,
            "port": host.ollama.librarian_port,
            "models_dir": host.ollama.models_dir,
            "user": host.ollama.user,
            "group": host.ollama.group,
        }
    for entry in draft.plan.entries:
        rendered = render_balancer(draft.engine, entry, host.name, draft.reveal)
        draft.files.update({file.path: file for file in rendered.files})
        draft.balancers.append(rendered.proof)
        if entry.balancer.into == "own":
            name = entry.balancer.name
            values = {
                "name": name,
                "host": host.name,
                "runtime": f"ogen-balancer-{name}",
                "config": rendered.proof.config,
            }
            text = draft.engine.render("balancer.service.j2", values, entry.balancer.where)
            draft.unit(rendered.proof.unit, "balancer", text, entry.balancer.where)
    if draft.units:
        _target(draft)
    return draft.release(librarian)


def _instance(draft: Draft, instance: Instance) -> None:
    host = draft.plan.host
    made = tuple(build(placement, draft.inventory) for placement in instance.placements)
    draft.builds.update({model.name: model for model in made})
    for placement, model in zip(instance.placements, made, strict=True):
        draft.views += views(placement, instance.name, model)
    values = unit_values(host, instance, made, draft.allowed(host.name, instance.name))
    where = instance.where or host.where
    draft.unit(instance.unit, "instance", draft.engine.render("ollama.service.j2", values, where), where)
    draft.instances.append(
        InstanceProof(
            unit=instance.unit,
            instance=instance.name,
            port=instance.port,
            version=host.ollama.version,
            gpus=tuple(gpu.uuid or str(gpu.index) for gpu in instance.gpus),
            models=tuple(_served(placement, instance) for placement in instance.placements),
        )
    )


def _served(placement: Placement, instance: Instance) -> Served:
    return Served(
        model=placement.model.name,
        verdict=placement.verdict,
        gpu_bytes=placement.account.total_gpu_bytes,
        embedding=placement.model.embedding,
        resident=placement.model.residency == "resident",
        keep_alive=placement.model.keep_alive or instance.server.keep_alive,
    )


def _modelfiles(draft: Draft) -> None:
    """One Modelfile for each model of the host; where instances differ, the later one's has their name."""
    taken: dict[str, str] = {}
    for instance in draft.plan.instances:
        for placement in instance.placements:
            made = build(placement, draft.inventory)
            if made.name in taken.values():
                continue
            label = made.name.split("/", 1)[1].rsplit(":", 1)[0]
            label = f"{label}-{instance.name}" if label in taken else label
            taken[label] = made.name
            values = modelfile_values(placement, made)
            where = placement.model.where
            draft.add(
                f"{CURRENT}/models/{label}.Modelfile",
                draft.engine.render("Modelfile.j2", values, where),
                where,
            )


def _preload(draft: Draft) -> None:
    """What keeps the resident models loaded: one script, one template unit, a list for each instance."""
    preloaded = []
    for instance in draft.plan.instances:
        resident = [p for p in instance.placements if p.model.residency == "resident"]
        if resident:
            preloaded.append(instance.name)
            draft.add(
                f"{CURRENT}/instances/{instance.name}/preload.json",
                _json(_preload_config(instance, resident)),
            )
    if not preloaded:
        return
    draft.add(f"{CURRENT}/bin/preload.py", draft.engine.copy("preload.py"), mode=0o755)
    service = draft.engine.render(
        "preload.service.j2", {"python": _python(draft.plan.host)}, draft.plan.host.where
    )
    timer = draft.engine.copy("preload.timer").decode()
    draft.add(f"{SYSTEMD}/ogen-preload@.service", service)
    draft.add(f"{SYSTEMD}/ogen-preload@.timer", timer)


def _python(host: Host) -> str:
    """The interpreter of scripts: systemd looks bare names up itself."""
    return path(host.python) if "/" in host.python else unit_text(host.python)


def _preload_config(instance: Instance, placements: Iterable[Placement]) -> dict[str, Any]:
    return {
        "url": f"http://127.0.0.1:{instance.port}",
        "wait_s": 120,
        "models": [
            {
                "name": p.model.name,
                "keep_alive": p.model.keep_alive or instance.server.keep_alive,
                "embedding": p.model.embedding,
                "context": p.settings.context,
            }
            for p in placements
        ],
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _target(draft: Draft) -> None:
    """What a boot starts; the other units are wanted by it."""
    text = draft.engine.render("ogen.target.j2", {"host": draft.name}, draft.plan.host.where)
    draft.unit("ogen.target", "target", text)
