"""Healthy fleets of all sorts: inventories made up by a seed, and what their hosts would say of themselves."""

# ruff: noqa: E501 (lines of logs are kept whole)

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ogen.agent import look_access
from ogen.agent.look_log import TELLING
from ogen.catalog.versions import Era, era
from ogen.errors import OgenError
from ogen.inventory import load
from ogen.inventory.model import Gpu
from ogen.observe.evidence import HostSeen
from ogen.observe.hearing import host_seen
from ogen.observe.looking import members
from ogen.plan import plan
from ogen.plan.model import Entry, HostPlan, Instance, Placement, Plan, Work
from ogen.plan.picture import use_of
from ogen.push import Comparison
from ogen.render import render
from ogen.render.upstreams import place, reached, upstream_name

Said = dict[str, Any]
MIB = 1 << 20
CARDS = ("RTX 3090", "RTX 4090", "A100 80GB", "RTX 3060", "L40S", "RX 7900 XTX", "MI210")
AMD = ("RX 7900 XTX", "MI210")
VERSIONS = ("0.32.15", "0.32.15", "0.31.2", "0.30.0", "0.20.3", "0.13.0", "0.12.6", "0.9.6")
MODELS = {
    "chat": '{from: "llama3.1:8b-instruct-q4_K_M", context: {want: 8192, at_least: 2048}, replicas: fill%s}',
    "embed": "{from: nomic-embed-text, embedding: true, context: 2048, replicas: 1%s}",
    "coder": '{from: "qwen2.5-coder:7b-instruct-q4_K_M", context: 4096, replicas: 1%s}',
    "writer": '{from: "qwen2.5:14b", context: 4096, replicas: 1%s}',
    "large": '{from: "llama3.3:70b-instruct-q4_K_M", context: 4096, replicas: 1%s}',
    "tight": '{from: "qwen2.5-coder:32b-instruct-q4_K_M", context: {want: 8192, at_least: 2048}, gpu_layers_at_least: 10, replicas: 1%s}',
}


# ------------------------------------------------------------------------------------ inventories
def fleet(seed: int, folder: Path) -> Plan:
    """The first inventory of this seed's row that can be planned; the same every time."""
    dice = random.Random(seed)
    for _ in range(60):
        path = folder / "inventory.yaml"
        path.write_text(inventory(dice, THEMES[seed % len(THEMES)]))
        try:
            return plan(load(path))
        except OgenError:
            continue
    raise AssertionError(f"seed {seed} makes nothing that fits")


#: cards and how many of them, models beside chat: what a row of seeds is about
Theme = tuple[Sequence[str], Sequence[int], Sequence[str]]
THEMES: tuple[Theme, ...] = (
    (CARDS, (1, 1, 2, 2, 4, 8), ("embed", "coder", "writer")),
    (("RTX 3060",), (1, 2), ("tight",)),
    (CARDS, (1, 2, 4), ("embed", "coder", "writer", "large")),
    (("RTX 3090", "RTX 4090"), (4, 8), ("large", "coder")),
)


def inventory(dice: random.Random, theme: Theme) -> str:
    version, count = dice.choice(VERSIONS), dice.choice([1, 1, 2, 3, 5])
    shared = dice.choice(
        ["", ", flash_attention: true", ", kv_cache: q8_0, flash_attention: true", ", keep_alive: 24h"]
    )
    names = ["chat", *dice.sample(theme[2], dice.randint(1, len(theme[2])))]
    lines = ["version: 1", f"ollama: {{version: {version}{shared}}}", "models:"]
    for name in names:
        turns = name in ("coder", "writer") and dice.random() < 0.6
        more = ", residency: on_demand" if turns else dice.choice(["", ", parallel: 2", ""])
        lines.append(f"  {name}: " + MODELS[name] % more)
    pinned = "embed" in names and dice.random() < 0.5  # it runs without a card
    lines.append("hosts:")
    lines += [f"  box{n}: {host(dice, n, n == 0 and pinned, theme)}" for n in range(count)]
    edge = dice.random() < (0.7 if count > 1 else 0.3)
    lines += ["  edge: {address: 192.0.2.200}"] * edge
    lines.append("balancers:")
    lines += [f"  {line}" for line in balancers(dice, "edge" if edge else "box0")]
    lines += ["queues:", "  jobs: {redis: {url: !env URL}, balancers: [api], length: 100}"] * (len(lines) % 2)
    return "\n".join(lines) + "\n"


def host(dice: random.Random, number: int, pinned: bool, theme: Theme) -> str:
    model, count = dice.choice(theme[0]), dice.choice(theme[1])
    cards = []
    for index in range(count):
        card = f"model: {model}"
        card += (
            f", uuid: GPU-{number:08x}-0000-4000-8000-{index:012x}" if number % 2 and model not in AMD else ""
        )
        card += dice.choice(["", "", ", reserve: 1GiB"])
        card += ", state: out, reason: fan" if index and dice.random() < 0.1 else ""
        cards.append(f"{{{card}}}")
    pins = ", instances: [{gpus: [], models: [embed], port: 11500}]" if pinned else ""
    more = dice.choice(
        ["", ", weight: 3", f", data_address: 198.51.100.{number + 1}", ", monitoring: {enabled: false}"]
    )
    return f"{{address: 192.0.2.{number + 1}, gpus: [{', '.join(cards)}]{pins}{more}}}"


def balancers(dice: random.Random, on: str) -> Iterator[str]:
    strategy = dice.choice(["least_conn", "round_robin", "ip_hash", "random", "least_conn"])
    keys = dice.choice(["", ", keys: !env KEYS", ", keys: !env KEYS, limits: {rate: 10/s, burst: 20}"])
    gate = dice.choice(["", ", gate: true"])
    yield f"api: {{hosts: [{on}], listen: 8080, strategy: {strategy}{keys}{gate}}}"
    if dice.random() < 0.4:
        yield f"side: {{hosts: [{on}], listen: 9000, routing: per_port, into: conf.d}}"
    if dice.random() < 0.3:
        yield f"one: {{hosts: [{on}], listen: 8090, routing: single, pool: chat, allow: [192.0.2.0/24]}}"


# ------------------------------------------------------------------------------------ what hosts say
Hurt = Callable[[Said, Instance], None]


def looks(planned: Plan, seed: int, folder: Path, hurt: Hurt | None = None) -> dict[str, HostSeen]:
    """All hosts of a fleet that runs as planned, with some use of it behind them; `hurt` changes the last one
    that has instances: what it says, of which of them.
    """
    dice, seen = random.Random(seed), {}
    ages = {
        i.unit + i.host: dice.choice([300.0, 4000.0, 90000.0]) for h in planned.hosts for i in h.instances
    }
    manifests = {release.host: release.manifest() for release in render(planned)}
    for one in planned.hosts:
        name, manifest = one.host.name, json.loads(json.dumps(manifests[one.host.name]))
        said = look(one, manifest, dice, ages)
        said["reached"] = [[*spot, ""] for spot in members(planned, name)]
        said["queues"] = {w.queue.name: jobs(w, dice) for w in one.works if name in w.fronts}
        said["edges"] = {e.balancer.name: access(e, name, dice, folder) for e in one.entries}
        if hurt and one is [h for h in planned.hosts if h.instances][-1]:
            hurt(said, one.instances[-1])
        compared = Comparison(name, "r1", "r1", unchanged=True, files=())
        offset = dice.uniform(-5, 5)
        seen[name] = host_seen(name, json.loads(json.dumps(said)), compared, offset, 0.2)
    return seen


def jobs(work: Work, dice: random.Random) -> Said:
    """A queue that is busy, and still well."""
    pools = {}
    for pool in work.pools:
        heard = {f"{m.host}/{m.instance}": dice.uniform(0, 5) for m in pool.members}
        waiting = dice.choice([0, 0, 3, 60])
        pools[pool.name] = {"waiting": waiting, "delayed": dice.choice([0, 2]), "running": 1, "dead": 0}
        pools[pool.name] |= {"length": work.queue.length, "oldest_s": 500.0 * (waiting > 0), "closed": False}
        pools[pool.name] |= {"workers": {**heard, "box9/gone": 4000.0}, "counts": {}}
    memory = dice.choice(
        [{"used_bytes": 175 * MIB, "most_bytes": 256 * MIB}, {"used_bytes": 9 * MIB, "most_bytes": 0}]
    )
    return {"pools": pools, "memory": memory}


def look(one: HostPlan, manifest: Said, dice: random.Random, ages: dict[str, float]) -> Said:
    loaded = {i.name: in_memory(i, dice) for i in one.instances}
    rows = [row(one, gpu, loaded, dice) for gpu in one.host.gpus]
    blobs: dict[str, list[str]] = {}
    for view in manifest["views"]:
        model = "/".join(view["path"].rsplit("/", 2)[1:]).replace("/", ":")
        blobs.setdefault(blob(view["model"]), []).append(model)
    builds = {view["path"].rsplit("/", 2)[1]: view["model"] for view in manifest["views"]}
    return {
        "time": time.time(),
        "live": True,
        "current": "r1",
        "locked": None,
        "idle": True,
        "proofs": manifest["instances"],
        "balancers": manifest["balancers"],
        "hashes": {proof["balancer"]: proof["hash"] for proof in manifest["balancers"]},
        "units": dict(units(one, manifest, ages, dice)),
        "cards": {"code": 0, "said": [], "rows": rows, "apps": []}
        if rows
        else {"code": 127, "said": ["nvidia-smi: not found"], "rows": []},
        "instances": {i.name: answer(one, i, loaded[i.name]) for i in one.instances},
        "logs": {
            **{i.unit: journal(one, i, loaded[i.name], builds, ages[i.unit + i.host]) for i in one.instances},
            **{
                p["unit"]: {"start": [], "lines": [], "last": [[time.time() - 9, "signal process started"]]}
                for p in manifest["balancers"]
            },
        },
        "store": {
            "folder": one.host.ollama.models_dir,
            "disk": {"there": True, "total": 1 << 40, "free": 1 << 38, "inodes": 10**7, "inodes_free": 10**6},
            "blobs": blobs,
            "lacking": [],
            "elsewhere": {},
            "unmounted": "",
        }
        if one.instances
        else {},
        "listeners": [
            f'LISTEN 0 4096 127.0.0.1:{i.port} 0.0.0.0:* users:(("ollama",pid={i.port},fd=3))'
            for i in one.instances
        ],
        "servers": [],
        "peaks": {r["uuid"]: [time.time() - 200, (int(r["memory.used"]) + 150) * MIB] for r in rows},
        "leases": [],
    }


def in_memory(instance: Instance, dice: random.Random) -> list[Placement]:
    """The resident ones, and of those that take turns one or none."""
    stay = [p for p in instance.placements if p.model.residency == "resident"]
    turns = [p for p in instance.placements if p.model.residency != "resident"]
    return stay + ([dice.choice(turns)] if turns and not stay and dice.random() < 0.7 else [])


def row(one: HostPlan, gpu: Gpu, loaded: dict[str, list[Placement]], dice: random.Random) -> Said:
    mine = [i for i in one.instances if any(g.index == gpu.index for g in i.gpus)]
    use = use_of(gpu, mine, one.host.ollama.version)
    held = use.weights + use.kv + use.compute if all(loaded[i.name] for i in mine) else 0
    others = dice.uniform(0, 0.9) * gpu.reserve
    used = held * dice.uniform(0.93, 1.0) + others + 350 * MIB * bool(mine)
    vram = int(gpu.vram * dice.uniform(0.98, 1.0))  # drivers keep some of it
    return {
        **({"vendor": "amd"} if gpu.vendor == "amd" else {}),
        "index": str(gpu.index),
        "uuid": gpu.uuid or f"GPU-{one.host.name}-{gpu.index}",
        "pci.bus_id": f"00000000:{gpu.index + 1:02x}:00.0",
        "name": gpu.model,
        "driver_version": "570.86.10",
        "memory.total": str(vram // MIB),
        "memory.used": str(int(used) // MIB),
        "utilization.gpu": str(dice.randint(0, 100)),
        "temperature.gpu": str(dice.randint(30, 84)),
        "power.draw": "[N/A]",
    }


def units(
    one: HostPlan, manifest: Said, ages: dict[str, float], dice: random.Random
) -> Iterator[tuple[str, Said]]:
    shown = {
        "active": "active",
        "sub": "running",
        "loaded": "loaded",
        "enabled": "enabled",
        "result": "success",
        "restarts": 0,
    }
    for unit in manifest["units"]:
        name = unit["name"]
        if "@" not in name:
            age = ages.get(name + one.host.name, 90000.0)
            idle = {"active": "inactive", "sub": "dead"} if unit["kind"] == "oneshot" else {}
            yield name, {**shown, "age": age, "restarts": dice.choice([0, 0, 1]), **idle}
    for proof in manifest["balancers"]:
        yield proof["unit"], {**shown, "age": 90000.0}
    yield "ollama.service", {**shown, "active": "inactive", "sub": "dead", "age": None}


def answer(one: HostPlan, instance: Instance, loaded: list[Placement]) -> Said:
    tells = one.host.ollama.version != "0.9.6"  # /api/ps has contexts since 0.10
    models = []
    for placed in loaded:
        need = placed.account
        vram = need.weights_bytes + need.kv_bytes + need.compute_bytes
        size = vram if placed.verdict == "full" else vram + need.host_weights_bytes + need.host_kv_bytes
        name = placed.model.name + ":latest"
        models.append(
            {
                "name": name,
                "size": size,
                "size_vram": vram,
                "context_length": placed.settings.context if tells else None,
            }
        )
    return {"version": one.host.ollama.version, "models": models, "error": ""}


def blob(build: str) -> str:
    return "sha256-" + hashlib.sha256(build.encode()).hexdigest()


# ------------------------------------------------------------------------------------ their logs
def journal(
    one: HostPlan, instance: Instance, loaded: list[Placement], builds: dict[str, str], age: float
) -> Said:
    """What a run has said, as far as the agent keeps it."""
    start = [
        f'time=x level=INFO source=routes.go:1 msg="server config" env="map[OLLAMA_MAX_QUEUE:512 OLLAMA_MODELS:/run/ogen-{instance.name}/models OLLAMA_NOPRUNE:true]"',
        'time=x level=INFO source=images.go:1 msg="total blobs: 9"',
        *devices(one, instance),
    ]
    lines = [*start, *(line for placed in loaded for line in loading(one, placed, builds[placed.model.name]))]
    lines += [
        f'[GIN] 2026/11/23 - 22:57:35 | {status} |  1.3s |  127.0.0.1 | POST     "/api/chat"'
        for status in (200, 200, 404, 499)
    ]
    lines += [
        'time=x level=WARN source=types.go:1 msg="requested context size too large for model" num_ctx=9 n_ctx_train=8'
    ]
    begun = time.time() - age
    kept = [[begun + n, line] for n, line in enumerate(lines) if TELLING.search(line)]
    return {"start": kept[: len(start)], "lines": kept, "last": kept[-3:]}


def devices(one: HostPlan, instance: Instance) -> Iterator[str]:
    head = 'time=x level=INFO source=types.go:1 msg="inference compute"'
    if not instance.gpus:
        yield f'{head} id=cpu library=cpu compute="" name=cpu description=cpu total="64.0 GiB"'
    for place_, gpu in enumerate(instance.gpus):
        uuid = gpu.uuid or f"GPU-{one.host.name}-{gpu.index}"
        library = "ROCm" if gpu.vendor == "amd" else "CUDA"
        if era(one.host.ollama.version) is Era.C or gpu.vendor == "amd":
            yield f"{head} id={place_} filter_id={gpu.uuid or gpu.index} library={library} name={library}{place_} pci_id=0000:{gpu.index + 1:02x}:00.0 type=discrete"
        else:
            yield f'{head} id={uuid} library={library.lower()} name="{gpu.model}" driver=12.4 total="24.0 GiB"'


def loading(one: HostPlan, placed: Placement, build: str) -> Iterator[str]:
    need, age, file = placed.account, era(one.host.ollama.version), "/m/blobs/" + blob(build)
    less = 0 if placed.verdict == "full" else min(2, need.layers)  # fit measures what the plan computes
    layers = f"offloaded {need.layers - less}/{need.layers_total} layers to GPU"
    if age is Era.C:
        yield f'time=x level=INFO msg="loading model via llama-server" model={file}'
        yield f'time=x level=INFO msg="starting llama-server" cmd="/x/llama-server --model {file} -c {placed.settings.context * placed.slots} -np {placed.slots}"'
        yield "llama_model_load_from_file_impl: using device CUDA0 (X) (0000:01:00.0) - 24000 MiB free"
    elif age is Era.B:
        yield f'time=x level=INFO msg="starting runner" cmd="/x/ollama runner --ollama-engine --model {file} --port 4000"'
    else:
        yield f"time=x level=INFO source=memory.go:36 msg=offload library=cuda layers.requested=-1 layers.model={need.layers_total} layers.offload={need.layers}"
        yield f'time=x level=INFO msg="starting runner" cmd="/x/ollama runner --model {file} --ctx-size {placed.settings.context}"'
    yield f'time=x level=INFO msg="{layers}"' if age is Era.B else f"load_tensors: {layers}"
    yield f"load_tensors:   CPU_Mapped model buffer size = {need.host_weights_bytes / MIB:8.2f} MiB"
    yield 'time=x level=INFO msg="llama-server started in 3.21 seconds"'


def access(entry: Entry, here: str, dice: random.Random, folder: Path) -> Said:
    """A log of the balancer's last two hours, read as the agent reads it."""
    lines = [line for pool in entry.pools for line in requests(entry, pool, here, dice)]
    path = folder / "access.log"
    path.write_text(
        "".join(json.dumps(line) + "\n" for line in sorted(lines, key=lambda line: str(line["time"])))
    )
    kept, look_access._paths = look_access._paths, lambda balancer: [str(path)]
    try:
        return look_access.access(entry.balancer.name, 86400.0)
    finally:
        look_access._paths = kept


def requests(entry: Entry, pool: Any, here: str, dice: random.Random) -> Iterator[Said]:
    """Good ones by the instances' weights, now and then a key that is wrong or somebody who leaves."""
    served = [m for m in pool.members if not m.backup] or list(pool.members)
    sticky = entry.balancer.strategy in ("ip_hash", "hash")
    weights = [m.slots if entry.balancer.gate else m.weight for m in served]
    count = dice.choice([0, 10, 300, 900])
    for number in range(count):
        client = f"192.0.2.{100 + number % 3}"
        member = served[int(client[-1]) % len(served)] if sticky else dice.choices(served, weights)[0]
        seconds, at = dice.uniform(0.2, 2.0), time.time() - 7200 + 7190 * number / count
        answered = {
            "status": 200,
            "upstream": place(reached(member, here), member.port),
            "upstream_status": "200",
        }
        if number % 40 == 7:
            answered = {"status": dice.choice([401, 404, 429, 499]), "upstream": "", "upstream_status": ""}
            seconds = dice.uniform(0.0, 40.0)
        shown = {"pool": upstream_name(pool.name)} if entry.balancer.routing == "by_model" else {}
        stamp = datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S+00:00")
        yield {
            "time": stamp,
            "client": client,
            "method": "POST",
            "uri": "/api/chat",
            "seconds": seconds,
            "upstream_seconds": f"{seconds:.3f}",
            **answered,
            **shown,
        }
