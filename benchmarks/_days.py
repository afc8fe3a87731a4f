"""A day of a fleet, made up from a seed: files as its monitors and balancers write them.

Monitor's files are written by templates/monitor.py's own functions.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import random
import time
from pathlib import Path
from typing import Any

from ogen.inventory import load
from ogen.plan import plan

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30
END = 1_800_014_400  # 2027-01-15T12:00:00Z
DAY = 86400
Loads = dict[tuple[str, int], list[tuple[str, float]]]  # (host, card) → models and their GiB there


def inventory(hosts: int, cards: int) -> str:
    """Hosts gpu1 to gpuN, each with RTX 3090s, and one balancer."""
    lines = [
        "version: 1",
        "models:",
        '  chat: {from: "llama3.1:8b-instruct-q4_K_M", context: 16384, replicas: fill}',
        '  writer: {from: "qwen2.5:14b", context: 8192, replicas: fill}',
        "hosts:",
        *(
            f"  gpu{n}: {{address: 192.0.2.{n}, gpus: [{{model: RTX 3090, count: {cards}}}]}}"
            for n in range(1, hosts + 1)
        ),
        "  edge: {address: 198.51.100.1}",
        "balancers:",
        "  api: {hosts: [edge], listen: 8080}",
    ]
    return "\n".join(lines) + "\n"


def monitor() -> Any:
    spec = importlib.util.spec_from_file_location("ogen_monitor", ROOT / "templates" / "monitor.py")
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def office(at: float) -> float:
    """How busy people are, 0 to 1: mornings and afternoons, little at night."""
    hour = at / 3600 % 24
    return (
        0.06 + 0.94 * (math.exp(-(((hour - 10.5) / 2.2) ** 2)) + math.exp(-(((hour - 15) / 2.4) ** 2))) / 1.1
    )


def planned(path: Path) -> Loads:
    """What the plan of an inventory has on each card."""
    loads: Loads = {}
    for host in plan(load(path)).hosts:
        for instance in host.instances:
            for placement in instance.placements:
                size = placement.account.total_gpu_bytes / GIB
                for gpu in instance.gpus:
                    name = f"{placement.model.name}:latest"
                    loads.setdefault((host.host.name, gpu.index), []).append(
                        (name, size / len(instance.gpus))
                    )
    return loads


def write(folder: Path, hosts: int, cards: int, every: int = 60, requests: int = 20_000) -> None:
    """`folder`/inventory.yaml and `folder`/files/HOST/…, of the day before END.

    gpu2 lacks two hours, and its card 1 fills up; an instance of gpu1 is restarted after an apply.
    """
    folder.mkdir(parents=True)
    path = folder / "inventory.yaml"
    path.write_text(inventory(hosts, cards), encoding="utf-8")
    loads, script, folder = planned(path), monitor(), folder / "files"
    for n in range(1, hosts + 1):
        place = folder / f"gpu{n}"
        place.mkdir(parents=True)
        _host(script, place, n, loads, cards, every)
    (folder / "edge").mkdir()
    _log(folder / "edge" / "balancer-api.log", hosts, cards, requests)
    for path in folder.rglob("*.*"):
        os.utime(path, (END, END))  # a file that was last written before a report's span is not read


def _host(script: Any, folder: Path, n: int, loads: Loads, cards: int, every: int) -> None:
    dice = random.Random(n)
    rows: list[Any] = []
    models: list[Any] = []
    for at in range(END - DAY, END, every):
        hour = (at - END + DAY) / 3600
        if n == 2 and 13 <= hour < 15:
            continue  # the host was off
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
        rows += script.card_rows(
            stamp,
            [
                _card(dice, n, index, at, hour, sum(size for _, size in loads[f"gpu{n}", index]))
                for index in range(cards)
            ],
        )
        states = []
        for index in range(cards):
            up = not (n == 1 and index == 0 and 17 <= hour < 17.2)
            loaded = (
                [_model(name, size, n, index, hour) for name, size in loads[f"gpu{n}", index]] if up else []
            )
            states.append({"name": f"gpu{index}", "up": up, "models": loaded})
        models += script.model_rows(stamp, states)
    script.append(str(folder / "cards.csv"), script.CARDS_HEADER, rows)
    script.append(str(folder / "models.csv"), script.MODELS_HEADER, models)
    if n == 1:
        entry = {"time": "2027-01-15T05:00:00Z", "status": "applied", "to": "f502f817565e0fe6", "from": None}
        (folder / "audit.jsonl").write_text(json.dumps(entry) + "\n")


def _card(dice: random.Random, n: int, index: int, at: int, hour: float, load: float) -> dict[str, Any]:
    busy = min(100, max(0, round(100 * office(at) * (0.9 - 0.12 * index) + dice.gauss(0, 9))))
    used = load - 0.9 + 0.005 * busy + dice.random() * 0.1
    if n == 1 and index == 0 and 17 <= hour < 17.2:
        used, busy = 0.5, 0
    if n == 2 and index == 1 and hour > 19:
        used = min(23.9, used + (hour - 19) * 4)  # somebody else's job
    return {
        "gpu": index,
        "uuid": f"GPU-{n:04}-{index}",
        "name": "NVIDIA GeForce RTX 3090",
        "used": int(used * GIB),
        "free": int((24 - used) * GIB),
        "total": 24 * GIB,
        "utilization": busy,
        "temperature": round(38 + 0.4 * busy + dice.gauss(0, 1)),
        "power": 30 + 3.1 * busy + dice.random() * 5,
    }


def _model(name: str, size: float, n: int, index: int, hour: float) -> dict[str, Any]:
    spilled = 2.1 if n == 2 and index == 1 and hour > 22 and name == "chat:latest" else 0.0
    whole, beside = int(size * GIB), int(spilled * GIB)
    return {
        "name": name,
        "size": whole,
        "vram": whole - beside,
        "host": beside,
        "context": 8192,
        "expires": "",
    }


def _log(path: Path, hosts: int, cards: int, requests: int) -> None:
    dice = random.Random(7)
    times = sorted(_time(dice) for _ in range(requests))
    with path.open("w") as file:
        for at in times:
            file.write(_line(dice, at, hosts, cards) + "\n")


def _time(dice: random.Random) -> float:
    while True:
        at = END - DAY + dice.random() * DAY
        if dice.random() < office(at):
            return at


def _line(dice: random.Random, at: float, hosts: int, cards: int) -> str:
    hour = (at - END + DAY) / 3600
    host, card = dice.randrange(hosts) + 1, dice.randrange(cards)
    while (host == 2 and 13 <= hour < 15) or (host == 1 and card == 0 and 17 <= hour < 17.2):
        host, card = dice.randrange(hosts) + 1, dice.randrange(cards)
    slow = 4.0 if host == 2 and card == 1 and hour > 22 else 1.0
    first = dice.lognormvariate(-1.2, 0.5) * slow * (1 + office(at))
    seconds = first + dice.lognormvariate(0.9, 0.7) * slow
    status = dice.choices((200, 499, 502), (97, 2, 4 if 17 <= hour < 17.2 else 0.2))[0]
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(at)),
        "client": "192.0.2.200",
        "method": "POST",
        "uri": "/v1/chat/completions",
        "status": status,
        "seconds": round(seconds, 3),
        "bytes": 2000,
        "id": f"{dice.getrandbits(128):032x}",
        "upstream": f"192.0.2.{host}:{11434 + card}",
        "upstream_status": str(status if status != 499 else "-"),
        "upstream_seconds": f"{seconds:.3f}",
        "first_seconds": f"{first:.3f}",
    }
    return json.dumps(entry, separators=(",", ":"))
