"""A fleet with a queue on boxes, its clients, and what its instances wrote down of their work."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster import Project
from lab import Lab
from test_queue_boxes import KEYS, SECRET, certificate, wheels

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: {key}}}
ollama: {{version: 0.32.15, binary: /usr/local/bin/ollama}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: {context}, parallel: 2, replicas: fill}}
groups:
  boxes: {{hosts: [gpu1, gpu2], gpus: [{{model: RTX 3090, count: 2}}]}}
hosts:
  gpu1: {{address: {gpu1}}}
  gpu2: {{address: {gpu2}}}
  edge: {{address: {edge}}}
balancers:
  api: {{hosts: [edge], listen: 8080, keys: !file secrets/keys.yaml}}
queues:
  jobs:
    redis:
      host: edge
      secret: !file secrets/queue
      memory: {memory}
      tls: {{certificate: /etc/ssl/redis.pem, key: /etc/ssl/private/redis.key, ca: /etc/ssl/redis.pem}}
    balancers: [api]
    length: {length}
    tries: 50
    backoff: 1s
    lease: 5s
"""
GPUS = ("gpu1", "gpu2")
PLACES = tuple((box, card) for box in GPUS for card in ("gpu0", "gpu1"))
SLOTS = 2 * len(PLACES)
UNENDED = ("waiting", "delayed", "running")
REDIS = (
    "redis-cli --no-auth-warning --tls --cacert /etc/ssl/redis.pem -h {address} "
    '--user front -a "$(cat /etc/ogen/current/queues/jobs/front.secret)"'
)


class Fleet:
    """Two boxes with two cards each, and the edge with nginx, the front and Redis."""

    def __init__(self, boxes: Lab, folder: Path) -> None:
        (folder / "secrets").mkdir()
        (folder / "secrets" / "queue").write_text(SECRET + "\n")
        (folder / "secrets" / "keys.yaml").write_text(json.dumps({**KEYS, "carol": "carol-0123456789abcdef"}))
        self.boxes, self.project = boxes, Project(boxes, folder, (*GPUS, "edge"))
        self.address = boxes.address("edge")
        self.keys = {**KEYS, "carol": "carol-0123456789abcdef"}
        certificate(boxes, *GPUS)
        for box in GPUS:
            boxes.write(box, "/etc/testbed/record", "")
        for box in (*GPUS, "edge"):
            self.network(box, "sysctl", "-w", "net.ipv4.tcp_orphan_retries=1")  # see `dark`
        self.answers(125, 8)
        self.settings: dict[str, object] = {"context": 8192, "length": 100, "memory": "256MiB"}
        self.project.write(INVENTORY, **self.settings)
        wheels(self.project)
        self.project.ogen("provision")
        self.project.ogen("apply")

    def answers(self, token_ms: int, tokens: int) -> None:
        """How long the stand-in's answers take."""
        for box in GPUS:
            self.boxes.write(
                box,
                "/etc/testbed/ollama.json",
                json.dumps({"token_ms": token_ms, "tokens": tokens, "load_ms": 100}),
            )

    def apply(self, **settings: object) -> None:
        self.settings |= settings
        self.project.write(INVENTORY, **self.settings)
        self.project.ogen("apply")

    # ---- clients
    def ask(
        self, path: str, body: object = None, client: str = "alice", **headers: str
    ) -> tuple[int, Any, int]:
        """Status, answer and the seconds of Retry-After; 0 where no answer came."""
        data = None if body is None else json.dumps(body).encode()
        more = {name.replace("_", "-"): text for name, text in headers.items()}
        login = {"Authorization": f"Bearer {self.keys[client]}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{self.address}:8080{path}", data, {**login, **more})
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, json.load(response), 0
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode("utf-8", "replace"), int(error.headers["Retry-After"] or 0)
        except (OSError, ValueError) as error:
            return 0, str(error), 0

    def submit(
        self, prompt: str, told: Counter[int], tries: int = 1000, client: str = "alice", **more: object
    ) -> str | None:
        """The job's ID, or None where every try was refused; `told` counts what the tries were told."""
        body = {"model": "chat", "prompt": prompt, **more}
        for _ in range(tries):
            status, answer, pause = self.ask("/queue/api/generate", body, client, Idempotency_Key=prompt[:60])
            told[status] += 1
            if status in (200, 202):
                return str(answer["id"])
            assert status == 0 or json.loads(answer)["error"], (status, answer)
            if tries > 1:
                time.sleep(min(1.0, pause or 0.3))
        return None

    def ended(self, job: str, client: str = "alice", seconds: float = 600) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while True:
            status, answer, _ = self.ask(f"/queue/jobs/{job}", None, client)
            assert status != 404, f"{job} is forgotten"
            if status == 200 and answer["state"] not in UNENDED:
                return dict(answer)
            assert time.monotonic() < end, (status, answer)
            time.sleep(0.3)

    def redis(self, *words: str, lines: list[str] | None = None) -> list[str]:
        """What Redis says to a command, or to many: a line each."""
        command = " ".join([REDIS.format(address=self.address), *words])
        said = []
        for first in range(0, len(lines or [""]), 500):  # an argument of a process has its bounds
            part = "\n".join(lines[first : first + 500]) if lines else ""
            given = f" <<'END'\n{part}\nEND\n" if part else ""
            said += self.boxes.sh("edge", command + given).splitlines()
        return [line for line in said if line]

    # ---- hosts
    def dark(self, box: str) -> None:
        """Its power is cut: it says farewell to nobody, neither now nor when it is back."""
        self.boxes.tool("link", box, "down")
        self.boxes.tool("kill", box)
        end = time.monotonic() + 60  # the kernel, which boxes share, would else tell that connections ended
        while "FIN-WAIT" in self.network(box, "ss", "-tan"):
            assert time.monotonic() < end
            time.sleep(0.1)

    def light(self, box: str) -> None:
        self.boxes.tool("link", box, "up")
        self.boxes.tool("start", box)

    def network(self, box: str, *command: str) -> str:
        """What a command says in a box's network, also while the box is off."""
        words = ["ip", "netns", "exec", f"{self.boxes.name}-{box}", *command]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    # ---- what was done
    def forget(self) -> None:
        for box, card in PLACES:
            self.boxes.sh(box, f"rm -f /var/lib/ogen/{card}/generations")

    def generations(self, faults: Iterable[Fault] = ()) -> list[Generation]:
        """Every generation that an instance began; what a fault cut off ended with that."""
        found: list[Generation] = []
        for box, card in PLACES:
            path = f"/var/lib/ogen/{card}/generations"
            lines = [json.loads(line) for line in self.boxes.sh(box, f"cat {path} || :").splitlines()]
            cuts = sorted(fault.at for fault in faults if (box, card) in fault.cut)
            found += _paired(lines, (box, card), cuts)
        return sorted(found, key=lambda one: one.began)


@dataclass
class Fault:
    """Something that was killed: when, and whose instances died of it."""

    kind: str
    at: float
    cut: frozenset[tuple[str, str]] = frozenset()


@dataclass
class Generation:
    prompt: str
    place: tuple[str, str]
    began: float
    over: float = float("inf")
    whole: bool = False


def _paired(lines: list[dict[str, Any]], place: tuple[str, str], cuts: list[float]) -> list[Generation]:
    found: list[Generation] = []
    running: dict[str, Generation] = {}
    for line in lines:
        if line["what"] == "began":
            found.append(Generation(line["prompt"], place, line["at"]))
            running[line["prompt"]] = found[-1]
        else:
            one = running.pop(line["prompt"])
            one.over, one.whole = line["at"], line["what"] == "ended"
    for one in found:
        if one.over == float("inf"):
            one.over = next((cut for cut in cuts if cut >= one.began - 1), one.began)
    return found


@dataclass
class Recovery:
    """Of one kind of fault: seconds until its jobs were begun again, and until all slots were at work."""

    number: int = 0
    again: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)


def recoveries(faults: list[Fault], done: list[Generation]) -> dict[str, Recovery]:
    found: dict[str, Recovery] = {}
    starts: dict[str, list[float]] = {}
    for one in done:
        starts.setdefault(one.prompt, []).append(one.began)
    last = done[-1].began  # from then on there are fewer jobs than slots
    holes = gaps(done, last)
    for place, fault in enumerate(faults):
        if fault.at > last - 5:
            continue
        following = faults[place + 1].at if place + 1 < len(faults) else float("inf")
        kind = found.setdefault(fault.kind, Recovery())
        kind.number += 1
        kind.again += [
            next_start - fault.at
            for one in done
            if not one.whole and fault.at - 0.5 <= one.over < following - 0.5
            for next_start in [min((at for at in starts[one.prompt] if at > one.over), default=None)]
            if next_start is not None
        ]
        kind.busy.append(
            max((end - fault.at for begin, end in holes if fault.at <= begin < following), default=0.0)
        )
    return found


def gaps(done: list[Generation], last: float, least: float = 0.7) -> list[tuple[float, float]]:
    """When for more than `least` seconds not all slots were at work."""
    changes = sorted([(one.began, 1) for one in done] + [(one.over, -1) for one in done])
    found, number, since = [], 0, None
    full = False
    for at, change in changes:
        if at > last:
            break
        number += change
        full = full or number >= SLOTS  # at the beginning they are not yet
        if full and number < SLOTS:
            since = at if since is None else since
        elif since is not None:
            if at - since > least:
                found.append((since, at))
            since = None
    return found
