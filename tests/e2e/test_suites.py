"""Bare boxes of other systems become serving ones: Debian 13, Ubuntu 24.04. (All other tests' are Debian 12.)

A suite's image is made from its mirror. Ubuntu's takes the archive's keyring and an mmdebstrap that adds
`--components=main,universe --include=apt`: it is used where it has been made, else that test is skipped.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from cluster import Project, load
from lab import Lab
from test_provision import OLD, archive

pytestmark = [pytest.mark.boxes, pytest.mark.soak, pytest.mark.timeout(1200)]

INVENTORY = """\
version: 1
ssh: {{user: ops, become: true, key: {key}, become_password: !env OPS_PASSWORD}}
ollama: {{version: {version}, source: {{file: "dist/ollama-{{version}}.tar.zst"}}}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: 8192, replicas: fill}}
hosts:
  bare: {{address: {bare}, gpus: [{{model: RTX 3090, count: 2}}]}}
balancers:
  api: {{hosts: [bare], listen: 8080, gate: true}}
  plain: {{hosts: [bare], listen: 8081}}
"""
UBUNTU = {"TESTBED_MIRROR": "http://archive.ubuntu.com/ubuntu"}
SUITES = {"trixie": {}, "noble": UBUNTU}


@pytest.mark.parametrize("suite", SUITES)
def test_a_bare_box_of_another_system(suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Path(os.environ.get("TESTBED_CACHE", Path.home() / ".cache/ogen-testbed"))
    if suite != "trixie" and not (cache / suite / "image").is_dir():
        pytest.skip(f"no image of {suite} in {cache}")
    monkeypatch.setenv("OPS_PASSWORD", "ops")
    made = Lab("suites", {"TESTBED_SUITE": suite, **SUITES[suite]})
    made.down()
    try:
        made.up("bare", python=False)
        project = Project(made, tmp_path, boxes=("bare",))
        (tmp_path / "dist").mkdir()
        archive(tmp_path / "dist", OLD)
        project.write(INVENTORY, version=OLD)
        begun = time.monotonic()
        project.ogen("provision")
        provisioned = time.monotonic()
        project.ogen("apply", "--yes")
        applied = time.monotonic()
        for port in (8080, 8081):
            answers = load(f"http://{made.address('bare')}:{port}", 16)
            assert not answers.failed
            assert len(answers.served) == 2
        assert "unchanged" in project.ogen("provision").stdout
        project.ogen("diff", code=0)
        system = made.sh("bare", ". /etc/os-release; echo $PRETTY_NAME; nginx -v 2>&1")
        print(f"\n{system}provision {provisioned - begun:.1f} s, apply {applied - provisioned:.1f} s")
    finally:
        made.down()
