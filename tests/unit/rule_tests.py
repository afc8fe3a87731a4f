"""Unit tests of the exported rules, in promtool's own format: a healthy fleet, and what goes wrong in it.

Times are minutes from the epoch on, as promtool has them: a monitor that writes each minute has an
age of 0. Whatever goes wrong begins at minute 11.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

GIB = 2**30
GROUPS = {"gpu1": "boxes", "gpu2": "boxes"}
RULES = ["rules/ogen-recording.yml", "rules/ogen-alerts.yml"]
BEFORE, AFTER = "10m", "30m"
Series = dict[str, str]


def series(metric: str, host: str, port: int = 9100, job: str = "ogen", **labels: str) -> str:
    """`metric` as Prometheus has it of a host, with the labels of its target."""
    all_ = {"host": host, "instance": f"{host}:{port}", "job": job, **labels}
    if host in GROUPS:
        all_["group"] = GROUPS[host]
    return metric + "{" + ",".join(f'{key}="{value}"' for key, value in sorted(all_.items())) + "}"


def card(metric: str, host: str, gpu: int) -> str:
    return series(f"ogen_gpu_{metric}", host, gpu=str(gpu), uuid=f"GPU-{host}-{gpu}")


def model(metric: str, host: str, port: int, name: str = "chat:latest") -> str:
    return series(f"ogen_ollama_model_{metric}_bytes", host, ollama=f"127.0.0.1:{port}", model=name)


def up(host: str, port: int) -> str:
    return series("ogen_ollama_up", host, ollama=f"127.0.0.1:{port}")


def last_run(host: str) -> str:
    return series("ogen_monitor_last_run_timestamp_seconds", host)


def healthy() -> Series:
    found: Series = {}
    for host, cards in (("gpu1", 2), ("gpu2", 2), ("desk", 1)):
        found[series("up", host)] = "1x60"
        found[series("node_textfile_scrape_error", host)] = "0x60"
        found[series("ogen_gpu_driver_up", host)] = "1x60"
        found[last_run(host)] = "0+60x60"
        for gpu in range(cards):
            for metric, value in (
                ("up", 1),
                ("memory_used_bytes", 7 * GIB),
                ("memory_total_bytes", 24 * GIB),
                ("utilization_ratio", 0.9),
                ("temperature_celsius", 71),
                ("power_watts", 250),
            ):
                found[card(metric, host, gpu)] = f"{value}x60"
            found[up(host, 11434 + gpu)] = "1x60"
            vram = 4 if host == "desk" else 6  # its plan leaves the KV cache in host memory
            found[model("size", host, 11434 + gpu)] = f"{6 * GIB}x60"
            found[model("vram", host, 11434 + gpu)] = f"{vram * GIB}x60"
    return found | queues()


def jobs(kind: str, metric: str = "jobs", **labels: str) -> str:
    named = {"state": kind} if kind else {}
    return series(f"ogen_queue_{metric}", "edge", queue="jobs", model="chat", **named, **labels)


def redis(metric: str) -> str:
    return series(f"ogen_queue_redis_memory_{metric}_bytes", "edge", queue="jobs")


QUEUE_UP = series("ogen_queue_up", "edge", queue="jobs")


def queues() -> Series:
    """A queue that works: ten jobs a minute, of two seconds each."""
    found = {series("up", "edge"): "1x60", series("node_textfile_scrape_error", "edge"): "0x60"}
    found |= {last_run("edge"): "0+60x60", QUEUE_UP: "1x60"}
    found |= {
        jobs(kind): f"{n}x60" for kind, n in (("waiting", 3), ("delayed", 1), ("running", 4), ("dead", 0))
    }
    found |= {jobs("", "places"): "1000x60", jobs("", "oldest_seconds"): "5x60", jobs("", "workers"): "4x60"}
    found |= {redis("used"): f"{GIB // 16}x60", redis("max"): f"{GIB // 4}x60"}
    found |= {jobs("", "jobs_total", what="done"): "0+10x60", jobs("", "busy_seconds_total"): "0+20x60"}
    return found


def of_host(host: str, *but: str) -> Series:
    """All series of a host, gone from minute 11 on."""
    own = [one for one in healthy() if f'host="{host}"' in one and one not in but]
    return dict.fromkeys(own, "stale")


@dataclass(frozen=True)
class Case:
    """`changes`: what series become from minute 11 on ("stale": gone); then the alert with these words."""

    alert: str
    changes: Mapping[str, str]
    labels: Mapping[str, str]
    summary: str
    action: str
    dialect: str = "ogen"
    also: tuple[str, ...] = ()  # other alerts that follow from it
    sums: Mapping[str, float] = field(default_factory=dict)  # expressions without labels, at minute 30


def _doctor(host: str, rest: str) -> str:
    return f"ogen doctor prometheus.yaml --limit {host}{rest}"


GPU1, GPU2 = {"host": "gpu1", "group": "boxes"}, {"host": "gpu2", "group": "boxes"}
CHAT = {"balancer": "api", "pool": "chat"}
CONCESSION = ": who else is on the card, and which concession saves memory"
JOBS = {"queue": "jobs", "model": "chat"}
STATUS = "ogen queue status prometheus.yaml --queue jobs"
WITHOUT = "mark it `state: out` in the inventory and apply, until it is back"
CASES = (
    Case(
        "OgenHostDown",
        {**of_host("gpu2"), series("up", "gpu2"): "0x50"},
        {**GPU2, "severity": "critical"},
        "gpu2: the node_exporter does not answer",
        "ogen status prometheus.yaml --limit gpu2: is the host up?"
        " On it: systemctl status prometheus-node-exporter",
    ),
    Case(
        "OgenMonitorStale",
        {last_run("gpu1"): "600x50"},
        {**GPU1, "severity": "warning"},
        "gpu1: the monitor last wrote 20m 0s ago",
        _doctor("gpu1", "; on the host: journalctl -u ogen-monitor"),
        # what stands in its file is no news any more
        sums={"sum(ogen:pool_instances_up:count)": 2, "count(ogen:gpu_memory_used:ratio)": 3},
    ),
    Case(
        "OgenMonitorMissing",
        of_host("gpu1", series("up", "gpu1"), series("node_textfile_scrape_error", "gpu1")),
        {**GPU1, "severity": "warning"},
        "gpu1: the node_exporter has no figures of the monitor",
        _doctor(
            "gpu1",
            "; is monitoring.textfile_dir the folder of its --collector.textfile.directory?",
        ),
    ),
    Case(
        "OgenTextfileError",
        {series("node_textfile_scrape_error", "desk"): "1x50"},
        {"host": "desk", "severity": "warning"},
        "desk: the node_exporter can't read a file of its textfile collector",
        "on the host: journalctl -u prometheus-node-exporter names the file",
    ),
    Case(
        "OgenDriverDown",
        {
            **{one: "stale" for one in healthy() if "ogen_gpu" in one and 'host="gpu1"' in one},
            series("ogen_gpu_driver_up", "gpu1"): "0x50",
        },
        {**GPU1, "severity": "critical"},
        "gpu1: the cards' driver does not answer",
        _doctor("gpu1", ": was the driver updated and not loaded anew?"),
        also=("OgenCardsMissing",),
    ),
    Case(
        "OgenMemoryFull",
        {card("memory_used_bytes", "gpu1", 1): f"{24 * GIB * 0.975:.0f}x50"},
        {**GPU1, "gpu": "1", "uuid": "GPU-gpu1-1", "severity": "warning"},
        "gpu1, card 1: 97.5% of its memory is in use",
        _doctor("gpu1", CONCESSION),
    ),
    Case(
        # the driver still counts the card, but tells no UUID of it
        "OgenCardLost",
        {
            **{one: "stale" for one in healthy() if 'uuid="GPU-gpu1-1"' in one},
            series("ogen_gpu_up", "gpu1", gpu="1"): "0x50",
        },
        {**GPU1, "gpu": "1", "severity": "critical"},
        "gpu1, card 1: it does not answer its driver",
        _doctor("gpu1", f"; {WITHOUT}"),
        also=("OgenCardsMissing",),
    ),
    Case(
        "OgenCardsMissing",
        {one: "stale" for one in healthy() if 'uuid="GPU-gpu2-0"' in one},
        {**GPU2, "severity": "critical"},
        "gpu2: 1 cards answer, fewer than the inventory has",
        _doctor("gpu2", ": card-lost names which; mark it `state: out` and apply, until it is back"),
    ),
    Case(
        "OgenCardHot",
        {card("temperature_celsius", "desk", 0): "92x50"},
        {"host": "desk", "gpu": "0", "uuid": "GPU-desk-0", "severity": "warning"},
        "desk, card 0: 92 °C",
        _doctor("desk", "; look at fans and dust, or lower the card's power limit"),
    ),
    Case(
        "OgenInstanceDown",
        {up("gpu2", 11435): "0x50", model("size", "gpu2", 11435): "stale"},
        {**GPU2, "ollama": "127.0.0.1:11435", "severity": "critical"},
        "gpu2, instance 127.0.0.1:11435: Ollama does not answer",
        _doctor("gpu2", "; ogen logs shows its journal"),
    ),
    Case(
        "OgenModelSpilled",
        {model("vram", "gpu1", 11434): f"{3 * GIB}x50"},
        {**GPU1, "ollama": "127.0.0.1:11434", "model": "chat:latest", "severity": "warning"},
        "gpu1, instance 127.0.0.1:11434: 50% of chat:latest is in host memory: slow",
        _doctor("gpu1", ": who took the card's memory, and which concession makes the model fit"),
    ),
    Case(
        "OgenPoolDown",
        {up(host, port): "0x50" for host in ("gpu1", "gpu2") for port in (11434, 11435)},
        {**CHAT, "severity": "critical"},
        "pool chat of balancer api: none of its instances is known to be up",
        "ogen doctor prometheus.yaml: every request for this model fails",
        also=("OgenInstanceDown",),
    ),
    Case(
        # a host that is away and an instance that is down; the desk's instance is of another pool
        "OgenPoolThin",
        {**of_host("gpu2"), series("up", "gpu2"): "0x50", up("gpu1", 11434): "0x50"},
        {**CHAT, "severity": "warning"},
        "pool chat of balancer api: only 1 of its instances are known to be up",
        "ogen doctor prometheus.yaml: which are down, and why",
        also=("OgenHostDown", "OgenInstanceDown"),
    ),
    Case(
        # what the front no longer says is not there, and no news of its own
        "OgenQueueDown",
        {**{one: "stale" for one in queues() if "ogen_queue" in one}, QUEUE_UP: "0x50"},
        {"queue": "jobs", "severity": "critical"},
        "queue jobs: its front or its Redis does not answer",
        "ogen doctor prometheus.yaml; ogen logs prometheus.yaml /jobs has their journals",
    ),
    Case(
        "OgenQueueNoWorker",
        {jobs("", "workers"): "0x50"},
        {**JOBS, "severity": "critical"},
        "queue jobs, model chat: no worker was heard of",
        "ogen doctor prometheus.yaml: its jobs wait until one is back",
        sums={"sum(ogen:queue_duration:seconds)": 2, "sum(ogen:queue_memory:ratio)": 0.25},
    ),
    Case(
        # those that pause before a further try take places too
        "OgenQueueNearFull",
        {jobs("waiting"): "500x50", jobs("delayed"): "300x50"},
        {**JOBS, "severity": "warning"},
        "queue jobs, model chat: 80% of its places are taken",
        "ogen doctor prometheus.yaml: more instances of the model, or a larger `length`; when it is full,"
        " jobs are refused",
    ),
    Case(
        "OgenQueueSlow",
        {jobs("", "oldest_seconds"): "601x50"},
        {**JOBS, "severity": "warning"},
        "queue jobs, model chat: the job that is next has waited for 10m 1s",
        "ogen doctor prometheus.yaml: more instances of the model",
    ),
    Case(
        "OgenQueueDeadLetters",
        {jobs("dead"): "2x50"},
        {**JOBS, "state": "dead", "severity": "warning"},
        "queue jobs, model chat: 2 jobs failed at every try",
        f"{STATUS} has the reasons; ogen queue retry runs them again; ogen doctor prometheus.yaml says it"
        " too",
    ),
    Case(
        "OgenQueueMemory",
        {redis("used"): f"{GIB // 4 * 0.875:.0f}x50"},
        {"queue": "jobs", "severity": "warning"},
        "queue jobs: 87.5% of its Redis' memory is in use",
        "ogen doctor prometheus.yaml: a shorter `expiry`, or more `redis.memory`; when it is full,"
        " jobs are refused",
    ),
    Case(
        "OgenCardExporterDown",
        {series("up", "gpu1", 9400, "ogen-cards"): "0x50"},
        {**GPU1, "severity": "warning"},
        "gpu1: NVIDIA's dcgm-exporter does not answer",
        "start it on the host; until then there are no figures of its cards",
        dialect="dcgm",
    ),
)

MIB = 1024 * 1024
UUID = "4f1c2a3b-0000-4000-8000-0123456789ab"


def dialect_series(dialect: str) -> Series:
    """One card of gpu1 in each dialect: index 1, 12 of 24 GiB in use, 35 %, 61 °C, 210.5 W."""
    port, job = {"ogen": (9100, "ogen"), "dcgm": (9400, "ogen-cards")}.get(dialect, (9000, "ogen-cards"))
    names: dict[str, tuple[Mapping[str, str], Mapping[str, float]]] = {
        "ogen": (
            {"gpu": "1", "uuid": f"GPU-{UUID}"},
            {
                "ogen_gpu_memory_used_bytes": 12 * GIB,
                "ogen_gpu_memory_total_bytes": 24 * GIB,
                "ogen_gpu_utilization_ratio": 0.35,
                "ogen_gpu_temperature_celsius": 61,
                "ogen_gpu_power_watts": 210.5,
                "ogen_gpu_up": 1,
            },
        ),
        "dcgm": (
            {"gpu": "1", "UUID": f"GPU-{UUID}", "Hostname": "gpu1.lan", "modelName": "RTX 3090"},
            {
                "DCGM_FI_DEV_FB_USED": 12 * 1024,
                "DCGM_FI_DEV_FB_FREE": 12 * 1024,
                "DCGM_FI_DEV_GPU_UTIL": 35,
                "DCGM_FI_DEV_GPU_TEMP": 61,
                "DCGM_FI_DEV_POWER_USAGE": 210.5,
            },
        ),
        "nvidia-smi": (
            {"uuid": UUID},
            {
                "nvidia_smi_index": 1,
                "nvidia_smi_memory_used_bytes": 12 * GIB,
                "nvidia_smi_memory_total_bytes": 24 * GIB,
                "nvidia_smi_utilization_gpu_ratio": 0.35,
                "nvidia_smi_temperature_gpu": 61,
                "nvidia_smi_power_draw_watts": 210.5,
            },
        ),
        "nvitop": (
            {"index": "1", "uuid": f"GPU-{UUID}", "hostname": "gpu1.lan", "devicename": "RTX 3090"},
            {
                "gpu_memory_used_MiB": 12 * 1024,
                "gpu_memory_total_MiB": 24 * 1024,
                "gpu_utilization_Percentage": 35,
                "gpu_temperature_C": 61,
                "gpu_power_usage_W": 210.5,
            },
        ),
    }
    labels, values = names[dialect]
    found = {series(name, "gpu1", port, job, **labels): f"{value}x60" for name, value in values.items()}
    return {series("up", "gpu1", port, job): "1x60", last_run("gpu1"): "0+60x60", **found}


RECORDED: Mapping[str, float] = {
    "ogen:gpu_memory_used:bytes": 12 * GIB,
    "ogen:gpu_memory_total:bytes": 24 * GIB,
    "ogen:gpu_memory_used:ratio": 0.5,
    "ogen:gpu_utilization:ratio": 0.35,
    "ogen:gpu_temperature:celsius": 61,
    "ogen:gpu_power:watts": 210.5,
}


# --------------------------------------------------------------------------------- promtool's form
def file(*tests: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "rule_files": RULES,
        "evaluation_interval": "1m",
        # alerts read what was recorded in the same minute; a group that is not named counts as the first
        "group_eval_order": [
            "ogen",
            *(f"ogen-{one}-alerts" for one in ("host", "card", "instance", "pool", "queue")),
        ],
        "tests": list(tests),
    }


def quiet(alerts: Iterable[str], values: Series) -> dict[str, Any]:
    """None of `alerts` at minute 30."""
    return _test(values, [{"eval_time": AFTER, "alertname": name} for name in alerts])


def fires(case: Case, alerts: Iterable[str]) -> dict[str, Any]:
    """`case.alert` fires as it says at minute 30 and not at minute 10; no other one does."""
    values = healthy() if case.dialect == "ogen" else {}
    before = {series("up", "gpu1", 9400, "ogen-cards"): "1x10"} if case.dialect != "ogen" else {}
    for one, later in case.changes.items():
        earlier = "0+60x10" if one == last_run("gpu1") else (values | before).get(one, "_x10")
        values[one] = f"{earlier.replace('x60', 'x10')} {later}"
    told = {
        "exp_labels": dict(case.labels),
        "exp_annotations": {"summary": case.summary, "action": case.action},
    }
    others = [name for name in alerts if name not in (case.alert, *case.also)]
    sums = {f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) > bool 0': 1 for name in case.also}
    test = _test(
        values,
        [
            {"eval_time": BEFORE, "alertname": case.alert},
            {"eval_time": AFTER, "alertname": case.alert, "exp_alerts": [told]},
            *({"eval_time": AFTER, "alertname": name} for name in (others if case.dialect == "ogen" else ())),
        ],
    )
    asked = [
        {"expr": expr, "eval_time": AFTER, "exp_samples": [{"labels": "{}", "value": value}]}
        for expr, value in {**sums, **case.sums}.items()
    ]
    return {**test, "promql_expr_test": asked}


def records(dialect: str) -> dict[str, Any]:
    """The same figures under the same names, whoever told them."""
    who = f'group="boxes", gpu="1", host="gpu1", uuid="GPU-{UUID}"'
    expected = {name: f"{name}{{{who}}}" for name in RECORDED}
    tests = [
        {"expr": name, "eval_time": "5m", "exp_samples": [{"labels": labels, "value": RECORDED[name]}]}
        for name, labels in expected.items()
    ]
    count = "ogen:gpus_up:count"
    one = {"labels": f'{count}{{group="boxes", host="gpu1"}}', "value": 1}
    tests.append({"expr": count, "eval_time": "5m", "exp_samples": [one]})
    return {**_test(dialect_series(dialect), []), "promql_expr_test": tests}


def _test(values: Series, alerts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [{"series": one, "values": line} for one, line in values.items()],
        "alert_rule_test": alerts,
    }
