"""Alerting rules: what deserves a person, where it is, and the command that says more."""

from __future__ import annotations

import re
import shlex
from pathlib import PurePath

from ..plan.model import Plan
from .alerts_queue import queue_alerts
from .dialects import CARDS_JOB, Dialect
from .recording import JOB, selectors, stale_after, watched
from .rules import Alert, Group

HOT = 90  # degrees: `ogen doctor` says card-hot from there on
HOST = "{{ $labels.host }}"
CARD = "{{ $labels.host }}, card {{ $labels.gpu }}"
INSTANCE = "{{ $labels.host }}, instance {{ $labels.ollama }}"
POOL = "pool {{ $labels.pool }} of balancer {{ $labels.balancer }}"


def alerts(plan: Plan, dialect: Dialect) -> list[Group]:
    inventory = inventory_word(plan)
    doctor = f"ogen doctor {inventory} --limit {HOST}"
    return [
        ("ogen-host-alerts", [*_hosts(dialect, doctor), *_monitors(plan, doctor)]),
        ("ogen-card-alerts", _cards(doctor)),
        ("ogen-instance-alerts", _instances(plan, doctor)),
        ("ogen-pool-alerts", _pools(f"ogen doctor {inventory}")),
        ("ogen-queue-alerts", queue_alerts(inventory) if plan.works else []),
    ]


def inventory_word(plan: Plan) -> str:
    """The inventory's name for a command; one that templates or YAML may read as theirs is left out."""
    name = PurePath(plan.inventory.name).name
    return shlex.quote(name) if re.fullmatch(r"[\w.+@ -]+", name) else "INVENTORY"


def _hosts(dialect: Dialect, doctor: str) -> list[Alert]:
    found = [
        Alert(
            "OgenHostDown",
            "ogen:host_up:bool == 0",
            "2m",
            "critical",
            f"{HOST}: the node_exporter does not answer",
            f"{doctor.replace('doctor', 'status', 1)}: is the host up?"
            " On it: systemctl status prometheus-node-exporter",
        ),
        Alert(
            "OgenDriverDown",
            "max by (host, group) (ogen_gpu_driver_up) == 0",
            "2m",
            "critical",
            f"{HOST}: the cards' driver does not answer",
            f"{doctor}: was the driver updated and not loaded anew?",
        ),
    ]
    return found if dialect.port is None else [*found, _exporter(dialect)]


def _exporter(dialect: Dialect) -> Alert:
    return Alert(
        "OgenCardExporterDown",
        f'max by (host, group) (up{{job="{CARDS_JOB}"}}) == 0',
        "2m",
        "warning",
        f"{HOST}: {dialect.exporter} does not answer",
        "start it on the host; until then there are no figures of its cards",
    )


def _monitors(plan: Plan, doctor: str) -> list[Alert]:
    return [
        Alert(
            "OgenMonitorStale",
            f"ogen:monitor_age:seconds >= {stale_after(plan)}",
            "2m",
            "warning",
            f"{HOST}: the monitor last wrote {{{{ $value | humanizeDuration }}}} ago",
            f"{doctor}; on the host: journalctl -u ogen-monitor",
        ),
        Alert(
            "OgenMonitorMissing",
            "ogen:host_up:bool == 1 unless on (host) ogen:monitor_age:seconds",
            "10m",
            "warning",
            f"{HOST}: the node_exporter has no figures of the monitor",
            f"{doctor}; is monitoring.textfile_dir the folder of its --collector.textfile.directory?",
        ),
        Alert(
            "OgenTextfileError",
            f'max by (host, group) (node_textfile_scrape_error{{job="{JOB}"}}) == 1',
            "5m",
            "warning",
            f"{HOST}: the node_exporter can't read a file of its textfile collector",
            "on the host: journalctl -u prometheus-node-exporter names the file",
        ),
    ]


def _cards(doctor: str) -> list[Alert]:
    return [
        Alert(
            "OgenMemoryFull",
            "ogen:gpu_memory_used:ratio > 0.95",
            "5m",
            "warning",
            f"{CARD}: {{{{ $value | humanizePercentage }}}} of its memory is in use",
            f"{doctor}: who else is on the card, and which concession saves memory",
        ),
        Alert(
            "OgenCardLost",
            "ogen:gpu_up:bool == 0",
            "1m",
            "critical",
            f"{CARD}: it does not answer its driver",
            f"{doctor}; mark it `state: out` in the inventory and apply, until it is back",
        ),
        Alert(
            "OgenCardsMissing",
            "ogen:gpus_up:count < ogen:gpus_planned:count",
            "2m",
            "critical",
            f"{HOST}: {{{{ $value }}}} cards answer, fewer than the inventory has",
            f"{doctor}: card-lost names which; mark it `state: out` and apply, until it is back",
        ),
        Alert(
            "OgenCardHot",
            f"ogen:gpu_temperature:celsius >= {HOT}",
            "5m",
            "warning",
            f"{CARD}: {{{{ $value }}}} °C",
            f"{doctor}; look at fans and dust, or lower the card's power limit",
        ),
    ]


def _instances(plan: Plan, doctor: str) -> list[Alert]:
    spilled = "ogen:model_spilled:ratio > 0"
    # where the plan itself leaves layers in host memory, that is no news
    places = [
        (one.host, one.port)
        for host in plan.hosts
        for one in host.instances
        if host.host.name in watched(plan) and any(p.verdict != "full" for p in one.placements)
    ]
    for selector in selectors(places):
        spilled += f"\nunless on (host, ollama) ogen:instance_up:bool{{{selector}}}"
    return [
        Alert(
            "OgenInstanceDown",
            "ogen:instance_up:bool == 0",
            "2m",
            "critical",
            f"{INSTANCE}: Ollama does not answer",
            f"{doctor}; ogen logs shows its journal",
        ),
        Alert(
            "OgenModelSpilled",
            spilled,
            "5m",
            "warning",
            f"{INSTANCE}: {{{{ $value | humanizePercentage }}}} of {{{{ $labels.model }}}}"
            " is in host memory: slow",
            f"{doctor}: who took the card's memory, and which concession makes the model fit",
        ),
    ]


def _pools(doctor: str) -> list[Alert]:
    return [
        Alert(
            "OgenPoolDown",
            "ogen:pool_instances_up:count == 0",
            "1m",
            "critical",
            f"{POOL}: none of its instances is known to be up",
            f"{doctor}: every request for this model fails",
        ),
        Alert(
            "OgenPoolThin",
            "ogen:pool_instances_up:count < ogen:pool_instances_least:count\nand\n"
            "ogen:pool_instances_up:count > 0",
            "5m",
            "warning",
            f"{POOL}: only {{{{ $value }}}} of its instances are known to be up",
            f"{doctor}: which are down, and why",
        ),
    ]
