"""Releases that must not come into force: the box keeps, or gets back, the old one and serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from cluster import Project, ask, load
from lab import Lab, lab

from ogen import shipped

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(600)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: {key}}}
ollama: {{version: 0.32.15}}
models:
  chat: {{from: llama3.1:8b-instruct-q4_K_M, context: {context}, replicas: fill}}
hosts:
  solo: {{address: {solo}, gpus: [{{model: RTX 3090, count: 2}}]}}
balancers:
  api: {{hosts: [solo], listen: 8080}}
"""


@pytest.fixture(scope="module")
def solo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One box with two cards that is its own balancer, serving."""
    with lab("refuse") as made:
        made.up("solo", gpus="24576,24576", ollama=True)
        project = Project(made, tmp_path_factory.mktemp("project"), boxes=("solo",))
        project.write(INVENTORY, context=8192)
        project.ogen("provision")
        project.ogen("apply", "--yes")
        yield project


def override(project: Project, name: str, change: Callable[[str], str]) -> None:
    """A template of the project's own: the shipped one, changed."""
    text = (shipped.folder("templates") / name).read_text()
    changed = change(text)
    assert changed != text
    folder = project.folder / "templates"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(changed)


def still_old(made: Lab, before: str) -> None:
    assert made.sh("solo", "readlink -f /etc/ogen/current") == before
    assert not load(f"http://{made.address('solo')}:8080", 20).failed


def refused(project: Project, *words: str) -> None:
    """`apply` exits 6, shows the box's own words, and the old release serves."""
    before = project.lab.sh("solo", "readlink -f /etc/ogen/current")
    files = project.lab.sh("solo", f"cd {before.strip()} && find . -type f | sort | xargs sha256sum")
    done = project.ogen("apply", "--yes", code=6)
    for word in words:
        assert word in done.stdout + done.stderr
    still_old(project.lab, before)
    assert files == project.lab.sh("solo", f"cd {before.strip()} && find . -type f | sort | xargs sha256sum")


def test_an_invalid_nginx_file(solo: Project) -> None:
    override(
        solo, "nginx.conf.j2", lambda text: text.replace("http {", "http {\n    no_such_directive on;", 1)
    )
    try:
        refused(solo, "no_such_directive")
    finally:
        (solo.folder / "templates" / "nginx.conf.j2").unlink()


def test_a_unit_that_does_not_start(solo: Project) -> None:
    def break_it(text: str) -> str:
        lines = [
            "ExecStart=/bin/false" if line.startswith("ExecStart=") else line for line in text.splitlines()
        ]
        return "\n".join(lines) + "\n"

    override(solo, "ollama.service.j2", break_it)
    try:
        refused(solo, "ogen-ollama-gpu0")
    finally:
        (solo.folder / "templates" / "ollama.service.j2").unlink()


def test_an_instance_that_comes_up_on_the_cpu(solo: Project) -> None:
    override(solo, "ollama.service.j2", lambda text: text + "Environment=CUDA_VISIBLE_DEVICES=-1\n")
    try:
        refused(solo, "gpu0", "CPU")
    finally:
        (solo.folder / "templates" / "ollama.service.j2").unlink()


def test_a_card_that_is_gone_is_said_and_the_old_files_are_back(solo: Project) -> None:
    """Not the release's fault: the old one can't have its card either, so nothing is called rolled back."""
    before = solo.lab.sh("solo", "readlink -f /etc/ogen/current")
    solo.write(INVENTORY, context=4096)
    solo.lab.write("solo", "/etc/testbed/ollama.d/11435.fault", "nogpu")
    try:
        done = solo.ogen("apply", "--yes", code=3)
    finally:
        solo.lab.sh("solo", "rm -f /etc/testbed/ollama.d/11435.fault")
    assert "gpu1" in done.stderr
    assert "could not be proven" in done.stderr
    still_old(solo.lab, before)
    solo.ogen("apply", "--yes")
    assert ask(f"http://{solo.lab.address('solo')}:8080")[1]["done"]
    assert solo.lab.sh("solo", "readlink -f /etc/ogen/current") != before
