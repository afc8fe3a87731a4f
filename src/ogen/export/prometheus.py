"""What Prometheus and Grafana need to watch a fleet: targets, rules, a dashboard. Text, and no secret."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ..inventory.model import Host
from ..plan.model import Plan
from .alerts import alerts, inventory_word
from .dialects import CARDS_JOB, DIALECTS, Dialect
from .grafana import dashboard
from .recording import JOB, recording, watched
from .rules import document

NODE_PORT = 9100  # the node_exporter's own


@dataclass(frozen=True, slots=True)
class Settings:
    """`live`: how many of a pool's instances must be up, a number or a percentage."""

    dialect: str = "ogen"
    node_port: int = NODE_PORT
    cards_port: int | None = None  # None: the dialect's own
    live: str = "50%"


def export(plan: Plan, settings: Settings = Settings()) -> Mapping[str, str]:
    """The files, by their path in the folder."""
    dialect = DIALECTS[settings.dialect]
    head = f"Written by `ogen export prometheus` from {inventory_word(plan)};"
    about = f"{head} figures of cards come from\n{dialect.exporter}."
    files = {
        "prometheus.yml": _config(head, dialect),
        "targets/ogen-nodes.json": _targets(plan, settings.node_port),
        "rules/ogen-recording.yml": document(about, recording(plan, dialect, settings.live)),
        "rules/ogen-alerts.yml": document(
            f"{head} what each asks for\nstands in `action`.", alerts(plan, dialect)
        ),
        "grafana/ogen-fleet.json": dashboard(queues=bool(plan.works)),
    }
    if dialect.port is not None:
        files["targets/ogen-cards.json"] = _targets(plan, settings.cards_port or dialect.port, cards=True)
    return dict(sorted(files.items()))


def _targets(plan: Plan, port: int, *, cards: bool = False) -> str:
    """file_sd: the hosts that have a monitor; `cards`: only those with cards that the exporter knows."""
    names = set(watched(plan))
    found = [
        {"targets": [f"{_address(host)}:{port}"], "labels": _labels(host)}
        for host in (one.host for one in plan.hosts)
        if host.name in names and (not cards or any(gpu.vendor == "nvidia" for gpu in host.gpus))
    ]
    return json.dumps(found, indent=1) + "\n"


def _address(host: Host) -> str:
    return f"[{host.reached_at}]" if ":" in host.reached_at else host.reached_at


def _labels(host: Host) -> dict[str, str]:
    """An empty label is none to Prometheus, so a host without groups has none."""
    groups = ",".join(host.groups)
    return {"host": host.name} | ({"group": groups} if groups else {})


def _config(head: str, dialect: Dialect) -> str:
    jobs = {JOB: "targets/ogen-nodes.json"}
    if dialect.port is not None:
        jobs[CARDS_JOB] = "targets/ogen-cards.json"
    lines = [
        f"# {head} a whole configuration, or what to take into yours.",
        "global:",
        "  scrape_interval: 15s",
        "  evaluation_interval: 15s",
        "rule_files:",
        "  - rules/ogen-recording.yml",
        "  - rules/ogen-alerts.yml",
        "scrape_configs:",
    ]
    for job, file in jobs.items():
        lines += [f"  - job_name: {job}", "    file_sd_configs:", f"      - files: [{file}]"]
    return "\n".join(lines) + "\n"
