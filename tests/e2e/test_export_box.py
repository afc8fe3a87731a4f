"""ansible-playbook of an export on a box: the release comes into force as by ogen, and neither finds anything
left to do. `make soak` compares the whole machine (test_parity.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from ansibled import Exported
from cluster import Project
from lab import lab

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(600)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: key}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: {context}}}
hosts:
  box: {{address: {box}, gpus: [{{model: RTX 3090}}]}}
"""
READY = """
useradd --system --create-home --home-dir /usr/share/ollama --shell /bin/false ollama
install -d -o ollama -g ollama /var/lib/ollama /var/lib/ollama/models /var/lib/ollama/models/blobs
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    with lab("exported") as made:
        made.up("box", gpus="24576", ollama=True)
        made.sh("box", READY)
        project = Project(made, tmp_path_factory.mktemp("project"), boxes=("box",))
        project.write(INVENTORY, context=8192)
        found = Exported(project, project.folder / "out")
        found.export()
        yield found


def test_a_release_by_ansible_is_one_of_ogen(exported: Exported) -> None:
    assert exported.play("apply") == {"box": 2}
    assert exported.play("apply") == {"box": 0}
    exported.project.ogen("diff", code=0)
    told = json.loads((exported.folder / "files/hosts/box/release.json").read_text())
    (run,) = json.loads(exported.project.ogen("history", "--format", "json").stdout)["runs"]
    assert "with Ansible" in run["who"]
    assert told["id"] in json.dumps(run)


@pytest.mark.soak
def test_a_failure_is_rolled_back_and_tells_why(exported: Exported) -> None:
    exported.project.write(INVENTORY, context=4096)
    exported.export()
    box = exported.project.lab
    before = box.sh("box", "readlink /etc/ogen/current")
    box.write("box", "/etc/testbed/ollama.d/11434.fault", "refuse\n")
    said = exported.run("ansible-playbook", "playbooks/apply.yaml", code=2)
    box.sh("box", "rm /etc/testbed/ollama.d/11434.fault")
    assert '"rolled_back": true' in said, said
    assert box.sh("box", "readlink /etc/ogen/current") == before
