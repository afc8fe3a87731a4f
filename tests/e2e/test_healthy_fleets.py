"""Real boxes of several sorts of fleets, after an apply and some requests: nothing is found."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from cluster import Project
from lab import lab

pytestmark = [pytest.mark.boxes, pytest.mark.soak, pytest.mark.timeout(1500)]

HEAD = """\
version: 1
ssh: {{user: admin, become: true, key: {key}}}
monitoring: {{interval: 1s}}
"""
HOSTS = """\
hosts:
  one: {{address: {one}, gpus: [{{model: RTX 3090, count: 2}}]}}
  two: {{address: {two}, gpus: [{{model: RTX 3090, count: 2}}]}}
"""
CHAT = 'chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: 8192, replicas: fill}}'
TURNS = "replicas: 1, residency: on_demand, on: one, context: 4096"
KEY = "-H 'Authorization: Bearer 0123456789abcdef-alice'"
#: what each is about: models, hosts, balancers, and the ports and models that are asked
FLEETS = {
    "njs, keys, limits, an admin": (
        f"models:\n  {CHAT}\n"
        "  embed: {{from: nomic-embed-text, embedding: true, context: 2048, replicas: 1}}\n",
        "",
        "  api: {{hosts: [two], listen: 8080, keys: !file keys.yaml, admins: [root],"
        " limits: {{rate: 50/s, burst: 50}}}}\n",
        ((8080, "chat"),),
    ),
    "gate, models in turns, two balancers": (
        f"models:\n  {CHAT.replace('fill', '2')}\n"
        f'  coder: {{{{from: "qwen2.5-coder:7b-instruct-q4_K_M", {TURNS}}}}}\n'
        f'  writer: {{{{from: "qwen2.5:7b", {TURNS}}}}}\n',
        "",
        "  api: {{hosts: [one, two], listen: 8080, gate: true}}\n",
        ((8080, "chat"), (8080, "coder"), (8080, "writer")),
    ),
    "conf.d, a port for each model, one for all": (
        f"models:\n  {CHAT}\n",
        "ollama: {{flash_attention: true, kv_cache: q8_0, max_queue: 100}}\n",
        "  side: {{hosts: [two], listen: 9000, routing: per_port, into: conf.d}}\n"
        "  one: {{hosts: [two], listen: 8090, routing: single, pool: chat, strategy: round_robin}}\n",
        ((9000, "chat"), (8090, "chat")),
    ),
    "over two cards, ip_hash": (
        'models:\n  large: {{from: "llama3.3:70b-instruct-q4_K_M", context: 2048, replicas: 1}}\n'
        f"  {CHAT}\n",
        "",
        "  api: {{hosts: [two], listen: 8080, strategy: ip_hash}}\n",
        ((8080, "large"),),
    ),
}


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with lab(os.environ.get("TESTBED_LAB", "healthy")) as made:
        made.up("one", "two", gpus="24576,24576", ollama=True)
        project = Project(made, tmp_path_factory.mktemp("healthy"), ("one", "two"))
        (project.folder / "keys.yaml").write_text(
            "alice: 0123456789abcdef-alice\nroot: fedcba9876543210-root\n"
        )
        (project.folder / "keys.yaml").chmod(0o600)
        yield project


@pytest.mark.parametrize("fleet", FLEETS)
def test_no_finding(boxes: Project, fleet: str) -> None:
    models, more, balancers, asked = FLEETS[fleet]
    boxes.write(HEAD + more + models + HOSTS + "balancers:\n" + balancers)
    boxes.ogen("provision")
    boxes.ogen("apply", "--yes", timeout=600)
    for port, model in asked:
        body = json.dumps({"model": model, "prompt": "x", "stream": False})
        url = f"http://127.0.0.1:{port}/api/generate"
        ask = f"curl -s -o /dev/null -w '%{{http_code}}\\n' {KEY} {url} -d '{body}'"
        said = boxes.lab.sh("two", f"seq 60 | xargs -P 4 -I N {ask}")
        assert set(said.split()) == {"200"}, said
    told = boxes.ogen("doctor", code=None)
    leases = boxes.lab.sh("two", "cat /run/ogen/leases.json /run/ogen-balancer-*/members.json", check=False)
    assert told.returncode == 0, f"{told.stdout}\n{leases}"
    assert told.stdout == "nothing found on 2 hosts\n"
