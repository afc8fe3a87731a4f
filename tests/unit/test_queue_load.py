"""Figures of the queue, and of the snippet that it takes the place of: `pytest -m soak -s` prints them."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from queue_rig import REDIS, Rig, until

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not REDIS.exists(), reason="no redis-server; tests/packages.txt"),
]

#: the founding article's queue, with what it leaves out: who pushes, a loop, and the request itself
SNIPPET = """
import json, sys, time, urllib.request, redis
r = redis.Redis(port=int(sys.argv[1]), username=sys.argv[3], password=sys.argv[4])
while True:
    try:
        request = r.rpop("ogen:snippet")
        if request is None:
            time.sleep(0.05)
            continue
        body = json.dumps({"model": "chat", "prompt": request.decode(), "stream": False}).encode()
        urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[2]}/api/generate", body).read()
    except Exception as error:
        print(error, flush=True)
"""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, seconds=0.4, length=10_000, tries=50)
    yield made
    made.stop()


def makespan(rig: Rig, jobs: int, word: str) -> float:
    """Seconds from the first job's begin to the last one's end; the times of jobs differ."""
    chance = random.Random(1)
    keys = [rig.submit(f"{word} {number} {chance.uniform(0.25, 1.75):.2f}") for number in range(jobs)]
    ends = [rig.ended(key, seconds=600) for key in keys]
    return float(max(end["finished"] for end in ends) - min(end["started"] for end in ends)) / 1000


def test_two_instances_take_half_the_time(rig: Rig) -> None:
    rig.seconds = 1.0
    rig.all("a")
    one = makespan(rig, 100, "one")
    rig.instance("b")
    rig.worker("b")
    until(lambda: len(rig.pool["workers"]) == 2)
    two = makespan(rig, 100, "two")
    print(f"100 jobs: {one:.1f} s on one instance, {two:.1f} s on two: x{one / two:.2f}")
    shared = Counter(line["port"] for line in rig.seen() if line["prompt"].startswith("two"))
    assert min(shared.values()) > 40, "both work"


def test_clients_of_unequal_appetite_get_equal_parts(rig: Rig) -> None:
    """While all three have jobs waiting, each gets a third; whoever wants less waits less."""
    rig.redis()
    rig.front()
    appetite = {"greedy": 90, "usual": 30, "modest": 10}
    for client, number in appetite.items():
        for one in range(number):
            rig.submit(f"{client} {one} 0.2", client)
    rig.instance("a")
    rig.worker("a")
    until(lambda: rig.pool["counts"].get("done") == 130, 300)
    order = [line["prompt"].split()[0] for line in rig.seen()]
    last = {client: len(order) - order[::-1].index(client) for client in appetite}
    print(f"of the first 30 jobs: {dict(Counter(order[:30]))}; the last one of each is number {last}")
    assert set(Counter(order[:30]).values()) == {10}


def strike(rig: Rig, chance: random.Random, start: object) -> str:
    what = chance.choice(["worker-a", "worker-b", "instance-a", "instance-b", "redis"])
    kind, _, name = what.partition("-")
    rig.kill(what)
    if kind == "redis":
        rig.redis()
    elif kind == "instance":
        rig.instance(name)
    else:
        start(name)  # type: ignore[operator]
    return kind


@pytest.mark.parametrize("which", ["queue", "snippet"])
def test_the_same_faults_for_the_queue_and_for_the_snippet(rig: Rig, which: str) -> None:
    """100 jobs, and something is killed every second."""
    rig.redis()
    rig.front()
    jobs, chance, kinds = 100, random.Random(2), Counter[str]()
    password = (rig.folder / "front" / "redis").read_text().strip()

    def start(name: str) -> None:
        if which == "queue":
            rig.worker(name)
        else:
            script = rig.folder / "snippet.py"
            script.write_text(SNIPPET)
            rig.start(
                "worker-" + name, sys.executable, script, rig.redis_port, rig.ports[name], "front", password
            )

    for name in ("a", "b"):
        rig.instance(name)
        start(name)
    for number in range(jobs):
        prompt = f"job {number} 1"
        if which == "queue":
            rig.submit(prompt)
        else:
            push = ["redis-cli", "-p", str(rig.redis_port), "--user", "front", "--pass", password]
            subprocess.run([*push, "lpush", "ogen:snippet", prompt], check=True, capture_output=True)
    last, seen, quiet = time.monotonic(), 0, time.monotonic()
    while time.monotonic() - quiet < 15 and len({line["prompt"] for line in rig.seen()}) < jobs:
        if time.monotonic() - last > 1:
            kinds[strike(rig, chance, start)] += 1
            last = time.monotonic()
        if len(rig.seen()) != seen:
            seen, quiet = len(rig.seen()), time.monotonic()
        time.sleep(0.05)
    done = Counter(line["prompt"] for line in rig.seen())
    more = sum(done.values()) - len(done)
    print(f"{which}: {jobs} jobs, killed {dict(kinds)}: {jobs - len(done)} lost, {more} done twice")
    if which == "queue":
        assert len(done) == jobs
