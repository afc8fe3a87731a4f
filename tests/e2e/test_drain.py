"""Rolling restarts under load: no request fails or is cut, whatever becomes of the controller."""

from __future__ import annotations

import itertools
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cluster import Project, processes
from lab import lab, until

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(900)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: key}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: {context}, replicas: fill}}
hosts:
  one: {{address: {one}, gpus: [{{model: RTX 3090, count: 2}}]}}
  two: {{address: {two}, gpus: [{{model: RTX 3090, count: 2}}]}}
balancers:
  api: {{hosts: [one, two], listen: 8080, gate: true}}
rollout: {{batches: [100%]}}
"""
TOKENS = 20
TIMINGS = {"token_ms": 100, "tokens": TOKENS, "load_ms": 1500}


@dataclass
class Load:
    """Streams through both balancers in turn, `width` at once, until it is told to stop."""

    urls: list[str]
    width: int = 4
    whole: int = 0
    failed: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        turns = itertools.cycle(self.urls)
        lock = threading.Lock()

        def send() -> None:
            while not self.stop.is_set():
                with lock:
                    url = next(turns)
                why = stream(url)
                with lock:
                    self.whole += not why
                    if why:
                        self.failed.append(f"{time.monotonic():.1f} {url}: {why}")

        self.threads = [threading.Thread(target=send) for _ in range(self.width)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(120)


def stream(url: str, model: str = "chat") -> str:
    """One streamed generation; empty if it came whole, else what is wrong with it."""
    body = json.dumps({"model": model, "prompt": "hello", "stream": True}).encode()
    request = urllib.request.Request(url + "/api/generate", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            lines = [json.loads(line) for line in response if line.strip()]
    except urllib.error.HTTPError as error:
        return f"{error} {error.read()[:200]!r}"
    except (OSError, ValueError) as error:
        return repr(error)
    return "" if lines and lines[-1].get("done") else f"cut after {len(lines)} lines"


@pytest.fixture(scope="module")
def rolling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with lab("drain") as made:
        made.up("one", "two", gpus="24576,24576", ollama=True)
        for box in ("one", "two"):
            made.write(box, "/etc/testbed/ollama.json", json.dumps(TIMINGS))
        project = Project(made, tmp_path_factory.mktemp("project"), boxes=("one", "two"))
        project.write(INVENTORY, context=8192)
        project.ogen("provision")
        project.ogen("apply", "--yes")
        yield project


def urls(project: Project) -> list[str]:
    return [f"http://{project.lab.address(box)}:8080" for box in project.boxes]


def started(project: Project, boxes: tuple[str, ...] = ()) -> dict[str, str]:
    """The main process of each instance."""
    found = {}
    for box in boxes or project.boxes:
        for gpu in (0, 1):
            script = f"systemctl show -p MainPID --value ogen-ollama-gpu{gpu}"
            found[f"{box}/gpu{gpu}"] = project.lab.sh(box, script).strip()
    return found


def down(project: Project) -> dict[str, list[str]]:
    """What each balancer host keeps its balancers away from."""
    return {
        box: json.loads(project.lab.sh(box, "cat /run/ogen/leases.json"))["down"] for box in project.boxes
    }


def test_every_instance_restarts_and_no_stream_is_cut(rolling: Project) -> None:
    before = started(rolling)
    rolling.write(INVENTORY, context=4096)
    with Load(urls(rolling)) as load:
        time.sleep(2)
        rolling.ogen("apply", "--yes")
        time.sleep(3)
    after = started(rolling)
    print(f"\nrolling apply: {load.whole} streams whole, {len(load.failed)} failed")
    assert not load.failed
    assert load.whole > 10
    assert all(before[name] != after[name] for name in before)
    assert down(rolling) == {"one": [], "two": []}


def test_the_controller_is_killed_in_the_middle(rolling: Project) -> None:
    before = started(rolling)
    rolling.write(INVENTORY, context=6144)
    with Load(urls(rolling)) as load:
        time.sleep(1)
        with rolling.start("apply", "--yes") as running:
            assert running.stderr
            for line in running.stderr:
                if ": restart:" in line:
                    break
            running.kill()
        assert any(down(rolling).values())
        until(lambda: not any(down(rolling).values()), 90)
    print(f"\ncontroller killed: {load.whole} streams whole, {len(load.failed)} failed")
    assert not load.failed
    after = started(rolling)
    assert any(before[name] != after[name] for name in before)
    assert down(rolling) == {"one": [], "two": []}, "leases end by themselves"
    rolling.ogen("apply", "--yes")
    rolling.ogen("diff", code=0)
    assert all(before[name] != pid for name, pid in started(rolling).items())


def test_an_instance_is_drained_restarted_and_brought_back(rolling: Project) -> None:
    before = started(rolling)
    with Load(urls(rolling)) as load:
        shown = rolling.ogen("drain", "one/0", "--for", "10m").stdout
        assert shown == "one/gpu0  drained for 10m\n"
        server = f"{rolling.lab.address('one')}:11434"
        assert down(rolling) == {"one": ["127.0.0.1:11434"], "two": [server]}
        assert "drained" in rolling.ogen("status").stdout
        rolling.ogen("restart", "one/0")
        assert down(rolling)["one"], "a restart does not end a person's lease"
        assert rolling.ogen("undrain", "one").stdout == "one/gpu0  back\none/gpu1  back\n"
        assert down(rolling) == {"one": [], "two": []}
    assert not load.failed
    after = started(rolling)
    assert [name for name in before if before[name] != after[name]] == ["one/gpu0"]


def test_the_last_instance_is_not_drained(rolling: Project) -> None:
    refused = rolling.ogen("drain", "one", "two", code=3)
    assert "two/gpu1 is the last instance of its pool that serves" in refused.stderr
    assert len(refused.stdout.splitlines()) == 3
    assert [len(servers) for servers in down(rolling).values()] == [3, 3]
    rolling.ogen("undrain", "one", "two")
    assert "no host three is in service" in rolling.ogen("drain", "three", code=1).stderr


def test_what_does_not_come_back_is_found(rolling: Project) -> None:
    rolling.lab.sh("two", "systemctl stop ogen-ollama-gpu1")  # first: else it may be back by then
    rolling.ogen("drain", "two/gpu1", "--for", "3s")
    time.sleep(5)
    found = json.loads(rolling.ogen("doctor", "--format", "json", code=2).stdout)["findings"]
    assert any(f["kind"] == "not-back" and "two/gpu1" in f["what"] for f in found)
    assert "drained at one, two, until it answers" in rolling.ogen("status").stdout
    rolling.lab.sh("two", "systemctl start ogen-ollama-gpu1")
    until(lambda: not any(down(rolling).values()), 30)


def test_a_host_is_retired(rolling: Project) -> None:
    text = INVENTORY.replace("two: {{address: {two},", "two: {{address: {two}, state: out,")
    text = text.replace("hosts: [one, two], listen", "hosts: [one], listen")
    assert "two is in service" in rolling.ogen("retire", "two", "--yes", code=1).stderr
    rolling.write(text, context=6144)
    assert "run `ogen apply` first" in rolling.ogen("retire", "two", "--yes", code=1).stderr
    rolling.ogen("apply", "--yes")
    with Load(urls(rolling)[:1]) as load:
        rolling.ogen("retire", "two", "--yes")
    assert not load.failed
    left = "ls -d /etc/ogen /run/ogen 2>/dev/null; systemctl list-units --all --plain --no-legend 'ogen*'"
    assert rolling.lab.sh("two", left, check=False).strip() == ""
    assert rolling.lab.sh("two", "ls /etc/systemd/system | grep ogen", check=False) == ""
    rolling.write(INVENTORY, context=6144)
    rolling.ogen("apply", "--yes")
    rolling.ogen("diff", code=0)


# ------------------------------------------------------------------------- as large as people have it
SIX = ("g1", "g2", "g3", "g4", "e1", "e2")
FLEET = """\
version: 1
ssh: {{user: admin, become: true, key: key}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: {context}, replicas: fill}}
groups:
  boxes: {{hosts: [g1, g2, g3, g4], gpus: [{{model: RTX 3090, count: 2}}]}}
hosts:
  g1: {{address: {g1}}}
  g2: {{address: {g2}}}
  g3: {{address: {g3}}}
  g4: {{address: {g4}}}
  e1: {{address: {e1}}}
  e2: {{address: {e2}}}
balancers:
  api: {{hosts: [e1, e2], listen: 8080, gate: true}}
"""
LONG = {"token_ms": 300, "tokens": 100, "load_ms": 10_000}  # streams of 30 s, loads of 10 s


@pytest.fixture
def six(tmp_path: Path) -> Iterator[Project]:
    with lab("drain-six") as made:
        made.up(*SIX[:4], gpus="24576,24576", ollama=True)
        made.up(*SIX[4:], gpus="none")
        project = Project(made, tmp_path, boxes=SIX)
        project.write(FLEET, context=8192)
        project.ogen("provision")
        project.ogen("apply", "--yes")
        for box in SIX[:4]:
            made.write(box, "/etc/testbed/ollama.json", json.dumps(LONG))
        yield project


@pytest.mark.soak
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("killed", [False, True], ids=["to-the-end", "controller-killed"])
def test_four_boxes_under_load(six: Project, killed: bool) -> None:
    """Loads of 10 s, streams of 30 s, 8 in flight throughout, two balancers."""
    edges = [f"http://{six.lab.address(box)}:8080" for box in SIX[4:]]
    before = {box: processes(six.lab, box) for box in SIX[:4]}
    six.write(FLEET, context=4096)
    begun = time.monotonic()
    with Load(edges, width=8) as load:
        time.sleep(5)
        if killed:
            with six.start("apply", "--yes") as running:
                assert running.stderr
                for line in running.stderr:
                    if ": restart:" in line:
                        break
                running.kill()
            time.sleep(80)
        else:
            six.ogen("apply", "--yes", timeout=1500)
        seconds = time.monotonic() - begun
    print(f"\nkilled: {killed}; {seconds:.0f} s; {load.whole} streams whole, {len(load.failed)} failed")
    assert not load.failed
    away = [json.loads(six.lab.sh(box, "cat /run/ogen/leases.json"))["down"] for box in SIX[4:]]
    assert away == [[], []]
    if killed:
        six.ogen("apply", "--yes", timeout=1500)
    assert all(before[box] != processes(six.lab, box) for box in SIX[:4])
    six.ogen("diff", code=0)
