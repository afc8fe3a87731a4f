"""The prober under steady requests: what is not well is taken out, and comes back when it is."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from cluster import Project, ask
from lab import lab, until

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(600)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: key}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: {context}, replicas: fill}}
hosts:
  box: {{address: {box}, gpus: [{{model: RTX 3090, count: 2}}]}}
balancers:
  api: {{hosts: [box], listen: 8080}}
rollout: {{batches: [100%]}}
"""
OFTEN = "[Timer]\nOnActiveSec=\nOnUnitInactiveSec=\nOnActiveSec=0\nOnUnitInactiveSec=1s\nAccuracySec=100ms\n"
ONE, TWO = "127.0.0.1:11434", "127.0.0.1:11435"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with lab("probe") as made:
        made.up("box", gpus="24576,24576", ollama=True)
        project = Project(made, tmp_path_factory.mktemp("project"), boxes=("box",))
        project.write(INVENTORY, context=8192)
        project.ogen("provision")
        project.ogen("apply", "--yes")
        made.write("box", "/run/systemd/system/ogen-probe.timer.d/often.conf", OFTEN)
        made.sh("box", "systemctl daemon-reload && systemctl restart ogen-probe.timer")
        yield project


@dataclass
class Requests:
    """Short generations, one after another, until it ends."""

    url: str
    served: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Requests:
        def send() -> None:
            while not self.stop.is_set():
                try:
                    self.served.append(ask(self.url)[0].split(" ")[0])
                except (OSError, ValueError, KeyError) as error:
                    self.failed.append(repr(error))

        self.threads = [threading.Thread(target=send) for _ in range(3)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(120)

    def since(self) -> set[str]:
        """Who serves from now on."""
        before = len(self.served)
        until(lambda: len(self.served) > before + 20, 90)
        return set(self.served[before + 3 :])


def fault(box: Project, port: int, text: str) -> None:
    box.lab.write("box", f"/etc/testbed/ollama.d/{port}.fault", text)


def state(box: Project) -> dict[str, object]:
    found: dict[str, object] = json.loads(box.lab.sh("box", "cat /run/ogen/leases.json"))
    return found


def down(box: Project) -> object:
    return state(box)["down"]


def test_one_that_answers_500_goes_and_comes_back(box: Project) -> None:
    with Requests(f"http://{box.lab.address('box')}:8080") as requests:
        assert requests.since() == {ONE, TWO}
        fault(box, 11434, "500")
        until(lambda: down(box) == [ONE], 90)
        assert requests.since() == {TWO}
        assert "chat: HTTP 500 llama runner process no longer running" in str(state(box)["failing"])
        fault(box, 11434, "none")
        until(lambda: not down(box), 90)
        assert requests.since() == {ONE, TWO}
    print(f"\n{len(requests.served)} requests served, {len(requests.failed)} failed")
    assert not requests.failed, "nginx passes on what is answered 500"
    said = box.lab.sh("box", "journalctl -q -o cat -u ogen-probe")
    assert [line.split(": ")[0] for line in said.splitlines() if line.startswith("127")] == [
        f"{ONE} is bad",
        f"{ONE} is good again",
    ]
    assert "Finished" not in said, "a round leaves no line"


def test_one_that_hangs_is_told_and_the_last_one_stays(box: Project) -> None:
    fault(box, 11435, "hang")
    until(lambda: down(box) == [TWO], 90)
    assert "fails the probes of box: /api/version: no answer in 3 s" in box.ogen("status").stdout
    fault(box, 11435, "503")  # no better, but rounds are quick again
    refused = box.ogen("drain", "box/0", code=3)
    assert "gpu0 is the last instance of its pool that serves" in refused.stderr
    fault(box, 11434, "500")
    until(lambda: bool(state(box)["kept"]), 90)
    assert down(box) == [TWO]
    assert list(state(box)["kept"]) == [ONE]  # type: ignore[call-overload]
    fault(box, 11434, "none")
    fault(box, 11435, "none")
    until(lambda: not down(box) and not state(box)["kept"], 90)


def test_an_apply_brings_back_what_had_fallen_back_to_the_cpu(box: Project) -> None:
    fault(box, 11434, "nogpu")
    box.lab.sh("box", "systemctl restart ogen-ollama-gpu0")
    until(lambda: "chat" in box.lab.sh("box", "curl -s http://127.0.0.1:11434/api/ps", check=False), 90)
    with Requests(f"http://{box.lab.address('box')}:8080") as requests:
        until(lambda: down(box) == [ONE], 90)
        assert "fallen back to the CPU" in str(state(box)["failing"])
        assert requests.since() == {TWO}
        fault(box, 11434, "none")
        box.write(INVENTORY, context=4096)
        box.ogen("apply", "--yes")
        assert down(box) == [], "both were restarted, the bad one first"
        assert requests.since() == {ONE, TWO}
    assert not requests.failed
