"""2,000 jobs on boxes while everything is killed that can be; also full queues, applies, makespan, fairness.

`pytest -m soak -s tests/e2e/test_queue_soak.py` prints the figures of docs/queue.md.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from lab import lab
from queue_faults import Striker, install_snippet, start_snippet, stop_snippet, table
from queue_fleet import GPUS, PLACES, Fleet, Generation, recoveries

from ogen.catalog import libraries

pytestmark = [pytest.mark.boxes, pytest.mark.soak, pytest.mark.timeout(1800)]

JOBS = int(os.environ.get("OGEN_QUEUE_JOBS", "2000"))
SEED = int(os.environ.get("OGEN_QUEUE_SEED", "1"))
PAUSE = (3.0, 7.0)  # seconds from one fault to the next
GPU = {"gpus": "24576,24576", "ollama": True}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with lab("queuesoak", [("gpu1", GPU), ("gpu2", GPU), ("edge", {})]) as made:
        yield Fleet(made, tmp_path_factory.mktemp("queue"))


def figures(done: list[Generation]) -> tuple[int, int, int]:
    """Prompts that were answered, answers beyond one for each, and generations that broke off."""
    whole = Counter(one.prompt for one in done if one.whole)
    return len(whole), sum(whole.values()) - len(whole), sum(not one.whole for one in done)


def load() -> str:
    return "load average " + " ".join(f"{value:.1f}" for value in os.getloadavg())


def test_every_accepted_job_ends_once_whatever_dies(fleet: Fleet) -> None:
    """Careful clients ask again until they are taken; careless ones ask once."""
    fleet.forget()
    before = counts(fleet)
    careful, careless = Counter[int](), Counter[int]()
    begun = time.monotonic()
    striker = Striker(fleet, SEED, "ogen-queue-worker-jobs-{card}.service", PAUSE)
    with ThreadPoolExecutor(8) as pool:
        first = [pool.submit(fleet.submit, f"job {n}", careful) for n in range(60)]
        [one.result() for one in first]
        striker.start()
        rest, once = [], []
        for n in range(60, JOBS):
            rest.append(pool.submit(fleet.submit, f"job {n}", careful))
            if n % 10 == 0:
                once.append(pool.submit(fleet.submit, f"once {n}", careless, 1))
        jobs = {f"job {n}": one.result() for n, one in enumerate([*first, *rest])}
        perhaps = {f"once {n}": one.result() for n, one in zip(range(60, JOBS, 10), once, strict=True)}
        taken = {prompt: job for prompt, job in {**jobs, **perhaps}.items() if job is not None}
        ends = dict(zip(taken, pool.map(fleet.ended, taken.values()), strict=True))
        faults = striker.end()
        seconds = time.monotonic() - begun
        again = dict(zip(taken, pool.map(fleet.ended, taken.values()), strict=True))
    done = fleet.generations(faults)
    answered, twice, broken = figures(done)
    refused = {prompt for prompt, job in perhaps.items() if job is None}
    unsaid = refused & {one.prompt for one in done}
    print(f"\nseed {SEED}: {len(taken)} accepted jobs in {seconds:.0f} s, {len(faults)} faults; {load()}")
    print(f"answers to submissions: careful {dict(careful)}, careless {dict(careless)} (0: none)")
    print(
        f"answered by instances {answered}; once more than once {twice} ({100 * twice / len(taken):.2f} %);"
    )
    print(
        f"cut off and begun again {broken}; refused or unanswered {len(refused)}, of which run {len(unsaid)}"
    )
    print(table(recoveries(faults, done)))
    print({name: n - before.get(name, 0) for name, n in counts(fleet).items()})
    assert Counter(end["state"] for end in ends.values()) == {"done": len(taken)}
    assert ends == again, "a result that has changed"
    finals = [f"HGET ogen:{{jobs/chat}}:job:{job} finals" for job in taken.values()]
    assert Counter(fleet.redis(lines=finals)) == {"1": len(taken)}
    assert {one.prompt for one in done if one.whole} == taken.keys() | unsaid
    assert twice < 0.02 * len(taken)


def counts(fleet: Fleet) -> dict[str, int]:
    found = fleet.redis("hgetall", "'ogen:{jobs/chat}:stats'")
    return {name: int(value) for name, value in zip(found[::2], found[1::2], strict=True)}


def test_the_snippet_loses_jobs_under_the_same_faults(fleet: Fleet) -> None:
    """All are pushed before the first fault, so that what is lost, is lost by its worker."""
    fleet.forget()
    install_snippet(fleet, libraries.FOLDER)
    fleet.redis(lines=[f'LPUSH ogen:snippet "job {n}"' for n in range(JOBS)])
    begun = time.monotonic()
    start_snippet(fleet)
    striker = Striker(fleet, SEED, "snippet-{card}-*", PAUSE)
    striker.start()
    quiet, seen = time.monotonic(), ""
    while time.monotonic() - quiet < 15:
        assert time.monotonic() < begun + 1200
        time.sleep(1)
        left = "".join(
            fleet.boxes.sh(box, "cat /var/lib/ogen/gpu?/generations | wc -l", check=False) for box in GPUS
        )
        if left != seen:
            quiet, seen = time.monotonic(), left
    faults = striker.end()
    left = fleet.redis("llen", "ogen:snippet")
    done = fleet.generations(faults)
    stop_snippet(fleet)
    answered, twice, broken = figures(done)
    seconds = time.monotonic() - begun
    print(f"\nseed {SEED}: snippet, {JOBS} jobs in {seconds:.0f} s, {len(faults)} faults; {load()}")
    print(f"answered {answered}, lost {JOBS - answered}, more than once {twice}, cut off {broken}")
    assert left == ["0"]
    assert answered < JOBS, "the comparison shows nothing"


def test_an_apply_restarts_all_instances_under_load(fleet: Fleet) -> None:
    fleet.forget()
    pids = [main_pid(fleet, place) for place in PLACES]
    told = Counter[int]()
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(fleet.submit, f"apply {n}", told) for n in range(200)]
        fleet.apply(context=4096)
        taken = [str(one.result()) for one in jobs]
        ends = list(pool.map(fleet.ended, taken))
    done = fleet.generations()
    answered, twice, broken = figures(done)
    during = len({one.place for one in done})
    print(f"\n200 jobs under an apply: answered {answered}, more than once {twice}, cut off {broken},")
    print(f"by {during} instances, all restarted; answers to submissions {dict(told)}; {load()}")
    assert all(old != main_pid(fleet, place) for old, place in zip(pids, PLACES, strict=True))
    assert Counter((end["state"], end["attempts"]) for end in ends) == {("done", 1): 200}
    assert (answered, len(done)) == (200, 200)


def main_pid(fleet: Fleet, place: tuple[str, str]) -> str:
    return fleet.boxes.sh(place[0], f"systemctl show -p MainPID --value ogen-ollama-{place[1]}")


def test_a_flood_is_refused_and_redis_stays_within_its_memory(fleet: Fleet) -> None:
    """First more jobs than may wait, then larger ones than Redis has memory for."""
    fleet.apply(memory="16MiB", length=60)
    few, few_told = flood(fleet, "many", 150, "")
    fleet.apply(length=10_000)
    watch = Watch(fleet)
    watch.start()
    large, large_told = flood(fleet, "large", 300, "x" * 200_000)
    ends = [fleet.ended(job) for job in (*few, *large)]
    most, bound = watch.end()
    print(f"\n60 places, 150 jobs: {dict(few_told)}; 16 MiB, 300 jobs of 200 kB: {dict(large_told)};")
    print(f"used_memory at most {most / 2**20:.2f} MiB of {bound / 2**20:.0f}; {load()}")
    assert set(few_told) == set(large_told) == {202, 429}
    assert {end["state"] for end in ends} == {"done"}
    assert most <= bound
    fleet.apply(memory="256MiB", length=1000)


def flood(fleet: Fleet, word: str, number: int, more: str) -> tuple[list[str], Counter[int]]:
    """The jobs that were taken of as many as clients send at once; all others are told when to come again."""
    told, taken = Counter[int](), []

    def one(n: int) -> None:
        body = {"model": "chat", "prompt": f"{word} {n} {more}"}
        status, answer, pause = fleet.ask("/queue/api/generate", body)
        told[status] += 1
        if status == 202:
            taken.append(str(answer["id"]))
        else:
            assert 1 <= pause <= 60, (status, answer)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(number)))
    return taken, told


class Watch(threading.Thread):
    """Redis' memory, looked at again and again."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(daemon=True)
        self.fleet, self.over, self.seen, self.bound = fleet, threading.Event(), [0], 0

    def run(self) -> None:
        while not self.over.wait(0.1):
            found = dict(line.split(":", 1) for line in self.fleet.redis("info", "memory") if ":" in line)
            self.seen.append(int(found["used_memory"]))
            self.bound = int(found["maxmemory"])

    def end(self) -> tuple[int, int]:
        self.over.set()
        self.join(30)
        assert len(self.seen) > 5
        return max(self.seen), self.bound


def test_idle_workers_come_back_to_a_redis_whose_host_lost_its_power(fleet: Fleet) -> None:
    """They wait for an answer that nobody sends any more; no connection is closed."""
    told, spans = Counter[int](), []
    fleet.ended(str(fleet.submit("idle", told)))
    for number in range(3):
        fleet.dark("edge")
        fleet.light("edge")
        begun = time.monotonic()
        assert fleet.ended(str(fleet.submit(f"idle {number}", told)))["state"] == "done"
        spans.append(time.monotonic() - begun)
    print(
        f"\nidle workers: a job is done {', '.join(f'{span:.1f}' for span in spans)} s after the edge's boot"
    )


def test_two_instances_take_half_the_time_and_clients_get_equal_parts(fleet: Fleet) -> None:
    spans = []
    for number in (1, 2):
        only(fleet, number)
        spans.append(makespan(fleet, f"on {number}"))
    one, two = spans
    print(f"\n100 jobs: {one:.1f} s on one instance, {two:.1f} s on two: x{one / two:.2f}; {load()}")
    only(fleet, 0)
    fleet.forget()
    told = Counter[int]()
    appetite = {"alice": 90, "bob": 30, "carol": 10}
    jobs = [
        (fleet.submit(f"{who} {n}", told, client=who), who)
        for who, n in ((w, n) for w, most in appetite.items() for n in range(most))
    ]
    only(fleet, len(PLACES))
    assert {fleet.ended(str(job), who)["state"] for job, who in jobs} == {"done"}
    order = [one.prompt.split()[0] for one in fleet.generations()]
    print(f"clients with 90, 30 and 10 jobs: of the first 30 begun {dict(Counter(order[:30]))}")
    assert max(Counter(order[:30]).values()) <= 11, (
        "beginnings of one moment may be written down in any order"
    )
    assert one / two > 1.5


def only(fleet: Fleet, number: int) -> None:
    """So many instances' workers are up."""
    for place, (box, card) in enumerate(PLACES):
        word = "start" if place < number else "stop"
        fleet.boxes.sh(box, f"systemctl {word} ogen-queue-worker-jobs-{card}")


def makespan(fleet: Fleet, word: str) -> float:
    """From the first job's begin to the last one's end; their lengths differ, and are the same each time."""
    chance, told = random.Random(1), Counter[int]()
    jobs = [
        fleet.submit(f"{word} {n}", told, options={"num_predict": chance.randint(2, 14)}) for n in range(100)
    ]
    ends = [fleet.ended(str(job)) for job in jobs]
    return float(max(end["finished"] for end in ends) - min(end["started"] for end in ends)) / 1000
