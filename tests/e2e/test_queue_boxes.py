"""The queue on real boxes: provisioned without the internet, over TLS, applied under load.

What dies under load: test_queue_soak.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cluster import OGEN, Project
from lab import Lab, lab

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(600)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: {key}}}
ollama: {{version: 0.32.15, binary: /usr/local/bin/ollama}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: {context}}}
hosts:
  gpu1: {{address: {gpu1}, gpus: [{{model: RTX 3090, count: 2}}]}}
  edge: {{address: {edge}}}
balancers:
  api: {{hosts: [edge], listen: 8080, keys: !file secrets/keys.yaml}}
queues:
  jobs:
    redis:
      host: edge
      secret: !file secrets/queue
      tls: {{certificate: /etc/ssl/redis.pem, key: /etc/ssl/private/redis.key, ca: /etc/ssl/redis.pem}}
    balancers: [api]
    tries: 10
    backoff: 1s
    lease: 5s
"""
SECRET = "correct-horse-battery-staple"
KEYS = {"alice": "alice-0123456789abcdef", "bob": "bob-0123456789abcdef00"}
TIMINGS = {"token_ms": 25, "tokens": 8, "load_ms": 100}


@pytest.fixture(scope="module")
def boxes() -> Iterator[Lab]:
    with lab("queue", [("gpu1", {"gpus": "24576,24576", "ollama": True}), ("edge", {})]) as made:
        yield made


@pytest.fixture(scope="module")
def project(boxes: Lab, tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("a queue")  # a space, as people have it
    (folder / "secrets").mkdir()
    (folder / "secrets" / "queue").write_text(SECRET + "\n")
    (folder / "secrets" / "keys.yaml").write_text(json.dumps(KEYS))
    certificate(boxes, "gpu1")
    boxes.write("gpu1", "/etc/testbed/ollama.json", json.dumps(TIMINGS))
    boxes.sh("edge", "mkdir -p /var/lib/prometheus/node-exporter")
    made = Project(boxes, folder, ("gpu1", "edge"))
    made.write(INVENTORY, context=8192)
    wheels(made)
    made.ogen("provision")
    made.ogen("apply")
    return made


def wheels(project: Project) -> None:
    """By the command that `ogen provision` names, as it is printed."""
    said = project.ogen("provision", code=3).stderr
    assert ".whl: no such file" in said
    assert re.search(r"--> .*inventory\.yaml:\d+:\d+", said), said
    (command,) = set(re.findall("python3 -m pip download .*", said))
    subprocess.run(shlex.split(command), check=True, cwd=project.folder, capture_output=True)


def certificate(boxes: Lab, *others: str) -> None:
    """Redis' own, which all know."""
    address = boxes.address("edge")
    files = "-keyout /etc/ssl/private/redis.key -out /etc/ssl/redis.pem"
    boxes.sh(
        "edge",
        "mkdir -p /etc/ssl/private; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "
        f"-days 2 -subj /CN=redis -addext subjectAltName=IP:{address} {files} 2>&1",
    )
    text = boxes.sh("edge", "cat /etc/ssl/redis.pem")
    for box in others:
        boxes.write(box, "/etc/ssl/redis.pem", text)


def ask(project: Project, path: str, body: object = None, key: str = "alice", **headers: str) -> Any:
    """(status, answer) through the balancer."""
    data = None if body is None else json.dumps(body).encode()
    more = {name.replace("_", "-"): text for name, text in headers.items()}
    request = urllib.request.Request(
        f"http://{project.lab.address('edge')}:8080{path}",
        data,
        {"Authorization": f"Bearer {KEYS[key]}", "Content-Type": "application/json", **more},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def submit(project: Project, prompt: str, key: str = "alice") -> str:
    """Again with the same key until it is taken."""
    end = time.monotonic() + 120
    while True:
        try:
            body = {"model": "chat", "prompt": prompt}
            status, answer = ask(project, "/queue/api/generate", body, key, Idempotency_Key=prompt)
        except (OSError, ValueError) as error:
            status, answer = 0, error
        if status in (200, 202):
            return str(answer["id"])
        assert time.monotonic() < end, answer
        time.sleep(0.2)


def submitted(project: Project, prompt: str) -> tuple[int, dict[str, Any]]:
    """Once."""
    status, answer = ask(project, "/queue/api/generate", {"model": "chat", "prompt": prompt})
    return status, dict(answer)


def ended(project: Project, job: str, key: str = "alice", seconds: float = 120) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while True:
        status, answer = ask(project, f"/queue/jobs/{job}", None, key)
        if status == 200 and answer["state"] not in ("waiting", "delayed", "running"):
            return dict(answer)
        assert time.monotonic() < end, answer
        time.sleep(0.2)


def test_a_job_goes_through_the_balancer_and_back(project: Project) -> None:
    job = submit(project, "hello")
    end = ended(project, job)
    assert end["state"] == "done", end
    assert "gpu" in end["result"]["response"]
    assert ask(project, f"/queue/jobs/{job}", None, "bob")[0] == 404
    address = f"http://{project.lab.address('edge')}:8080/queue/jobs/{job}/events"
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {KEYS['alice']}"})
    with urllib.request.urlopen(request, timeout=30) as response:
        kinds = [
            line.split()[1] for line in response.read().decode().splitlines() if line.startswith("event")
        ]
    assert kinds[-1] == "end"
    assert "token" in kinds
    body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
    openai = ended(project, ask(project, "/queue/v1/chat/completions", body)[1]["id"])["result"]
    assert openai["object"] == "chat.completion"
    assert openai["usage"]["completion_tokens"] == TIMINGS["tokens"]
    (choice,) = openai["choices"]
    assert (choice["message"]["role"], choice["finish_reason"]) == ("assistant", "stop")
    assert "hello" in choice["message"]["content"]


def test_nothing_tells_the_secret_and_nobody_else_gets_in(project: Project) -> None:
    shown = project.ogen("diff", code=None).stdout + project.ogen("plan").stdout
    assert SECRET not in shown
    redis = f"redis-cli --tls --cacert /etc/ssl/redis.pem -h {project.lab.address('edge')} ping 2>&1"
    assert "NOAUTH" in project.lab.sh("edge", redis, check=False)
    for box in ("edge", "gpu1"):
        units = "systemctl show 'ogen-queue-*' 2>/dev/null; ps axww"
        assert SECRET not in project.lab.sh(box, units)
        modes = project.lab.sh(box, "stat -Lc '%a %U %n' /etc/ogen/current/queues/jobs/*.secret").split("\n")
        assert all(line.startswith("600 root") for line in modes if line)
    status, _ = ask(project, "/admin/status")
    assert status == 404


def test_the_units_are_fenced_in(project: Project) -> None:
    for box, units in (("edge", ("redis-jobs", "front-jobs")), ("gpu1", ("worker-jobs-gpu0",))):
        for unit in units:
            shown = project.lab.sh(
                box, f"systemd-analyze security ogen-queue-{unit}.service | tail -1", check=False
            )
            level = float(shown.split(": ")[1].split()[0])
            assert level <= 3.0, (unit, shown)


def queue(project: Project, *words: str) -> str:
    """`ogen queue`."""
    command = [*OGEN, "queue", words[0], str(project.inventory), *words[1:]]
    done = subprocess.run(
        command, env=project.env, cwd=project.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_operator_sees_the_queue(project: Project) -> None:
    assert "You said: hello" in queue(project, "submit", "chat", "hello", "--wait")
    workers = json.loads(queue(project, "status", "--format", "json"))["pools"]["chat"]["workers"]
    assert sorted(workers) == ["gpu1/gpu0", "gpu1/gpu1"]
    (line,) = [one for one in project.ogen("status").stdout.splitlines() if "queue jobs" in one]
    assert "0 waiting, 0 running  0 dead  2 of 2 workers  Redis" in line
    logged = json.loads(project.ogen("logs", "/jobs", "--format", "json").stdout)["lines"]
    parts = {one["from"].removeprefix("edge/queue-").removeprefix("gpu1/queue-") for one in logged}
    assert parts == {"redis-jobs", "front-jobs", "worker-jobs-gpu0", "worker-jobs-gpu1"}
    figures = project.lab.sh("edge", "cat /var/lib/prometheus/node-exporter/ogen.prom").splitlines()
    assert 'ogen_queue_workers{model="chat",queue="jobs"} 2' in figures


def redis(project: Project, *words: str) -> str:
    """What Redis says to the front's user."""
    folder = "/etc/ogen/current/queues/jobs"
    login = (
        f"REDISCLI_AUTH=$(cat {folder}/front.secret) redis-cli --user front --tls --cacert /etc/ssl/redis.pem"
    )
    command = " ".join(f"'{word}'" for word in words)
    return project.lab.sh("edge", f"{login} -h {project.lab.address('edge')} {command}")


def test_doctor_finds_what_is_wrong_with_a_queue(project: Project) -> None:
    """No kind needs its time to pass: Redis is told that it has."""

    def finds() -> set[str]:
        said = project.ogen("doctor", "--limit", "edge", "--format", "json", code=None).stdout
        found = json.loads(said)["findings"]
        return {one["kind"] for one in found if one["about"].startswith("queue ")}

    boxes, pool = project.lab, "ogen:{jobs/chat}:"
    wrong = {"model": "chat", "prompt": "what is this?", "images": ["no image"]}
    _, answer = ask(project, "/queue/api/generate", wrong)
    assert ended(project, answer["id"])["state"] == "failed"
    project.write(
        INVENTORY.replace("backoff: 1s", "backoff: 1s\n    length: 20").replace(
            "secret: !file secrets/queue", "secret: !file secrets/queue\n      memory: 8MiB"
        )
    )
    project.ogen("apply", "--limit", "edge")
    boxes.sh("gpu1", "systemctl stop 'ogen-queue-worker-*'")
    redis(project, "zadd", pool + "workers", "1", "gpu1/gpu0", "1", "gpu1/gpu1")
    jobs, (status, answer) = [], submitted(project, "x" * (1 << 19))
    while status == 202:
        jobs.append(str(answer["id"]))
        status, answer = submitted(project, "x" * (1 << 19))
    assert (status, answer["error"]) == (429, "the queue's memory is full")
    redis(project, "hset", f"{pool}job:{jobs[0]}", "submitted", f"{(time.time() - 601) * 1000:.0f}")
    assert finds() == {"queue-dead", "queue-no-worker", "queue-slow", "queue-memory"}
    while len(jobs) < 20:
        jobs.append(str(submitted(project, "short")[1]["id"]))
    assert finds() == {"queue-dead", "queue-no-worker", "queue-near-full", "queue-memory"}
    assert submitted(project, "too many") == (429, {"error": "the queue is full: 20 jobs wait"})
    boxes.sh("edge", "systemctl stop ogen-queue-redis-jobs")
    assert finds() == {"queue-down"}
    boxes.sh("edge", "systemctl start ogen-queue-redis-jobs")
    boxes.sh("gpu1", "systemctl start 'ogen-queue-worker-jobs-gpu0' 'ogen-queue-worker-jobs-gpu1'")
    assert Counter(ended(project, job)["state"] for job in jobs) == {"done": 20}
    assert queue(project, "discard", "--all") == "1 job thrown away\n"
    assert finds() == set()


@pytest.mark.soak
def test_an_operator_steers_the_queue(project: Project) -> None:
    assert queue(project, "drain", "--wait") == "jobs  takes no jobs; 0 left\n"
    assert ask(project, "/queue/api/generate", {"model": "chat", "prompt": "late"})[0] == 503
    queue(project, "drain", "--end")
    project.lab.sh("gpu1", "systemctl stop 'ogen-queue-worker-*'")
    project.lab.sh("edge", "systemctl stop ogen-queue-redis-jobs")
    found = json.loads(project.ogen("doctor", "--format", "json", code=2).stdout)["findings"]
    assert "queue-down" in {one["kind"] for one in found}
    project.ogen("apply")
    assert project.ogen("doctor").stdout.startswith("nothing found")


def test_an_apply_under_load_loses_nothing_and_begins_nothing_twice(project: Project) -> None:
    count = 24  # 200, and more hosts: test_queue_soak
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda n: submit(project, f"apply {count} {n}"), range(count)))
    project.write(INVENTORY, context=4096 + count)
    before = project.lab.sh("gpu1", "systemctl show -p MainPID --value ogen-ollama-gpu0")
    project.ogen("apply")
    assert before != project.lab.sh("gpu1", "systemctl show -p MainPID --value ogen-ollama-gpu0")
    ends = [ended(project, job) for job in jobs]
    assert Counter((end["state"], end["attempts"]) for end in ends) == {("done", 1): count}
    assert len({end["worker"] for end in ends}) == 2


def test_a_queue_that_leaves_the_inventory_keeps_its_jobs(project: Project) -> None:
    """And has them again when a rollback brings it back."""
    boxes = project.lab
    boxes.sh("gpu1", "systemctl stop 'ogen-queue-worker-*'")
    job = submit(project, "left behind")
    project.write(INVENTORY.partition("queues:")[0])
    kept = "note: edge: jobs of queue jobs stay on its disk (/var/lib/ogen-queue-redis-jobs)"
    assert kept in project.ogen("apply").stderr
    for box in ("edge", "gpu1"):
        assert "ogen-queue" not in boxes.sh(
            box, "systemctl list-units --all --no-legend 'ogen-*'; ls /etc/systemd/system"
        )
        assert boxes.sh(box, "ls /etc/ogen/current/queues 2>&1", check=False).count("No such file") == 1
    assert ask(project, "/queue/api/generate", {"model": "chat", "prompt": "late"})[0] == 404
    project.ogen("rollback")
    project.write(INVENTORY)
    assert ended(project, job)["state"] == "done"


OTHERS = """\
port 0
tls-port 6390
bind {edge}
tls-cert-file /etc/ssl/redis.pem
tls-key-file /etc/ssl/private/redis.key
tls-auth-clients no
dir /var/lib/others
appendonly yes
appendfsync always
save ""
maxmemory 64mb
maxmemory-policy noeviction
user default off resetpass ~* &* +@all
user me on >{password} +@read +@write +@connection +eval +evalsha +script|load +time +info ~ogen:*
"""


@pytest.mark.soak
def test_a_redis_that_ogen_does_not_run(project: Project) -> None:
    """Over TLS, with the rights that docs/queue.md names and no other: jobs end, also over its restart."""
    boxes, password = project.lab, "swordfish-0123456789"
    boxes.write("edge", "/etc/others.conf", OTHERS.format(edge=boxes.address("edge"), password=password))
    start = "mkdir -p /var/lib/others; systemd-run -q --unit others redis-server /etc/others.conf"
    boxes.sh("edge", start)
    url = f"rediss://me:{password}@{boxes.address('edge')}:6390/0"
    (project.folder / "secrets" / "url").write_text(url + "\n")
    head, _, rest = INVENTORY.partition("      host: edge\n")
    tail = rest[rest.index("    balancers: [api]\n") :]
    project.write(f"{head}      url: !file secrets/url\n      tls: {{{{ca: /etc/ssl/redis.pem}}}}\n{tail}")
    project.ogen("apply")
    assert "ogen-queue-redis" not in boxes.sh("edge", "systemctl list-units --no-legend 'ogen-*'")
    assert "You said: hello" in queue(project, "submit", "chat", "hello", "--wait")
    boxes.sh("gpu1", "systemctl stop 'ogen-queue-worker-*'")
    job = submit(project, "over a restart")
    boxes.sh("edge", f"systemctl stop others; systemctl reset-failed others 2>/dev/null; {start}")
    boxes.sh("gpu1", "systemctl start ogen-queue-worker-jobs-gpu0 ogen-queue-worker-jobs-gpu1")
    assert ended(project, job)["state"] == "done"
    assert json.loads(queue(project, "status", "--format", "json"))["memory"]["most_bytes"] == 64 << 20
    for box in ("edge", "gpu1"):
        logged = boxes.sh(
            box, "journalctl -o cat -u 'ogen-queue-*' | grep -c -e NOPERM -e 'no permission'", check=False
        )
        assert logged.strip() == "0"
    for shown in (project.ogen("diff", code=None), project.ogen("logs", "/jobs"), project.ogen("plan")):
        assert password not in shown.stdout + shown.stderr
    project.write(INVENTORY)
    project.ogen("apply")
    boxes.sh("edge", "systemctl stop others")


@pytest.mark.soak
def test_a_host_with_a_worker_retires_under_load(project: Project) -> None:
    """Its worker ends what it has begun; what waits is the others' work."""
    boxes = project.lab
    boxes.up("gpu2", gpus="24576", ollama=True)
    boxes.write("gpu2", "/etc/ssl/redis.pem", boxes.sh("edge", "cat /etc/ssl/redis.pem"))
    boxes.write("gpu2", "/etc/testbed/ollama.json", json.dumps(TIMINGS))
    address = boxes.address("gpu2")
    more = "  gpu2: {{address: %s, gpus: [{{model: RTX 3090}}]%s}}\n  edge:"
    project.write(INVENTORY.replace("  edge:", more % (address, "")))
    project.ogen("provision", "--limit", "gpu2")
    project.ogen("apply")
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda n: submit(project, f"retire {n}"), range(60)))
    project.write(INVENTORY.replace("  edge:", more % (address, ", state: out")))
    project.ogen("apply")
    assert "retired" in project.ogen("retire", "gpu2", "--yes").stdout
    ends = [ended(project, job) for job in jobs]
    assert Counter((end["state"], end["attempts"]) for end in ends) == {("done", 1): 60}
    assert "gpu2/gpu0" in {end["worker"] for end in ends}, "it had its part of them"
    left = boxes.sh(
        "gpu2",
        "ls -d /opt/ogen/queue /etc/ogen 2>&1; systemctl list-units --all --no-legend 'ogen-queue*'",
        check=False,
    )
    assert left.count("No such file") == 2, left
    assert "ogen-queue" not in left
    project.write(INVENTORY)
    project.ogen("apply")
    boxes.tool("down", "gpu2")
