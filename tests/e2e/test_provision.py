"""Bare boxes become ready: one without python3, one without cards, one where sudo asks for a password."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from cluster import Project
from lab import Lab, lab

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(600)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: {key}}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: 8192}}
hosts:
  bare: {{address: {bare}, gpus: [{{model: RTX 3090}}]}}
  edge: {{address: {edge}, ssh: {{user: ops, become_password: !env OPS_PASSWORD}}}}
balancers:
  api: {{hosts: [edge], listen: 8080}}
"""
#: everything but what runs, logs and caches: path, type, mode, owner, target, and time of change
LEFT_OUT = ["proc", "sys", "run", "tmp", "home", "root", "var/log", "var/tmp"]
LEFT_OUT += ["opt/testbed", "var/lib/systemd", "var/lib/sudo"]
SNAPSHOT = (
    f"find / -xdev \\( {' -o '.join(f'-path /{path}' for path in LEFT_OUT)} \\) -prune "
    "-o -printf '%p %y %m %u:%g %l %T@\\n' | sort; "
    "systemctl list-unit-files --no-legend --no-pager; dpkg-query -W"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Two boxes as they come from the installer; the tests below run in order."""
    with lab("provision") as made:
        made.up("bare", python=False, gpus="24576")
        made.up("edge", gpus="none")
        found = Project(made, tmp_path_factory.mktemp("project"), boxes=("bare", "edge"))
        found.write(INVENTORY)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OPS_PASSWORD", "ops")
            yield found


def snapshot(project: Project) -> set[str]:
    return {f"{box}: {line}" for box in project.boxes for line in show(project.lab, box, SNAPSHOT)}


def provision(project: Project, *args: str, code: int = 0) -> dict[str, Any]:
    done = project.ogen("provision", "--format", "json", *args, code=code)
    assert "Traceback" not in done.stderr
    return {host["host"]: host for host in json.loads(done.stdout)["hosts"]}


def changed(host: dict[str, Any]) -> list[str]:
    return [step["name"] for step in host["steps"] if step["changed"]]


def show(made: Lab, box: str, script: str) -> list[str]:
    return made.sh(box, script, check=False).splitlines()


def test_check_shows_everything_and_changes_nothing(project: Project) -> None:
    before = snapshot(project)
    found = provision(project, "--check", code=2)
    assert [host["status"] for host in found.values()] == ["pending", "pending"]
    assert changed(found["bare"]) == ["Install python3, by plain sh"]
    assert "when python3 is there" in found["bare"]["message"]
    project.values["predicted"] = changed(found["edge"])
    assert snapshot(project) ^ before == set()


def test_the_first_run_does_what_was_predicted(project: Project) -> None:
    found = provision(project)
    assert [host["status"] for host in found.values()] == ["changed", "changed"]
    assert changed(found["edge"]) == project.values["predicted"]
    assert changed(found["bare"])[0] == "Install python3, by plain sh"


def test_the_node_is_as_it_should_be(project: Project) -> None:
    made = project.lab
    assert show(made, "bare", "id -un ollama; id -gn ollama; id -Gn ollama | tr ' ' '\\n' | sort") == [
        "ollama",
        "ollama",
        "ollama",
        "render",
        "video",
    ]
    account = show(made, "bare", "getent passwd ollama")[0].split(":")
    assert account[5:] == ["/usr/share/ollama", "/usr/sbin/nologin"]
    assert int(account[2]) < 1000
    models = "/var/lib/ollama/models"
    folders = f"{models} {models}/blobs {models}/manifests /etc/ogen /var/lib/ogen /var/log/ogen"
    assert show(made, "bare", f"stat -c '%a %U:%G %F' {folders}") == [
        *["755 ollama:ollama directory"] * 3,
        *["755 root:root directory"] * 3,
    ]
    assert show(made, "bare", "for tool in python3 zstd logrotate nginx; do command -v $tool; done") == [
        "/usr/bin/python3",
        "/usr/bin/zstd",
        "/usr/sbin/logrotate",
    ]


def test_the_edge_is_as_it_should_be(project: Project) -> None:
    made = project.lab
    assert show(made, "edge", "systemctl is-enabled nginx; systemctl is-active nginx") == [
        "disabled",
        "inactive",
    ]
    assert show(made, "edge", "ls /usr/lib/nginx/modules") == ["ngx_http_js_module.so"]
    assert show(made, "edge", "journalctl -u nginx -o cat -q") == []  # it never ran, not even for a second
    assert (
        show(made, "edge", "ls /usr/sbin/policy-rc.d 2>/dev/null; getent passwd ollama; command -v zstd")
        == []
    )


def test_the_second_run_changes_nothing(project: Project) -> None:
    before = snapshot(project)
    found = provision(project)
    assert [host["status"] for host in found.values()] == ["unchanged", "unchanged"]
    assert snapshot(project) ^ before == set()
    assert provision(project, "--check").keys() == found.keys()


def test_what_was_undone_comes_back(project: Project) -> None:
    project.lab.sh("bare", "chmod 700 /var/lib/ollama/models/blobs; gpasswd -d ollama video")
    predicted = provision(project, "--check", "--limit", "bare", code=2)["bare"]
    done = provision(project, "--limit", "bare")["bare"]
    assert [(s["name"], s["diff"]) for s in predicted["steps"]] == [
        (s["name"], s["diff"]) for s in done["steps"]
    ]
    assert [s["msg"] for s in done["steps"] if s["changed"]] == [
        "groups: render → render,video",
        "mode: 0700 → 0755",
    ]


def test_the_stock_service_is_held_off(project: Project) -> None:
    unit = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
    project.lab.write("bare", "/etc/systemd/system/ollama.service", unit)
    project.lab.sh("bare", "systemctl daemon-reload && systemctl enable --now ollama")
    found = provision(project, "--limit", "bare")["bare"]
    assert changed(found) == ["Hold off the stock Ollama service"]
    assert show(project.lab, "bare", "systemctl is-enabled ollama; systemctl is-active ollama") == [
        "disabled",
        "inactive",
    ]


def test_a_failure_names_the_step_and_keeps_the_other_hosts(project: Project) -> None:
    own = project.folder / "playbooks" / "provision.yaml"
    own.parent.mkdir()
    own.write_text(
        "- hosts: all\n  become: true\n  tasks:\n"
        "    - {name: Install it, apt: {name: no-such-package}, when: ogen_balancer}\n"
        '    - {name: Say so, copy: {dest: /etc/said, content: "{{ inventory_hostname }}\\n"}}\n'
    )
    done = project.ogen("provision", code=3)
    assert "edge: Install it: apt-get install no-such-package" in done.stderr
    assert "E: Unable to locate package no-such-package" in done.stderr
    assert "1 changed, 1 failed" in done.stdout
    assert show(project.lab, "bare", "cat /etc/said") == ["bare"]
    assert show(project.lab, "edge", "ls /etc/said 2>/dev/null") == []


def test_a_wrong_password_is_one_clear_error(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPS_PASSWORD", "not-this-one")
    done = project.ogen("provision", "--limit", "edge", code=3)
    assert "does not take the password" in done.stderr
    assert "not-this-one" not in done.stderr + done.stdout
