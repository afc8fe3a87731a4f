"""Recording rules: from exporters' words to ogen's names, which alerts and dashboards use."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from ..plan.model import Entry, HostPlan, Plan, Pool
from .dialects import CARDS_JOB, Dialect
from .rules import Group, Record

JOB = "ogen"  # the scrape of the node_exporters
CARD = "host, group, gpu, uuid"


def watched(plan: Plan) -> tuple[str, ...]:
    """The hosts whose monitor runs: those with instances or a queue's front, unless it is turned off."""
    return tuple(h.host.name for h in plan.hosts if to_watch(h) and h.host.monitoring.enabled)


def to_watch(host: HostPlan) -> bool:
    """Whether the host has anything that a monitor tells of."""
    return bool(host.instances) or any(host.host.name in work.fronts for work in host.works)


def stale_after(plan: Plan) -> int:
    """Seconds after which a monitor's figures count for nothing: clocks and scrapes may be a bit off."""
    longest = max((h.host.monitoring.interval for h in plan.hosts if to_watch(h)), default=0.0)
    return max(120, round(5 * longest))


def recording(plan: Plan, dialect: Dialect, live: str) -> list[Group]:
    """One group, since only a group's rules are evaluated in order: each after those that it reads."""
    fresh = f"and on (host) (ogen:monitor_age:seconds < {stale_after(plan)})"
    pools = [rule for entry in plan.entries for rule in _pools(plan, entry, live)]
    cards = [*_cards(dialect, fresh), *_planned_cards(plan, own=dialect.port is None)]
    queues = _queues(fresh) if plan.works else []
    return [("ogen", [*_hosts(), *cards, *_instances(plan, fresh), *pools, *queues])]


def _hosts() -> list[Record]:
    age = "time() - ogen_monitor_last_run_timestamp_seconds"
    return [
        Record("ogen:host_up:bool", f'max by (host, group) (up{{job="{JOB}"}})'),
        Record("ogen:monitor_age:seconds", f"max by (host, group) ({age})"),
    ]


def _cards(dialect: Dialect, fresh: str) -> list[Record]:
    """The monitor's figures stay in its textfile when it ends; an exporter's end with it."""
    own = dialect.port is None
    rules = [
        Record(f"ogen:gpu_{figure}", f"max by ({CARD}) ({expr})" + (f"\n{fresh}" if own else ""))
        for figure, expr in dialect.series.items()
    ]
    ratio = Record("ogen:gpu_memory_used:ratio", "ogen:gpu_memory_used:bytes / ogen:gpu_memory_total:bytes")
    rules.insert(2, ratio)
    if own:
        there = f"max by ({CARD}) (ogen_gpu_up)\n{fresh}"
        reader = f"max by (host, group) (ogen_gpu_driver_up) {fresh}"
    else:
        there = "max by (host, group, gpu) (0 * ogen:gpu_memory_total:bytes + 1)"
        reader = f'max by (host, group) (up{{job="{CARDS_JOB}"}} == 1)'
    # a lost card may be gone altogether: where the figures' reader works, no series means no card
    count = f"sum by (host, group) (ogen:gpu_up:bool)\nor\n0 * ({reader})"
    return [*rules, Record("ogen:gpu_up:bool", there), Record("ogen:gpus_up:count", count)]


def _planned_cards(plan: Plan, *, own: bool) -> list[Record]:
    """How many cards each host should show: NVIDIA's exporters know no others, the monitor does."""
    names, by_count = set(watched(plan)), dict[int, list[str]]()
    for one in plan.hosts:
        cards = sum((own or gpu.vendor == "nvidia") and gpu.state == "in" for gpu in one.host.gpus)
        if cards and one.host.name in names:
            by_count.setdefault(cards, []).append(one.host.name)
    each = [
        f"0 * ogen:host_up:bool{{{_matcher('host', hosts)}}} + {count}"
        for count, hosts in sorted(by_count.items())
    ]
    return [Record("ogen:gpus_planned:count", "\nor\n".join(each))] if each else []


def _instances(plan: Plan, fresh: str) -> list[Record]:
    one, model = "host, group, ollama", "host, group, ollama, model"
    names = set(watched(plan))
    planned = sum(len(h.instances) for h in plan.hosts if h.host.name in names)
    return [
        Record("ogen:instance_up:bool", f"max by ({one}) (ogen_ollama_up)\n{fresh}"),
        Record("ogen:instances_planned:count", f"vector({planned})"),
        Record("ogen:model_size:bytes", f"max by ({model}) (ogen_ollama_model_size_bytes)\n{fresh}"),
        Record("ogen:model_vram:bytes", f"max by ({model}) (ogen_ollama_model_vram_bytes)\n{fresh}"),
        # what stands beside the card; Ollama may count more on it than the model has
        Record(
            "ogen:model_spilled:ratio",
            "clamp_min(1 - ogen:model_vram:bytes / (ogen:model_size:bytes > 0), 0)",
        ),
    ]


def _pools(plan: Plan, entry: Entry, live: str) -> Iterable[Record]:
    names = set(watched(plan))
    for pool in entry.pools:
        members = [(m.host, m.port) for m in pool.members if m.host in names]
        labels = {"balancer": entry.balancer.name, "pool": pool.name}
        if len(members) < len(pool.members) or not members:
            continue  # nobody tells of all of its instances
        up = "\nor\n".join(f"ogen:instance_up:bool{{{one}}}" for one in selectors(members))
        yield Record("ogen:pool_instances_up:count", f"sum(\n{up}\n)\nor\nvector(0)", labels)
        yield Record("ogen:pool_instances_planned:count", f"vector({len(members)})", labels)
        yield Record("ogen:pool_instances_least:count", f"vector({least(pool, live)})", labels)


def _queues(fresh: str) -> list[Record]:
    """Each front tells of the whole queue: what several say is one."""
    one, whole = "queue, model", fresh.replace("\n", " ")

    def of(by: str, expr: str) -> str:
        return f"max by ({by}) ({expr} {whole})"

    ended = of(f"{one}, what", "rate(ogen_queue_jobs_total[5m])")
    done = 'ogen:queue_jobs:rate{what="done"}'
    used, most = "ogen_queue_redis_memory_used_bytes", "ogen_queue_redis_memory_max_bytes"
    return [
        Record("ogen:queue_up:bool", of("queue", "ogen_queue_up")),
        Record("ogen:queue_jobs:count", of(f"{one}, state", "ogen_queue_jobs")),
        Record("ogen:queue_places:count", of(one, "ogen_queue_places")),
        Record("ogen:queue_oldest:seconds", of(one, "ogen_queue_oldest_seconds")),
        Record("ogen:queue_workers:count", of(one, "ogen_queue_workers")),
        Record("ogen:queue_jobs:rate", ended),
        Record(
            "ogen:queue_duration:seconds",
            of(one, "rate(ogen_queue_busy_seconds_total[5m])")
            + f"\n/ on (queue, model)\n(max by ({one}) ({done}) > 0)",
        ),
        Record("ogen:queue_memory:bytes", of("queue", used)),
        Record("ogen:queue_memory:ratio", of("queue", f"{used} / ({most} > 0)")),
    ]


def least(pool: Pool, live: str) -> int:
    """How many of its instances must be up: `live` is a number or a percentage, rounded up; 1 to all."""
    planned = len(pool.members)
    wanted = -(-planned * int(live[:-1]) // 100) if live.endswith("%") else int(live)
    return max(1, min(wanted, planned))


def selectors(places: Iterable[tuple[str, int]]) -> list[str]:
    """Matchers for instances, given as host and port; hosts with the same ports are one matcher."""
    ports: dict[str, list[int]] = {}
    for host, port in places:
        ports.setdefault(host, []).append(port)
    alike: dict[tuple[int, ...], list[str]] = {}
    for host, own in ports.items():
        alike.setdefault(tuple(sorted(set(own))), []).append(host)
    return [
        f"{_matcher('host', hosts)},{_matcher('ollama', [f'127.0.0.1:{port}' for port in own])}"
        for own, hosts in alike.items()
    ]


def _matcher(label: str, values: Sequence[str]) -> str:
    if len(values) == 1:
        return f"{label}={json.dumps(values[0])}"
    # the one character of names and addresses that a regular expression reads otherwise
    either = "|".join(value.replace(".", "\\.") for value in values)
    return f"{label}=~{json.dumps(either)}"
