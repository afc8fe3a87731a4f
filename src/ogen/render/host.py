"""One host's release: its files, units, models and what proves that they work."""

from __future__ import annotations

from typing import Any

from ..plan.model import Instance, Placement
from ..release.model import InstanceProof, Release, Served
from .autofit import autofit, rungs
from .balancer import render_balancer
from .draft import CURRENT, SYSTEMD, Draft
from .instance import librarian_values, unit_values
from .mirror import is_mirror, mirror
from .models import modelfile_values, views
from .queue import queue_of, render_queues
from .services import cards, front_socket, interpreter, leases, log_rotation, monitor, preload


def render_draft(draft: Draft) -> Release:
    """Fills the draft from the plan of its host."""
    host = draft.plan.host
    librarian: dict[str, Any] = {}
    for instance in draft.plan.instances:
        _instance(draft, instance)
    if draft.plan.instances:
        _modelfiles(draft)
        cards(draft)
        preload(draft)
        autofit(draft)
        draft.add(f"{SYSTEMD}/ollama.service.d/ogen.conf", draft.engine.copy("stock-ollama.conf"))
    monitor(draft)
    if draft.plan.instances or is_mirror(draft):
        librarian = _librarian(draft)
    if is_mirror(draft):
        mirror(draft)
    for entry in draft.plan.entries:
        queue = queue_of(draft.plan.works, entry.balancer.name)
        socket = front_socket(queue.name) if queue else ""
        rendered = render_balancer(draft.engine, entry, host.name, draft.reveal, socket)
        draft.files.update({file.path: file for file in rendered.files})
        draft.balancers.append(rendered.proof)
        if entry.balancer.into == "own":
            name = entry.balancer.name
            values = {
                "name": name,
                "host": host.name,
                "runtime": f"ogen-balancer-{name}",
                "python": interpreter(host),
            }
            text = draft.engine.render("balancer.service.j2", values, entry.balancer.where)
            draft.unit(rendered.proof.unit, "balancer", text, entry.balancer.where)
    render_queues(draft)
    leases(draft)
    log_rotation(draft)
    if draft.units:
        _target(draft)
    return draft.release(librarian)


def _librarian(draft: Draft) -> dict[str, Any]:
    host = draft.plan.host
    path = f"{CURRENT}/librarian/ogen-librarian.service"
    draft.add(
        path, draft.engine.render("librarian.service.j2", librarian_values(host), host.where), host.where
    )
    made = {
        "unit": path,
        "port": host.ollama.librarian_port,
        "models_dir": host.ollama.models_dir,
        "user": host.ollama.user,
        "group": host.ollama.group,
    }
    if host.ollama.source:  # the agent looks that it is there, and keeps it for as long as a release does
        made["program"] = host.ollama.program
    return made


def _instance(draft: Draft, instance: Instance) -> None:
    host = draft.plan.host
    made = tuple(draft.build(placement) for placement in instance.placements)
    draft.builds.update({model.name: model for model in made})
    for placement, model in zip(instance.placements, made, strict=True):
        draft.views += views(placement, instance.name, model)
    allowed = draft.allowed(host.name, instance.name)
    values = unit_values(host, instance, made, allowed)
    if instance.rungs:
        values["rungs"] = rungs(draft, instance, allowed)
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
            admits=allowed,
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
        stays=not placement.model.hours,
    )


def _modelfiles(draft: Draft) -> None:
    """One Modelfile for each model of the host; where instances differ, the later one's has their name."""
    taken: dict[str, str] = {}
    for instance in draft.plan.instances:
        for placement in instance.placements:
            made = draft.build(placement)
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


def _target(draft: Draft) -> None:
    """What a boot starts; the other units are wanted by it."""
    text = draft.engine.render("ogen.target.j2", {"host": draft.name}, draft.plan.host.where)
    draft.unit("ogen.target", "target", text)
