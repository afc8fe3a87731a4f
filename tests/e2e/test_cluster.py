"""One inventory becomes a serving cluster on three boxes: two with cards, an edge without."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import pytest
from cluster import Project, ask, load, processes, snapshot
from lab import Lab, lab

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(900)]
BOXES = ("gpu1", "gpu2", "edge")
URL = "http://{}:8080"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Three bare boxes, provisioned and applied once; the tests below run in order."""
    with lab("e2e") as made:
        made.up("gpu1", "gpu2", gpus="24576,24576", ollama=True)
        made.up("edge", gpus="none")
        project = Project(made, tmp_path_factory.mktemp("project"))
        project.write(context=8192)
        yield project


def hashes(made: Lab, box: str) -> str:
    """Paths and contents of the release in force."""
    return made.sh(box, "cd $(readlink -f /etc/ogen/current) && find . -type f | sort | xargs sha256sum")


def context_of(made: Lab, box: str, port: int, model: str) -> int:
    """The context length of the model that an instance has loaded."""
    script = f"curl -s http://127.0.0.1:{port}/api/ps"
    running = json.loads(made.sh(box, script))["models"]
    return next(m["context_length"] for m in running if m["name"].split(":")[0] == model)


def test_provision_then_apply_then_200_requests(cluster: Project) -> None:
    cluster.ogen("validate")
    cluster.ogen("provision")
    cluster.ogen("apply", "--yes")
    answers = load(
        URL.format(cluster.lab.address("edge")), 200, models=("chat", "gpt-4o-mini", "coder", "llama3.1:8b")
    )
    print(f"\n200 requests: {sum(answers.served.values())} answered, by {dict(answers.served)}")
    assert not answers.failed
    assert sum(answers.served.values()) == 200
    assert len(answers.served) == 4, f"every card's instance answers: {answers.served}"


def test_a_killed_instance_fails_no_request(cluster: Project) -> None:
    url = URL.format(cluster.lab.address("edge"))
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(load(url, 200, models=("chat",))))
    thread.start()
    time.sleep(1.0)
    killed = cluster.lab.sh(
        "gpu1", "for u in ogen-ollama-gpu0 ogen-ollama-gpu1; do systemctl show -p MainPID --value $u; done"
    )
    victim = killed.split()[-1]
    cluster.lab.sh("gpu1", f"kill -9 {victim}")
    thread.join(240)
    assert outcome, "the load did not end"
    print(
        f"\none instance killed: {sum(outcome[0].served.values())} answered, {len(outcome[0].failed)} failed"
    )
    assert not outcome[0].failed
    assert sum(outcome[0].served.values()) == 200


def test_a_second_apply_writes_and_restarts_nothing(cluster: Project) -> None:
    time.sleep(8)  # the instance killed before comes back by itself
    before = {box: (snapshot(cluster.lab, box), processes(cluster.lab, box)) for box in BOXES}
    done = cluster.ogen("apply", "--yes")
    after = {box: (snapshot(cluster.lab, box), processes(cluster.lab, box)) for box in BOXES}
    assert before == after
    assert "unchanged" in done.stdout + done.stderr or "nothing to do" in done.stdout + done.stderr


def test_a_changed_context_then_rollback(cluster: Project) -> None:
    first = {box: hashes(cluster.lab, box) for box in BOXES}
    before = {box: processes(cluster.lab, box) for box in BOXES}
    cluster.write(context=16384)
    shown = cluster.ogen("diff", code=2).stdout
    assert "-PARAMETER num_ctx 8192" in shown
    assert "+PARAMETER num_ctx 16384" in shown
    assert "qwen2.5-coder" not in "\n".join(line for line in shown.splitlines() if line[:1] in "+-")
    cluster.ogen("apply", "--yes")
    restarted = _restarted(before, {box: processes(cluster.lab, box) for box in BOXES})
    print(f"\nthe context of chat changed: restarted {sorted(restarted)}")
    assert restarted == _instances_of(cluster, "chat")
    assert context_of(cluster.lab, "gpu2", 11435, "chat") == 16384
    assert not load(URL.format(cluster.lab.address("edge")), 40).failed
    cluster.ogen("rollback", "--yes")
    assert {box: hashes(cluster.lab, box) for box in BOXES} == first
    assert context_of(cluster.lab, "gpu2", 11435, "chat") == 8192
    _, answer = ask(URL.format(cluster.lab.address("edge")))
    assert answer["done"]
    cluster.write(context=8192)
    cluster.ogen("diff", code=0)


def test_a_lock_pins_cards_versions_and_models(cluster: Project) -> None:
    cluster.ogen("lock", "--live")
    locked = (cluster.folder / "inventory.lock.yaml").read_text()
    assert locked.count("GPU-") == 4
    assert "sha256:" in locked
    assert "0.32.15" in locked
    cluster.ogen("lock", "--live", "--check")
    cluster.ogen("apply", "--yes")
    unit = cluster.lab.sh("gpu2", "cat /etc/systemd/system/ogen-ollama-gpu1.service")
    assert "CUDA_VISIBLE_DEVICES=GPU-" in unit
    assert not load(URL.format(cluster.lab.address("edge")), 20).failed


def _restarted(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """box/unit of the Ollama instances whose main process is another one."""
    changed = set()
    for box in before:
        old = set(before[box].splitlines())
        changed |= {
            f"{box}/{line.split()[0]}"
            for line in after[box].splitlines()
            if line not in old and line.startswith("ogen-ollama")
        }
    return changed


def _instances_of(cluster: Project, model: str) -> set[str]:
    plan = json.loads(cluster.ogen("plan", "--format", "json").stdout)
    return {
        f"{host['name']}/{instance['unit']}"
        for host in plan["hosts"]
        for instance in host["instances"]
        if model in [m["name"] for m in instance["models"]]
    }
