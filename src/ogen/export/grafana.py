"""The dashboard for Grafana: recorded names only, so that it is the same for every dialect."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

UID = "ogen-fleet"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
ON = '{host=~"$host"}'
CARD = "{{host}} card {{gpu}}"
INSTANCE = "{{host}} {{ollama}}"


@dataclass
class _Sheet:
    """Panels row by row; Grafana's grid is 24 wide."""

    panels: list[dict[str, Any]] = field(default_factory=list)
    x: int = 0
    y: int = 0
    height: int = 0  # of what stands in the line that is being filled

    def row(self, title: str) -> None:
        self._line()
        self._add("row", title, 24, 1, collapsed=False, panels=[])

    def _line(self) -> None:
        self.x, self.y, self.height = 0, self.y + self.height, 0

    def _add(self, kind: str, title: str, width: int, height: int, **values: Any) -> None:
        if self.x + width > 24:
            self._line()
        place = {"x": self.x, "y": self.y, "w": width, "h": height}
        self.panels.append(
            {"id": len(self.panels) + 1, "type": kind, "title": title, "gridPos": place, **values}
        )
        self.x, self.height = self.x + width, max(self.height, height)

    def stat(self, title: str, expr: str, *, bad: float | None = None, low: bool = False) -> None:
        """A number; red from `bad` on, or with `low` below `bad`."""
        steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
        if bad is not None:
            colours = ("red", "green") if low else ("green", "red")
            steps = [{"color": colours[0], "value": None}, {"color": colours[1], "value": bad}]
        self._add(
            "stat",
            title,
            4,
            4,
            datasource=SOURCE,
            targets=[_target("A", expr, "", instant=True)],
            fieldConfig={"defaults": {"thresholds": {"mode": "absolute", "steps": steps}}, "overrides": []},
            options={"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"},
        )

    def graph(self, title: str, unit: str, *series: tuple[str, str], most: float | None = None) -> None:
        """Lines over time, each with its legend; `most` is the top of the axis."""
        defaults: dict[str, Any] = {"unit": unit, "min": 0, "custom": {"fillOpacity": 8, "lineWidth": 1}}
        if most is not None:
            defaults["max"] = most
        self._add(
            "timeseries",
            title,
            12,
            8,
            datasource=SOURCE,
            targets=[_target(chr(65 + n), expr, legend) for n, (expr, legend) in enumerate(series)],
            fieldConfig={"defaults": defaults, "overrides": []},
            options={
                "legend": {
                    "showLegend": True,
                    "displayMode": "table",
                    "placement": "right",
                    "calcs": ["lastNotNull", "max"],
                },
                "tooltip": {"mode": "multi", "sort": "desc"},
            },
        )


def _target(ref: str, expr: str, legend: str, *, instant: bool = False) -> dict[str, Any]:
    return {
        "refId": ref,
        "datasource": SOURCE,
        "expr": expr,
        "legendFormat": legend,
        "instant": instant,
        "range": not instant,
    }


def dashboard(*, queues: bool = False) -> str:
    """The dashboard's JSON; fit for provisioning: it asks for a data source in a variable, not at import."""
    sheet = _Sheet()
    _now(sheet)
    _cards(sheet)
    _models(sheet)
    if queues:
        _queues(sheet)
    document = {
        "uid": UID,
        "title": "ogen fleet",
        "tags": ["ogen", "ollama", "gpu"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "templating": {"list": [_source(), _hosts()]},
        "panels": sheet.panels,
    }
    return json.dumps(document, indent=1) + "\n"


def _source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _hosts() -> dict[str, Any]:
    query = "label_values(ogen:host_up:bool, host)"
    return {
        "name": "host",
        "label": "Host",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": "host"},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _now(sheet: _Sheet) -> None:
    sheet.row("Now")
    # a `bool` keeps 0 where nothing is wrong; `or vector(0)` where there is nothing at all
    sheet.stat("Instances up", f"sum(ogen:instance_up:bool{ON}) or vector(0)")
    sheet.stat("Instances down", f"sum(ogen:instance_up:bool{ON} == bool 0) or vector(0)", bad=1)
    sheet.stat("Cards up", f"sum(ogen:gpus_up:count{ON}) or vector(0)")
    sheet.stat(
        "Cards missing",
        f"sum(clamp_min(ogen:gpus_planned:count{ON} - ogen:gpus_up:count{ON}, 0)) or vector(0)",
        bad=1,
    )
    sheet.stat("Models spilled", f"count(ogen:model_spilled:ratio{ON} > 0) or vector(0)", bad=1)
    sheet.stat("Hosts down", f"sum(ogen:host_up:bool{ON} == bool 0) or vector(0)", bad=1)


def _cards(sheet: _Sheet) -> None:
    sheet.row("Cards")
    sheet.graph("VRAM in use", "percentunit", (f"ogen:gpu_memory_used:ratio{ON}", CARD), most=1)
    sheet.graph(
        "VRAM in bytes",
        "bytes",
        (f"ogen:gpu_memory_used:bytes{ON}", f"{CARD} used"),
        (f"ogen:gpu_memory_total:bytes{ON}", f"{CARD} total"),
    )
    sheet.graph("Utilisation", "percentunit", (f"ogen:gpu_utilization:ratio{ON}", CARD), most=1)
    sheet.graph("Temperature", "celsius", (f"ogen:gpu_temperature:celsius{ON}", CARD))
    sheet.graph("Power", "watt", (f"ogen:gpu_power:watts{ON}", CARD))
    sheet.graph("Age of the monitor's figures", "s", (f"ogen:monitor_age:seconds{ON}", "{{host}}"))


def _models(sheet: _Sheet) -> None:
    sheet.row("Instances and models")
    sheet.graph("Instances up", "none", (f"ogen:instance_up:bool{ON}", INSTANCE), most=1)
    sheet.graph(
        "Instances of each pool",
        "none",
        ("ogen:pool_instances_up:count", "{{balancer}} {{pool}} up"),
        ("ogen:pool_instances_planned:count", "{{balancer}} {{pool}} planned"),
    )
    sheet.graph("VRAM of models", "bytes", (f"ogen:model_vram:bytes{ON}", INSTANCE + " {{model}}"))
    sheet.graph(
        "Models' share in host memory",
        "percentunit",
        (f"ogen:model_spilled:ratio{ON}", INSTANCE + " {{model}}"),
        most=1,
    )


def _queues(sheet: _Sheet) -> None:
    """Queues are the fleet's, and no host's: the variable chooses none of them."""
    jobs = "{{queue}} {{model}}"
    sheet.row("Queues")
    sheet.graph("Jobs", "none", ("ogen:queue_jobs:count", f"{jobs} {{{{state}}}}"))
    sheet.graph("Wait of the job that is next", "s", ("ogen:queue_oldest:seconds", jobs))
    sheet.graph("What happens to jobs", "ops", ("ogen:queue_jobs:rate", f"{jobs} {{{{what}}}}"))
    sheet.graph("Time that a job takes", "s", ("ogen:queue_duration:seconds", jobs))
    sheet.graph("Workers heard of", "none", ("ogen:queue_workers:count", jobs))
    sheet.graph("Memory of Redis", "bytes", ("ogen:queue_memory:bytes", "{{queue}}"))
