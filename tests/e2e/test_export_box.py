"""ansible-playbook of an export on a box: the release comes into force as by ogen, and neither finds anything
left to do. `make soak` compares the whole machine (test_parity.py)."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator

import pytest
from ansibled import Exported
from cluster import Project
from lab import lab

from ogen import shipped

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(600)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: key}}
models:
  own: {{from: {{Q4_K_M: ./own.gguf}}, card: llama3.1-8b, context: {context}}}
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
        (project.folder / "own.gguf").write_bytes(b"GGUF" + os.urandom(9 * 1024 * 1024))
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
    digest = hashlib.sha256((exported.project.folder / "own.gguf").read_bytes()).hexdigest()
    sent = f"/var/lib/ollama/models/blobs/sha256-{digest}"
    assert exported.project.lab.sh("box", f"sha256sum <{sent}").split()[0] == digest
    assert exported.project.lab.sh("box", "ls /home/admin/.ansible/tmp").split() == []


@pytest.mark.soak
def test_a_failure_is_rolled_back_and_tells_why(exported: Exported) -> None:
    """A template of the project's own makes a unit that ends at once."""
    text = (shipped.folder("templates") / "ollama.service.j2").read_text()
    own = exported.project.folder / "templates/ollama.service.j2"
    own.parent.mkdir()
    own.write_text(re.sub(r"(?m)^ExecStart=.*", "ExecStart=/bin/false", text))
    exported.export()
    box = exported.project.lab
    before = box.sh("box", "readlink /etc/ogen/current; systemctl is-active ogen-ollama-gpu0")
    said = exported.run("ansible-playbook", "playbooks/apply.yaml", code=2)
    assert '"rolled_back": true' in said, said
    assert "ogen-ollama-gpu0.service" in said
    assert box.sh("box", "readlink /etc/ogen/current; systemctl is-active ogen-ollama-gpu0") == before
    exported.project.ogen("diff", code=2)
