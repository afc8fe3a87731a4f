"""The queue: templates/queue_worker.py, queue_front.py and queue.lua on a real Redis."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from queue_rig import REDIS, Rig, Wire, until
from saq.queue.redis import RedisQueue

pytestmark = pytest.mark.skipif(not REDIS.exists(), reason="no redis-server; tests/packages.txt")
Make = Callable[..., Rig]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Rig] = []

    def one(**settings: object) -> Rig:
        made.append(Rig(tmp_path, **settings))  # type: ignore[arg-type]
        return made[0]

    yield one
    for rig in made:
        rig.stop()


def test_a_job_goes_in_and_its_tokens_and_result_come_out(make: Make) -> None:
    rig = make()
    rig.all("a")
    body = {"model": "gpt", "prompt": "hello", "keep_alive": 0, "options": {"NUM_GPU": 1, "seed": 7}}
    status, answer, headers = rig.ask("POST", "/queue/api/generate", body)
    assert (status, headers["Location"]) == (202, answer["job"])
    events = list(rig.events(answer["id"]))
    whole = "hello/0 hello/1 hello/2 hello/3 "
    assert "".join(data["text"] for kind, data in events if kind == "token") == whole
    kind, end = events[-1]
    assert (kind, end["state"], end["result"]["response"], end["attempts"]) == ("end", "done", whole, 1)
    assert rig.job(answer["id"])["result"]["eval_count"] == 4
    sent = rig.seen()[0]["body"]
    assert sent == {"model": "chat", "prompt": "hello", "options": {"seed": 7}, "stream": True}


def test_a_chat_is_put_together(make: Make) -> None:
    rig = make()
    rig.all("a")
    messages = [{"role": "user", "content": "hi"}]
    _, answer, _ = rig.ask("POST", "/queue/api/chat", {"model": "chat", "messages": messages})
    result = rig.ended(answer["id"])["result"]
    assert result["message"] == {"role": "assistant", "content": "hi/0 hi/1 hi/2 hi/3 "}


OPENAI = [
    ("chat/completions", {"messages": [{"role": "user", "content": "hi"}]}, "chat.completion"),
    ("completions", {"prompt": "hi"}, "text_completion"),
]


@pytest.mark.parametrize(("path", "body", "kind"), OPENAI)
def test_openais_requests_are_jobs_with_openais_answers(
    make: Make, path: str, body: dict[str, object], kind: str
) -> None:
    """Its events are as those of Ollama's requests, its result is what OpenAI gives without streaming."""
    rig = make()
    rig.all("a")
    more = {"model": "gpt", "temperature": 0.5, "stream": False, "KEEP_ALIVE": 0, "options": {"num_gpu": 1}}
    status, answer, _ = rig.ask("POST", f"/queue/v1/{path}", {**body, **more})
    assert status == 202, answer
    events = list(rig.events(answer["id"]))
    whole = "hi/0 hi/1 hi/2 hi/3 "
    assert "".join(data["text"] for name, data in events if name == "token") == whole
    result = events[-1][1]["result"]
    said = {"message": {"role": "assistant", "content": whole}} if "chat" in path else {"text": whole}
    assert result == {
        "id": "cmpl-1",
        "object": kind,
        "model": "chat",
        "choices": [{"index": 0, **said, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6},
    }
    sent = rig.seen()[0]["body"]
    asked = {"model": "chat", "stream": True, "stream_options": {"include_usage": True}}
    assert sent == {**body, **asked, "temperature": 0.5}


def test_openais_embeddings_tools_and_failures(make: Make) -> None:
    rig = make(tries=1)
    rig.all("a")

    def end(path: str, **body: object) -> dict[str, Any]:
        _, answer, _ = rig.ask("POST", f"/queue/v1/{path}", {"model": "chat", **body})
        return rig.ended(answer["id"])

    assert end("embeddings", input="hi")["result"]["data"][0]["embedding"] == [0.5, 1.0]
    assert rig.seen("begun")[0]["body"] == {"model": "chat", "input": "hi"}
    chat = end("chat/completions", messages=[{"role": "user", "content": "tool"}])
    assert chat["result"]["choices"][0]["message"]["tool_calls"] == [{"index": 0, "id": "call_1"}]
    broken = end("completions", prompt="breaks here")
    assert (broken["state"], "broke off" in broken["error"]) == ("failed", True)
    assert "400: said to answer 400" in end("completions", prompt="400 wrong")["error"]


def test_one_key_is_one_job_also_when_it_is_done(make: Make) -> None:
    rig = make()
    rig.all("a")
    first = rig.submit("once", Idempotency_Key="k1")
    assert rig.submit("once", Idempotency_Key="k1") == first
    rig.ended(first)
    assert rig.submit("once", Idempotency_Key="k1") == first
    assert len(rig.seen("begun")) == 1
    assert rig.submit("once", "bob", Idempotency_Key="k1") != first, "keys are each client's own"
    body = {"model": "chat", "prompt": "another"}
    assert rig.ask("POST", "/queue/api/generate", body, Idempotency_Key="k1")[0] == 409


def test_nobody_sees_the_jobs_of_others(make: Make) -> None:
    rig = make()
    rig.all()
    key = rig.submit("mine")
    for method, path in (("GET", ""), ("GET", "/events"), ("DELETE", "")):
        assert rig.ask(method, f"/queue/jobs/{key}{path}", None, "bob")[0] == 404
    assert rig.ask("GET", f"/queue/jobs/{key}", None, "alice")[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/queue/api/generate", {"model": "none", "prompt": "x"}, {}, 404),
        ("/queue/api/generate", {"prompt": "x"}, {}, 400),  # as the balancer itself says it
        ("/queue/api/generate", {"model": ["chat"]}, {}, 400),
        ("/queue/api/pull", {"model": "chat"}, {}, 404),
        ("/queue/api/generate", ["no", "map"], {}, 400),
        ("/queue/api/generate", {"model": "chat", "options": [1]}, {}, 400),
        ("/queue/api/generate", {"model": "chat"}, {"X_Ogen_Priority": "first"}, 400),
        ("/queue/api/generate", {"model": "chat"}, {"X_Ogen_Deadline": "soon"}, 400),
        ("/queue/api/generate", {"model": "chat", "prompt": "x" * (1 << 20)}, {}, 413),
    ],
)
def test_what_is_no_job_is_refused(
    front: Rig, path: str, body: object, headers: dict[str, str], status: int
) -> None:
    assert front.ask("POST", path, body, **headers)[0] == status


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("front"))
    try:
        rig.all()
        yield rig
    finally:
        rig.stop()


# ---------------------------------------------------------------------------------- tries and ends
def test_a_failure_is_tried_again_and_ends_as_a_dead_letter(make: Make) -> None:
    rig = make(tries=3, backoff=0.1)
    rig.all("a")
    key = rig.submit("500 always")
    end = rig.ended(key)
    assert (end["state"], end["attempts"]) == ("failed", 3)
    assert "500: said to answer 500" in end["error"]
    assert len(rig.seen("begun")) == 3
    assert rig.pool["dead"] == 1
    rig.ask("POST", "/admin/retry", {"ids": [key]})
    until(lambda: len(rig.seen("begun")) == 6)
    until(lambda: rig.pool["dead"] == 1)


def test_a_wrong_request_is_not_tried_again(make: Make) -> None:
    rig = make()
    rig.all("a")
    end = rig.ended(rig.submit("400 wrong"))
    assert (end["state"], end["attempts"]) == ("failed", 1)


def test_a_dead_letter_that_nobody_wants_can_be_thrown_away(make: Make) -> None:
    rig = make(letters=200)
    rig.all("a")
    keys = [rig.submit("400 wrong"), rig.submit("400 as wrong")]
    assert [rig.ended(key)["state"] for key in keys] == ["failed", "failed"]
    _, told, _ = rig.ask("POST", "/admin/discard", {"ids": [keys[0], "chat." + "0" * 32]})
    assert told == {"discarded": [keys[0]], "unknown": ["chat." + "0" * 32]}
    assert rig.ask("GET", f"/queue/jobs/{keys[0]}")[0] == 404
    assert rig.job(keys[1])["state"] == "failed", "another one stays"
    more = [rig.submit(f"400 wrong {n}") for n in range(101)]
    until(lambda: rig.pool["dead"] == 102)
    told = rig.ask("POST", "/admin/discard", {})[1]
    assert sorted(told["discarded"]) == sorted([keys[1], *more]), "all, and not only those that status shows"
    assert rig.ask("GET", "/admin/dead")[1] == {"chat": []}


def test_an_answer_that_breaks_off_is_no_answer(make: Make) -> None:
    rig = make(tries=2, backoff=0.05)
    rig.all("a")
    key = rig.submit("breaks in the middle")
    events = list(rig.events(key))
    assert [kind for kind, _ in events if kind != "token"] == ["again", "end"]
    assert (events[-1][1]["state"], events[-1][1]["attempts"]) == ("failed", 2)


def test_a_deadline_ends_a_job_that_waits_and_one_that_runs(make: Make) -> None:
    rig = make(seconds=5.0)
    rig.all("a")
    runs = rig.submit("long", X_Ogen_Deadline="4s")
    until(lambda: rig.pool["running"] == 1)
    waits = rig.submit("behind it", X_Ogen_Deadline="1s")
    assert rig.ended(waits)["state"] == "expired"
    assert rig.ended(runs)["state"] == "expired"
    assert [line["prompt"] for line in rig.seen("begun")] == ["long"]


def test_a_cancelled_job_ends_and_frees_its_slot(make: Make) -> None:
    rig = make(seconds=30.0, lease=1.0)
    rig.all("a")
    key = rig.submit("for ever")
    until(lambda: rig.pool["running"] == 1)
    assert rig.ask("DELETE", "/queue/jobs/" + key)[0] == 200
    assert rig.job(key)["state"] == "cancelled"
    assert rig.ended(rig.submit("next 0.01"), seconds=10)["state"] == "done"


# ----------------------------------------------------------------------------- order and backpressure
def test_priorities_go_first_and_clients_take_turns(make: Make) -> None:
    rig = make()
    rig.redis()
    rig.front()
    for number in range(6):
        rig.submit(f"greedy {number} 1", "greedy")
    for number in range(2):
        rig.submit(f"modest {number} 1", "modest")
    rig.submit("later 1", "idle", X_Ogen_Priority="low")
    rig.submit("urgent 1", "modest", X_Ogen_Priority="high")
    rig.instance("a")
    rig.worker("a")
    until(lambda: rig.pool["counts"].get("done") == 10)
    order = [line["prompt"].rsplit(" ", 1)[0] for line in rig.seen("begun")]
    assert order[0] == "urgent"
    assert order[-1] == "later"
    assert sorted(order[1:3]) == ["greedy 0", "modest 0"]
    assert sorted(order[3:5]) == ["greedy 1", "modest 1"]
    assert order[5:9] == [f"greedy {number}" for number in range(2, 6)]


def test_a_full_queue_says_so_and_when_to_come_again(make: Make) -> None:
    rig = make(length=3)
    rig.all()
    for number in range(3):
        rig.submit(str(number))
    status, answer, headers = rig.ask("POST", "/queue/api/generate", {"model": "chat", "prompt": "more"})
    assert status == 429
    assert "full" in answer["error"]
    assert 1 <= int(headers["Retry-After"]) <= 60


def test_redis_does_not_grow_beyond_its_bound(make: Make) -> None:
    """A full memory refuses jobs; what was accepted goes on as fast as there is room for answers."""
    rig = make(length=10_000, expiry=1)
    rig.maxmemory = "8mb"
    rig.redis()
    rig.front()
    body = {"model": "chat", "prompt": "x" * 200_000 + " 0.01"}  # its answer is four times as long
    taken, status = 0, 202
    while status == 202:
        status, answer, headers = rig.ask("POST", "/queue/api/generate", body)
        taken += status == 202
        assert taken < 100
    assert (status, "memory" in answer["error"], "Retry-After" in headers) == (429, True, True)
    used = [rig.ask("GET", "/admin/status")[1]["memory"]["used_bytes"]]
    assert used[0] <= 8 << 20
    rig.instance("a")
    rig.worker("a")

    def over() -> bool:
        used.append(rig.ask("GET", "/admin/status")[1]["memory"]["used_bytes"])
        return int(rig.pool["counts"].get("done", 0)) == taken

    until(over, 90)
    assert taken >= 20
    assert max(used) < (8 << 20) + 4 * 800_000, "one answer, which is kept, passed on, and being received"


def test_a_drained_queue_takes_nothing_and_ends_what_it_has(make: Make) -> None:
    rig = make()
    rig.all()
    key = rig.submit("before")
    rig.ask("POST", "/admin/drain", {})
    status, _, headers = rig.ask("POST", "/queue/api/generate", {"model": "chat", "prompt": "after"})
    assert (status, "Retry-After" in headers) == (503, True)
    rig.instance("a")
    rig.worker("a")
    assert rig.ended(key)["state"] == "done"
    rig.ask("POST", "/admin/undrain", {})
    rig.submit("after")


# ------------------------------------------------------------------------------------------ faults
def test_a_worker_that_is_told_to_stop_ends_what_it_has(make: Make) -> None:
    rig = make(seconds=1.5)
    rig.all("a")
    first = rig.submit("first")
    until(lambda: rig.pool["running"] == 1)
    second = rig.submit("second")
    rig.kill("worker-a", signal.SIGTERM)
    assert (rig.job(first)["state"], rig.job(second)["state"]) == ("done", "waiting")
    assert rig.pool["counts"].get("released", 0) == 0


def test_what_takes_longer_than_a_stop_may_is_handed_back_and_is_no_try(make: Make) -> None:
    rig = make(seconds=20.0)
    rig.redis()
    rig.front()
    rig.instance("a")
    rig.worker("a", grace=1)
    key = rig.submit("long")
    until(lambda: rig.pool["running"] == 1)
    rig.kill("worker-a", signal.SIGTERM)
    assert rig.job(key)["state"] == "waiting"
    assert rig.job(key)["attempts"] == 0


def test_a_new_start_of_a_killed_worker_begins_its_jobs_again_at_once(make: Make) -> None:
    rig = make(seconds=1.0, lease=300.0)
    rig.all("a")
    key = rig.submit("again")
    until(lambda: rig.pool["running"] == 1)
    rig.kill("worker-a")
    rig.worker("a")
    end = rig.ended(key)
    assert (end["state"], end["attempts"]) == ("done", 2)


def test_a_lost_workers_jobs_go_to_another(make: Make) -> None:
    rig = make(seconds=1.0, lease=1.0)
    rig.all("a")
    key = rig.submit("again")
    until(lambda: rig.pool["running"] == 1)
    rig.kill("worker-a")
    rig.instance("b")
    rig.worker("b")
    end = rig.ended(key)
    assert (end["state"], end["attempts"], end["worker"]) == ("done", 2, "b")


def test_a_worker_that_was_away_too_long_changes_nothing_any_more(make: Make) -> None:
    rig = make(seconds=1.0, lease=1.0)
    rig.all("a")
    key = rig.submit("twice")
    until(lambda: rig.pool["running"] == 1)
    rig.running["worker-a"].send_signal(signal.SIGSTOP)
    rig.instance("b")
    rig.worker("b")
    end = rig.ended(key)
    rig.running["worker-a"].send_signal(signal.SIGCONT)
    until(lambda: rig.pool["counts"].get("stale"))
    assert rig.job(key) == end
    assert (rig.pool["counts"]["done"], end["worker"]) == (1, "b")


def test_jobs_outlive_a_killed_redis(make: Make) -> None:
    rig = make(seconds=1.0)
    rig.all("a")
    first, second = rig.submit("first"), rig.submit("second")
    until(lambda: rig.pool["running"] == 1)
    rig.kill("redis")
    status, _, headers = rig.ask("POST", "/queue/api/generate", {"model": "chat", "prompt": "x"})
    assert (status, "Retry-After" in headers) == (503, True)
    rig.redis()
    assert [rig.ended(key)["state"] for key in (first, second)] == ["done", "done"]
    assert Counter(line["prompt"] for line in rig.seen()) == {"first": 1, "second": 1}


def test_idle_workers_find_a_redis_whose_host_went_without_a_farewell(make: Make) -> None:
    """What they wait for will not come, and nothing closes their connections."""
    rig = make()
    rig.redis()
    rig.front()
    wire = Wire(rig.redis_port)
    rig.worker_port = wire.port
    rig.instance("a")
    rig.worker("a")
    assert rig.ended(rig.submit("before"))["state"] == "done"
    wire.cut()
    assert rig.ended(rig.submit("after"), seconds=20)["state"] == "done"


def test_why_saqs_own_steps_are_not_used(make: Make) -> None:
    """Its sweep takes a lost job out of every list, and then puts it back: who dies between loses the job."""
    rig = make()
    rig.redis(open_to_all=True)

    async def lists() -> list[int]:
        queue = RedisQueue.from_url(f"redis://127.0.0.1:{rig.redis_port}", name="q")
        job = await queue.enqueue("f", retries=3)
        assert job is not None
        taken = await queue.dequeue(timeout=1)  # by a worker that is killed now
        assert taken == job
        before = [await queue.count("active"), await queue.count("incomplete")]
        await queue.abort(job, "swept", ttl=1)  # the first half of its sweep
        after = [await queue.count("active"), await queue.count("incomplete"), await queue.count("queued")]
        await queue.redis.aclose()
        return before + after

    assert asyncio.run(lists()) == [1, 1, 0, 0, 0]


def strikes(rig: Rig, jobs: int, every: float, seed: int) -> tuple[int, Counter[str]]:
    """Jobs come in while something is killed every so many seconds: how often, and which jobs were done."""
    chance, number = random.Random(seed), 0
    keys: dict[str, str] = {}
    begun = last = time.monotonic()
    while len(keys) < jobs or rig.pool["waiting"] + rig.pool["delayed"]:
        assert time.monotonic() < begun + 60 + jobs, "it does not come to an end"
        if len(keys) < jobs:
            prompt = f"job {len(keys)} {chance.uniform(0.5, 1.5):.2f}"
            keys[prompt] = rig.surely(prompt)
        if time.monotonic() > last + every:
            strike(rig, chance.choice(["worker", "instance", "redis", "front"]), chance.choice(["a", "b"]))
            number, last = number + 1, time.monotonic()
    assert {rig.ended(key)["state"] for key in keys.values()} == {"done"}
    return number, Counter(line["prompt"] for line in rig.seen())


def strike(rig: Rig, what: str, name: str) -> None:
    if what == "redis":
        rig.kill("redis")
        rig.redis()
    elif what == "front":
        rig.kill("front")
        rig.front()
    elif what == "instance":
        rig.kill("instance-" + name)
        rig.instance(name)
    else:
        rig.kill("worker-" + name)
        rig.worker(name, 2)


@pytest.mark.parametrize("jobs", [80, pytest.param(2000, marks=pytest.mark.soak)])
def test_every_accepted_job_ends_once_whatever_is_killed(make: Make, jobs: int) -> None:
    rig = make(seconds=0.1, tries=20)
    rig.all("a", "b", slots=2)
    number, done = strikes(rig, jobs, 0.4, 1)
    assert number >= 4
    counts = rig.pool["counts"]
    print(f"{jobs} jobs, {number} kills, {counts}; finished by an instance {sum(done.values())} times")
    assert (counts["submitted"], counts["done"]) == (jobs, jobs)
    assert not counts.keys() & {"failed", "expired", "cancelled"}
    assert len(done) == jobs
