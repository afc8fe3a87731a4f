"""What runs beside the instances and balancers: device nodes, preload, monitor, leases, rotation of logs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from ..inventory.hours import span
from ..inventory.model import Host
from ..plan.model import Instance, Placement
from .draft import CURRENT, SYSTEMD, Draft
from .escape import path, unit_text

TEXTFILE = "ogen.prom"
AUTOFIT = "/var/lib/ogen/autofit"  # the host's own: the rung of each instance that is in force


def cards(draft: Draft) -> None:
    """What makes the device nodes before the first instance starts; instances want it."""
    used = {gpu.index for i in draft.plan.instances for gpu in i.gpus if gpu.vendor == "nvidia"}
    if used:
        text = draft.engine.render("cards.service.j2", {"cards": sorted(used)}, draft.host.where)
        draft.add(f"{SYSTEMD}/ogen-cards.service", text)


def preload(draft: Draft) -> None:
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
        "preload.service.j2", {"python": interpreter(draft.plan.host)}, draft.plan.host.where
    )
    timer = draft.engine.copy("preload.timer").decode()
    draft.add(f"{SYSTEMD}/ogen-preload@.service", service)
    draft.add(f"{SYSTEMD}/ogen-preload@.timer", timer)


def interpreter(host: Host) -> str:
    """The host's python3 for its scripts: systemd looks bare names up itself."""
    return path(host.python) if "/" in host.python else unit_text(host.python)


def _preload_config(instance: Instance, placements: Iterable[Placement]) -> dict[str, Any]:
    chosen = {"chosen": f"{AUTOFIT}/{instance.name}/chosen.json"} if instance.rungs else {}
    return {
        **chosen,
        "url": f"http://127.0.0.1:{instance.port}",
        "wait_s": 120,
        "models": [
            {
                "name": p.model.name,
                "keep_alive": p.model.keep_alive or instance.server.keep_alive,
                **({"hours": [span(text) for text in p.model.hours]} if p.model.hours else {}),
                "embedding": p.model.embedding,
                "context": p.settings.context,
            }
            for p in placements
        ],
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def front_socket(queue: str) -> str:
    """Where nginx, and whoever is root, finds the front of a queue."""
    return f"/run/ogen-queue-front-{queue}/front.sock"


def monitor(draft: Draft) -> None:
    """The script that watches cards, instances and queues that come in here, its settings and its unit."""
    host, settings = draft.host, draft.host.monitoring
    fronts = [work.queue.name for work in draft.plan.works if draft.name in work.fronts]
    if not settings.enabled or not (draft.plan.instances or fronts):
        return
    vendors = {gpu.vendor for gpu in host.gpus}
    config = _json(
        {
            "interval_s": settings.interval,
            "cards": "nvidia" in vendors,
            "amd": "amd" in vendors,
            "instances": [_watched(instance) for instance in draft.plan.instances],
            "csv": "/var/log/ogen/monitor",
            "prom": f"{settings.textfile_dir.rstrip('/')}/{TEXTFILE}",
        }
        | ({"queues": [{"name": name, "socket": front_socket(name)} for name in fronts]} if fronts else {})
    )
    script = draft.engine.copy("monitor.py")
    draft.add(f"{CURRENT}/bin/monitor.py", script, mode=0o755)
    draft.add(f"{CURRENT}/monitor.json", config)
    values = {
        "python": interpreter(host),
        "config": hashlib.sha256(script + config.encode()).hexdigest()[:16],
        "textfile_dir": settings.textfile_dir,
        "devices": ("char-nvidia*",) if "nvidia" in vendors else (),
    }
    text = draft.engine.render("monitor.service.j2", values, host.where)
    draft.unit("ogen-monitor.service", "service", text, host.where)


def _watched(instance: Instance) -> dict[str, str]:
    address = f"127.0.0.1:{instance.port}"
    return {"name": instance.name, "url": f"http://{address}", "ollama": address}


def leases(draft: Draft) -> None:
    """What keeps this host's own balancers away from instances that are leased out."""
    if not any(proof.unit != "nginx.service" for proof in draft.balancers):
        return
    script = draft.engine.copy("leases.py")
    draft.add(f"{CURRENT}/bin/leases.py", script, mode=0o755)
    values = {"python": interpreter(draft.host), "config": hashlib.sha256(script).hexdigest()[:16]}
    text = draft.engine.render("leases.service.j2", values, draft.host.where)
    draft.unit("ogen-leases.service", "service", text, draft.host.where)
    _prober(draft)


def _prober(draft: Draft) -> None:
    """What tells leases.py which instances are not well."""
    draft.add(f"{CURRENT}/bin/probe.py", draft.engine.copy("probe.py"), mode=0o755)
    values = {"python": interpreter(draft.host)}
    draft.add(
        f"{SYSTEMD}/ogen-probe.service", draft.engine.render("probe.service.j2", values, draft.host.where)
    )
    draft.unit("ogen-probe.timer", "timer", draft.engine.copy("probe.timer").decode(), draft.host.where)


def log_rotation(draft: Draft) -> None:
    """Rotation of the monitor's and the balancers' files, where there are any."""
    watched = bool(draft.plan.instances) and draft.host.monitoring.enabled
    balancers = [proof.unit for proof in draft.balancers if proof.unit != "nginx.service"]
    if not watched and not balancers:
        return
    values = {"monitor": watched, "balancers": balancers, "keep_days": draft.host.monitoring.keep_days}
    text = draft.engine.render("logrotate.j2", values, draft.host.where)
    draft.add("/etc/logrotate.d/ogen", text, draft.host.where)
