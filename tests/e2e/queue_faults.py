"""What is killed under a queue on boxes, at random by a seed, and the table of how long it took."""

from __future__ import annotations

import random
import statistics
import threading
import time

from queue_fleet import GPUS, PLACES, Fault, Fleet, Recovery

KINDS = ("worker", "instance", "redis", "front", "power of a GPU host", "power of the edge")


class Striker(threading.Thread):
    """Kills something every few seconds until it is told to end; one in six times a second thing at once."""

    def __init__(self, fleet: Fleet, seed: int, worker: str, pause: tuple[float, float]) -> None:
        super().__init__(daemon=True)
        self.fleet, self.worker, self.pause = fleet, worker, pause
        self.chance, self.over = random.Random(seed), threading.Event()
        self.faults: list[Fault] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        kinds: list[str] = []
        try:
            while not self.over.wait(self.chance.uniform(*self.pause)):
                if not kinds:  # each kind as often as the others, in a new order each time
                    kinds = list(KINDS)
                    self.chance.shuffle(kinds)
                self.strike(
                    [kinds.pop()] + ([self.chance.choice(KINDS)] if self.chance.random() < 1 / 6 else [])
                )
        except BaseException as error:  # told by `end`
            self.error = error

    def end(self) -> list[Fault]:
        self.over.set()
        self.join(120)
        if self.error is not None:
            raise self.error
        return self.faults

    def strike(self, kinds: list[str]) -> None:
        fault = Fault(kinds[0] if len(kinds) == 1 else "two of these at once", time.time())
        self.faults.append(fault)
        dark = []
        for kind in kinds:
            box, card = self.chance.choice(PLACES)
            if kind.startswith("power"):
                box = "edge" if kind.endswith("edge") else box
                self.fleet.dark(box)
                fault.cut |= {place for place in PLACES if place[0] == box}
                dark.append(box)
            elif kind == "instance":
                fault.cut |= {(box, card)}
                self.kill(box, f"ogen-ollama-{card}.service")
            elif kind == "worker":
                self.kill(box, self.worker.format(card=card))
            else:
                self.kill("edge", f"ogen-queue-{kind}-jobs.service")
        if dark:
            self.over.wait(self.chance.uniform(0, 3))
        for box in dict.fromkeys(dark):
            self.fleet.light(box)

    def kill(self, box: str, unit: str) -> None:
        """It may be down just now, or its box be dark: then there is nothing to kill."""
        self.fleet.boxes.sh(box, f"systemctl kill -s KILL '{unit}'", check=False)


def table(found: dict[str, Recovery]) -> str:
    head = (
        "killed",
        "times",
        "jobs begun again",
        "after: median, most",
        "all slots at work after: median, most",
    )
    rows = [f"| {' | '.join(head)} |", "| --- | --- | --- | --- | --- |"]
    for kind, one in sorted(found.items(), key=lambda item: (*KINDS, "two of these at once").index(item[0])):
        rows.append(
            f"| {kind} | {one.number} | {len(one.again)} | {spread(one.again)} | {spread(one.busy)} |"
        )
    return "\n".join(rows)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f}, {max(values):.1f}" if values else "–"


#: the founding article's queue: it pops a request, and then asks for the answer
SNIPPET = """
import json, sys, time, urllib.request, redis
secret = open("/etc/ogen/current/queues/jobs/worker.secret").read().strip()
store = redis.Redis(host=sys.argv[1], port=6379, ssl=True, ssl_ca_certs="/etc/ssl/redis.pem",
                    username="worker", password=secret)
while True:
    request = store.rpop("ogen:snippet")
    if request is None:
        time.sleep(0.1)
        continue
    body = json.dumps({"model": "chat", "prompt": request.decode()}).encode()
    urllib.request.urlopen("http://127.0.0.1:%s/api/generate" % sys.argv[2], body).read()
"""
UNIT = """\
[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/bin/python3 -s /root/snippet.py {address} {port}
Environment=PYTHONPATH={libraries}
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
"""


def install_snippet(fleet: Fleet, libraries: str) -> None:
    """As many of its workers as there are slots; systemd starts them anew, too."""
    for box in GPUS:
        fleet.boxes.write(box, "/root/snippet.py", SNIPPET)
        for card in (0, 1):
            for slot in (0, 1):
                text = UNIT.format(address=fleet.address, port=11434 + card, libraries=libraries)
                fleet.boxes.write(box, f"/etc/systemd/system/snippet-gpu{card}-{slot}.service", text)
        fleet.boxes.sh(box, "systemctl daemon-reload")


def start_snippet(fleet: Fleet) -> None:
    for box in GPUS:
        units = " ".join(f"snippet-gpu{card}-{slot}" for card in (0, 1) for slot in (0, 1))
        fleet.boxes.sh(box, f"systemctl enable --now --quiet {units}")


def stop_snippet(fleet: Fleet) -> None:
    for box in GPUS:
        units = " ".join(f"snippet-gpu{card}-{slot}" for card in (0, 1) for slot in (0, 1))
        fleet.boxes.sh(box, f"systemctl disable --now --quiet {units}")
