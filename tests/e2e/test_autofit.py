"""Autofit on a box whose free memory falls and rises on script: which rung when, and no request lost."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from cluster import Commands, Project
from lab import lab, until
from test_drain import stream

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(600)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: key}}
autofit: {{every: 1s, hold: 3s, margin: 512MiB, per_hour: 100}}
models:
  chat:
    from: "llama3.1:8b-instruct-q4_K_M"
    context: {{want: 32768, at_least: 4096}}
    parallel: 2
    replicas: 2
  coder:
    from: "qwen2.5-coder:7b-instruct-q4_K_M"
    context: {{want: 16384, at_least: 4096}}
    replicas: 1
    system: {system}
hosts:
  box: {{address: {box}, gpus: [{{model: RTX 3090, count: 3}}]}}
balancers:
  api: {{hosts: [box], listen: 8080}}
"""
MIB = 1 << 20
TOTAL = 24576
CARDS = 3


@dataclass
class Box:
    """The box, what others hold on its cards, and what autofit chose."""

    project: Project
    others: list[int] = field(default_factory=lambda: [0] * CARDS)  # MiB
    ladders: dict[str, list[int]] = field(default_factory=dict)  # MiB that each rung needs
    contexts: dict[str, list[int]] = field(default_factory=dict)

    def sh(self, script: str) -> str:
        return self.project.lab.sh("box", script)

    def read(self) -> None:
        """What each rung of each instance needs, as the release says."""
        for card in range(CARDS):
            ladder = json.loads(self.sh(f"cat /etc/ogen/current/instances/gpu{card}/rungs.json"))
            rungs = ladder["rungs"]
            self.ladders[f"gpu{card}"] = [-(-rung["need"][0] // MIB) for rung in rungs]
            models = [next(iter(rung["models"].values())) for rung in rungs]
            self.contexts[f"gpu{card}"] = [model["context"] for model in models]

    def edit(self, name: str, rung: int) -> str:
        """A shell's line: others take what leaves room for this rung on a card; 0: they take nothing."""
        need = self.ladders[name][rung - 1] if rung else TOTAL
        self.others[int(name[-1])] = TOTAL - need
        edits = [f"{card + 1}s/^{TOTAL}:[0-9]*/{TOTAL}:{mib}/" for card, mib in enumerate(self.others)]
        return f"cd /etc/testbed && sed '{';'.join(edits)}' gpus >gpus.new && mv gpus.new gpus"

    def leave(self, name: str, rung: int) -> None:
        self.sh(self.edit(name, rung))

    def flutter(self, name: str, rung: int) -> None:
        """Twice memory comes back for a second, which is less than the hold time. All of it in one command:
        each takes its time."""
        self.sh("; sleep 1; ".join(self.edit(name, each) for each in (0, rung, 0, rung, rung)))

    def rung(self, name: str) -> int:
        return int(json.loads(self.sh(f"cat /var/lib/ogen/autofit/{name}/chosen.json"))["rung"]) + 1

    def loaded(self, name: str) -> list[tuple[int, bool]]:
        """Context of each loaded model, and whether all of it is on the card."""
        said = self.sh(f"curl -s 127.0.0.1:{11434 + int(name[-1])}/api/ps || true")  # it may be starting
        models = json.loads(said)["models"] if said else []
        return [(m["context_length"], m["size"] == m["size_vram"]) for m in models]

    def switches(self, name: str) -> list[str]:
        lines = self.sh("journalctl -q -o cat -u ogen-autofit").splitlines()
        return [line for line in lines if re.match(rf"{name}: rung \d", line)]

    def process(self, name: str) -> str:
        return self.sh(f"systemctl show -p MainPID --value ogen-ollama-{name}").strip()

    def at(self, name: str, rung: int) -> None:
        """Waits until a rung is in force, and its model loaded, all of it on the card."""
        until(lambda: self.rung(name) == rung, what=f"{name} at rung {rung}")
        context = self.contexts[name][rung - 1]
        until(lambda: self.loaded(name) == [(context, True)], what=f"{name} with context {context}")


@dataclass
class Clients:
    """Streams through the balancer: for `chat` without a pause, for `coder` one in two seconds and a half."""

    url: str
    whole: dict[str, int] = field(default_factory=lambda: {"chat": 0, "coder": 0})
    failed: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Clients:
        pauses = (("chat", 0.0), ("chat", 0.0), ("coder", 2.5))
        self.threads = [threading.Thread(target=self.send, args=each) for each in pauses]
        for thread in self.threads:
            thread.start()
        return self

    def send(self, model: str, pause: float) -> None:
        while not self.stop.is_set():
            why = stream(self.url, model)
            self.whole[model] += not why
            self.failed += [f"{model}: {why}"] if why else []
            self.stop.wait(pause)

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(60)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with lab("autofit") as made:
        made.up("box", gpus=",".join([str(TOTAL)] * CARDS), ollama=True)
        made.write("box", "/etc/testbed/held", "NVML tells what loaded models hold")
        made.write("box", "/etc/testbed/ollama.json", '{"token_ms": 20, "tokens": 10, "load_ms": 200}')
        project = Commands(made, tmp_path_factory.mktemp("project"), boxes=("box",))
        project.write(INVENTORY, system="one")
        project.ogen("provision")
        project.ogen("apply", "--yes")
        found = Box(project)
        found.read()
        yield found


def test_it_follows_the_memory_and_no_stream_is_lost(box: Box) -> None:
    """gpu0 has `chat` beside another one, gpu2 has `coder` alone: that server may not be restarted."""
    processes = {name: box.process(name) for name in ("gpu0", "gpu2")}
    with Clients(f"http://{box.project.lab.address('box')}:8080") as clients:
        box.leave("gpu2", 2)
        box.leave("gpu0", 2)
        box.at("gpu2", 2)
        box.at("gpu0", 2)
        assert box.process("gpu0") != processes["gpu0"], "another cache type: the server was restarted"
        box.flutter("gpu2", 2)
        assert len(box.switches("gpu2")) == 1, "no flapping"
        box.leave("gpu0", 4)
        box.at("gpu0", 4)
        box.leave("gpu0", 0)
        box.leave("gpu2", 0)
        box.at("gpu0", 1)
        box.at("gpu2", 1)
    print("\n" + "\n".join(box.switches("gpu0") + box.switches("gpu2")))
    print(f"streams whole: {clients.whole}, failed: {len(clients.failed)}")
    assert clients.failed == []
    assert min(clients.whole.values()) > 3
    assert [len(box.switches(name)) for name in ("gpu0", "gpu1", "gpu2")] == [3, 0, 2]
    assert box.process("gpu2") == processes["gpu2"], "manifests alone"
    down = json.loads(box.sh("cat /run/ogen/leases.json"))["down"]
    assert down == []


def test_an_apply_keeps_the_choice_and_nothing_calls_it_an_edit(box: Box) -> None:
    box.leave("gpu2", 2)
    box.at("gpu2", 2)
    box.project.ogen("diff", code=0)
    box.project.write(INVENTORY, system="two")
    box.project.ogen("apply", "--yes")
    box.at("gpu2", 2)
    shown = json.loads(box.project.ogen("status", "--format", "json").stdout)["hosts"][0]["instances"]
    assert [one["rung"].split(":")[0] for one in shown] == ["rung 1 of 5", "rung 1 of 5", "rung 2 of 4"]


@pytest.mark.soak
def test_nothing_is_switched_while_somebody_holds_the_host(box: Box) -> None:
    before = len(box.switches("gpu1"))
    box.sh("systemd-run -q --unit=holder flock /etc/ogen/lock sleep 60")
    box.leave("gpu1", 3)
    said = "gpu1: waits to go to rung 3"
    until(lambda: said in box.sh("journalctl -q -o cat -u ogen-autofit"), what="a word on why it waits")
    assert "an apply holds the host" in box.sh("journalctl -q -o cat -u ogen-autofit")
    assert (len(box.switches("gpu1")), box.rung("gpu1")) == (before, 1)
    box.sh("systemctl stop holder")
    until(lambda: box.rung("gpu1") == 3, what="gpu1 at rung 3")
