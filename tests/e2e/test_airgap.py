"""A bare box with no route but to the control machine becomes a serving one."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator

import pytest
from cluster import Project, load
from lab import lab
from test_provision import OLD, archive

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(300)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: {key}}}
ollama: {{version: {version}, source: {{file: "dist/ollama-{{version}}.tar.zst"}}}}
models:
  own: {{from: {{Q4_K_M: ./own.gguf}}, card: llama3.1-8b, context: 4096, replicas: fill}}
hosts:
  alone: {{address: {alone}, gpus: [{{model: RTX 3090}}]}}
balancers:
  api: {{hosts: [alone], listen: 8080}}
"""
MEDIUM = "deb [trusted=yes] file:/opt/testbed/apt ./"
FAR = "deb http://deb.debian.org/debian bookworm main"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The box has no python3; its sources.list names a mirror that it can't reach. The tests run in order."""
    with lab("airgap") as made:
        made.up("alone", python=False, gpus="24576")
        net = made.address("alone").rpartition(".")[0]
        made.sh("alone", f"ip route del {net}.0/24; ip route add {net}.1/32 dev eth0")
        made.write("alone", "/etc/apt/sources.list", FAR)
        made.write("alone", "/etc/apt/apt.conf.d/99quick", 'Acquire::Retries "0";\n')
        made.sh("alone", "rm -rf /var/lib/apt/lists/*")
        found = Project(made, tmp_path_factory.mktemp("project"), boxes=("alone",))
        (found.folder / "dist").mkdir()
        archive(found.folder / "dist", OLD)
        (found.folder / "own.gguf").write_bytes(b"GGUF" + os.urandom(9 * 1024 * 1024))
        found.write(INVENTORY, version=OLD)
        yield found


def from_a_medium(project: Project, packages: str) -> None:
    """As whoever stands before the machine does it."""
    project.lab.write("alone", "/etc/apt/sources.list", MEDIUM)
    install = f"DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends {packages}"
    project.lab.sh("alone", f"apt-get -qq update; {install}; rm -rf /var/lib/apt/lists/*")
    project.lab.write("alone", "/etc/apt/sources.list", FAR)


def test_there_is_no_way_out(project: Project) -> None:
    routes = project.lab.sh("alone", "ip route").splitlines()
    control = project.lab.address("alone").rpartition(".")[0] + ".1"
    assert [route.split()[0] for route in routes] == [control]
    for address in ("198.51.100.1", control.rpartition(".")[0] + ".2"):
        said = project.lab.sh("alone", f"curl -sS -m 5 http://{address}/ 2>&1", check=False)
        assert "connect" in said.lower(), said
    assert "name resolution" in project.lab.sh(
        "alone", "getent hosts deb.debian.org || echo no name resolution"
    )


def test_without_python_or_a_mirror_it_says_what_to_do(project: Project) -> None:
    said = project.ogen("provision", code=3).stderr
    assert "error: alone: python3 can't be installed: no package mirror answers" in said
    assert "hint: install python3 on the host from a medium, or name a mirror" in said
    from_a_medium(project, "python3")


def test_all_missing_packages_are_told_at_once(project: Project) -> None:
    said = project.ogen("provision", code=3).stderr
    assert "zstd can't be had: no package mirror answers" in said
    assert "Failed to fetch http://deb.debian.org/" in said
    listed = re.search(r"missing are, in all: (.*)", said)
    assert listed
    assert listed[1].split() == ["libnginx-mod-http-js", "nginx", "zstd"]
    assert project.lab.sh("alone", "getent passwd ollama", check=False) == "", "nothing has changed"
    from_a_medium(project, listed[1])


def test_it_ends_up_serving(project: Project) -> None:
    begun = time.monotonic()
    project.ogen("provision")
    provisioned = time.monotonic()
    project.ogen("apply", "--yes")
    applied = time.monotonic()
    print(f"\nair-gapped: provision {provisioned - begun:.1f} s, apply {applied - provisioned:.1f} s")
    answers = load(f"http://{project.lab.address('alone')}:8080", 16, models=("own",))
    assert not answers.failed
    assert sum(answers.served.values()) == 16
    log = project.lab.sh("alone", "journalctl -q -o cat -u 'ogen-*' --grep 'pull|registry'", check=False)
    assert "registry.ollama.ai" not in log, "nobody was asked for a model"
    assert "unchanged" in project.ogen("provision").stdout
