"""Bare boxes become serving ones: two without python3, two where sudo asks for a password, none with a way
to the internet; then Ollama goes to another version and back, under load."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cluster import Project, load
from lab import TESTBED, Lab, lab
from test_drain import Load, started

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(600)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: {key}}}
ollama: {{version: {version}, source: {{file: "dist/ollama-{{version}}.tar.zst"}}}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: 8192}}
groups:
  asking: {{hosts: [asks, edge], ssh: {{user: ops, become_password: !env OPS_PASSWORD}}}}
hosts:
  bare: {{address: {bare}, gpus: [{{model: RTX 3090, count: 2}}]}}
  asks:
    address: {asks}
    gpus: [{{model: RTX 3090, count: 2}}]
    ollama:
      source: {{url: "{origin}/ollama-{{version}}.tar.zst", sha256: {{0.32.15: {old}, 0.33.0: {new}}}}}
  edge: {{address: {edge}}}
balancers:
  api: {{hosts: [edge], listen: 8080, gate: true}}
rollout: {{batches: [100%]}}
"""
OLD, NEW = "0.32.15", "0.33.0"
NODES = ("bare", "asks")
#: what the installer of Ollama leaves on a machine
STOCK = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
TIMINGS = {"token_ms": 50, "tokens": 20, "load_ms": 500}
#: everything but what runs, logs and caches: path, type, mode, owner, target, and time of change
LEFT_OUT = ["proc", "sys", "run", "tmp", "home", "root", "var/log", "var/tmp"]
LEFT_OUT += ["opt/testbed", "var/lib/systemd", "var/lib/sudo", "var/lib/ogen/gpu0", "var/lib/ogen/gpu1"]
LEFT_OUT += ["etc/ogen/lock", "etc/ogen/tx.lock"]  # who held them last
SNAPSHOT = (
    f"find / -xdev \\( {' -o '.join(f'-path /{path}' for path in LEFT_OUT)} \\) -prune "
    "-o -printf '%p %y %m %u:%g %l %T@\\n' | sort; "
    "systemctl list-unit-files --no-legend --no-pager; dpkg-query -W"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Two boxes as they come from the installer; the tests below run in order."""
    with lab("provision") as made:
        made.up("bare", "asks", python=False, gpus="24576,24576")
        made.up("edge", gpus="none")
        for box in ("bare", "asks"):
            made.write(box, "/etc/testbed/ollama.json", json.dumps(TIMINGS))
        made.write("bare", "/etc/systemd/system/ollama.service", STOCK)
        made.sh("bare", "systemctl daemon-reload && systemctl enable --now ollama")
        found = Project(made, tmp_path_factory.mktemp("project"), boxes=("bare", "asks", "edge"))
        dist = found.folder / "dist"
        dist.mkdir()
        digests = {name: archive(dist, version) for name, version in (("old", OLD), ("new", NEW))}
        address = made.address("bare").rpartition(".")[0] + ".1"
        with serving(dist, address) as server:
            found.write(
                INVENTORY, version=OLD, origin=f"http://{address}:{server.server_address[1]}", **digests
            )
            found.values["server"] = server
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("OPS_PASSWORD", "ops")
                yield found


def archive(folder: Path, version: str) -> str:
    """A release of the stand-in, laid out as Ollama's own; returns its sha256."""
    tree = folder / version
    (tree / "bin").mkdir(parents=True)
    (tree / "lib/ollama/cuda_v13").mkdir(parents=True)
    shutil.copy(TESTBED.with_name("ollama"), tree / "bin/ollama")
    (tree / "bin/VERSION").write_text(version)
    (tree / "lib/ollama/libggml.so.1").write_bytes(os.urandom(12_000_000))
    (tree / "lib/ollama/libggml.so").symlink_to("libggml.so.1")
    made = folder / f"ollama-{version}.tar.zst"
    pack = f"tar --owner 1000 --group 1000 -C '{tree}' -cf - . | zstd -q -1 -o '{made}'"
    subprocess.run(["sh", "-c", pack], check=True)
    shutil.rmtree(tree)
    return hashlib.sha256(made.read_bytes()).hexdigest()


@contextmanager
def serving(folder: Path, address: str) -> Iterator[ThreadingHTTPServer]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer((address, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def snapshot(project: Project) -> set[str]:
    return {f"{box}: {line}" for box in project.boxes for line in show(project.lab, box, SNAPSHOT)}


def provision(project: Project, *args: str, code: int = 0) -> dict[str, Any]:
    done = project.ogen("provision", "--format", "json", *args, code=code)
    assert "Traceback" not in done.stderr
    project.values["told"] = done.stderr
    return {host["host"]: host for host in json.loads(done.stdout)["hosts"]}


def changed(host: dict[str, Any]) -> list[str]:
    return [step["name"] for step in host["steps"] if step["changed"]]


def show(made: Lab, box: str, script: str) -> list[str]:
    return made.sh(box, script, check=False).splitlines()


def versions(project: Project) -> list[str]:
    """What the four instances say of themselves."""
    script = "for p in 11434 11435; do curl -sS http://127.0.0.1:$p/api/version; echo; done"
    said = [line for box in NODES for line in show(project.lab, box, script)]
    return [json.loads(line)["version"] for line in said if line]


def url(project: Project) -> str:
    return f"http://{project.lab.address('edge')}:8080"


def test_check_shows_everything_and_changes_nothing(project: Project) -> None:
    before = snapshot(project)
    found = provision(project, "--check", code=2)
    assert [host["status"] for host in found.values()] == ["pending"] * 3
    for name in NODES:
        assert changed(found[name]) == ["Install python3, by plain sh"]
        assert "when python3 is there" in found[name]["message"]
    project.values["predicted"] = changed(found["edge"])
    assert snapshot(project) ^ before == set()


def test_provision_and_apply_and_requests_are_answered(project: Project) -> None:
    found = provision(project)
    assert [host["status"] for host in found.values()] == ["changed"] * 3
    assert changed(found["edge"]) == project.values["predicted"]
    assert changed(found["bare"])[0] == changed(found["asks"])[0] == "Install python3, by plain sh"
    assert "Send Ollama and unpack it (ollama-0.32.15.tar.zst)" in changed(found["bare"])
    assert "Fetch Ollama (ollama-0.32.15.tar.zst)" in changed(found["asks"])
    assert "Hold off the stock Ollama service" in changed(found["bare"])
    for box, step in (("bare", "Send Ollama and unpack it"), ("asks", "Fetch Ollama")):
        told = re.findall(rf"{box}: step: {step} .* ([0-9]+) %", str(project.values["told"]))
        assert len({int(part) // 25 for part in told}) > 2, told
    provisioned = time.monotonic()
    project.ogen("apply", "--yes")
    applied = time.monotonic()
    answers = load(url(project), 16)
    spent = {name: host["seconds"] for name, host in found.items()}
    print(f"\nprovision {spent} (s), apply {applied - provisioned:.1f} s")
    print(f"16 requests in {time.monotonic() - applied:.1f} s, {len(answers.failed)} failed")
    assert not answers.failed
    assert sum(answers.served.values()) == 16
    assert versions(project) == [OLD] * 4


def test_ollama_lies_in_a_folder_of_its_own(project: Project) -> None:
    places = "0.32.15 0.32.15/bin/ollama 0.32.15/lib/ollama/libggml.so.1"
    script = f"cd /opt/ogen/ollama; ls -A; stat -c '%a %U:%G' {places}; readlink 0.32.15/lib/ollama/*.so"
    for box in NODES:
        found = show(project.lab, box, script)
        assert found == [OLD, "755 root:root", "755 root:root", "644 root:root", "libggml.so.1"]
        assert sorted(show(project.lab, box, "ls -A /opt/ogen/ollama/0.32.15"))[1:] == ["bin", "lib"]
    assert show(project.lab, "edge", "ls -A /opt") == ["testbed"]


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
    modules = ["ndk_http_module.so", "ngx_http_js_module.so", "ngx_http_lua_module.so"]
    assert show(made, "edge", "ls /usr/lib/nginx/modules") == modules
    assert show(made, "edge", "journalctl -u nginx -o cat -q") == []  # it never ran, not even for a second
    assert (
        show(made, "edge", "ls /usr/sbin/policy-rc.d 2>/dev/null; getent passwd ollama; command -v zstd")
        == []
    )


def test_the_second_run_changes_nothing(project: Project) -> None:
    before = snapshot(project)
    found = provision(project)
    assert [host["status"] for host in found.values()] == ["unchanged"] * 3
    assert snapshot(project) ^ before == set()
    assert provision(project, "--check").keys() == found.keys()
    project.ogen("diff", code=0)


# ------------------------------------------------------------------------- another version, and back
def test_a_version_that_is_not_there_is_refused_before_anything_changes(project: Project) -> None:
    before = started(project, NODES)
    project.write(INVENTORY, version=NEW)
    refused = project.ogen("apply", "--yes", code=6)
    assert "/opt/ogen/ollama/0.33.0/bin/ollama is not on this host" in refused.stderr
    assert "run `ogen provision` first" in refused.stderr
    preview = project.ogen("apply", "--dry-run", code=2).stderr
    assert "bare has no /opt/ogen/ollama/0.33.0/bin/ollama yet: run `ogen provision`" in preview
    assert started(project, NODES) == before


def test_another_version_under_load(project: Project) -> None:
    before = started(project, NODES)
    found = provision(project)
    assert [host["status"] for host in found.values()] == ["changed", "changed", "unchanged"]
    assert started(project, NODES) == before
    with Load([url(project)]) as stream:
        project.ogen("apply", "--yes")
    print(f"\n{OLD} to {NEW}: {stream.whole} streams whole, {len(stream.failed)} failed")
    assert not stream.failed
    assert stream.whole > 10
    assert versions(project) == [NEW] * 4
    after = started(project, NODES)
    assert all(before[name] != after[name] for name in before)


def test_back_while_no_origin_can_be_reached(project: Project) -> None:
    """Neither that of models nor those of archives; from here on the web server is gone."""
    (project.folder / "dist").rename(project.folder / "gone")
    server = project.values["server"]
    assert isinstance(server, ThreadingHTTPServer)
    server.shutdown()
    server.server_close()
    for box in NODES:
        project.lab.write(box, "/etc/testbed/ollama-fault", "nopull")
    own = "OLLAMA_HOST=127.0.0.1:11434 /opt/ogen/ollama/0.33.0/bin/ollama pull llama3.1:8b 2>&1"
    assert "Error" in project.lab.sh("bare", own, check=False)
    assert "is gone" in project.lab.sh("asks", f"curl -sS {project.values['origin']} || echo is gone")
    with Load([url(project)]) as stream:
        project.ogen("rollback", "--yes", "--limit", "bare,asks")
    print(f"\n{NEW} to {OLD}: {stream.whole} streams whole, {len(stream.failed)} failed")
    (project.folder / "gone").rename(project.folder / "dist")
    for box in NODES:
        project.lab.sh(box, "rm /etc/testbed/ollama-fault")
    assert not stream.failed
    assert stream.whole > 10
    assert versions(project) == [OLD] * 4
    project.write(INVENTORY, version=OLD)
    project.ogen("diff", code=0)
    assert [host["status"] for host in provision(project).values()] == ["unchanged"] * 3


def test_versions_that_no_release_names_are_collected(project: Project) -> None:
    project.write(INVENTORY.replace("8192", "4096"), version=OLD)
    project.ogen("apply", "--yes")
    assert show(project.lab, "bare", "ls -A /opt/ogen/ollama") == [OLD]
    assert versions(project) == [OLD] * 4


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


STOCK_STATE = "systemctl is-enabled ollama; systemctl is-active ollama"


def test_cards_that_can_t_be_had_are_told_before_anything_changes(project: Project) -> None:
    project.lab.sh("bare", "rm /dev/nvidia-uvm")
    before = snapshot(project)
    three = INVENTORY.replace("RTX 3090, count: 2", "RTX 3090, count: 3").replace("8192", "4096")
    project.write(three, version=OLD)
    for args in ((), ("--check",)):
        said = project.ogen("provision", "--limit", "bare", *args, code=3).stderr
        assert "card 2 (RTX 3090) is not there: nvidia-smi shows 0 NVIDIA" in said
        assert "gpus: {2: {state: out, reason: …}}" in said
        assert "/dev/nvidia-uvm is missing" in said
    assert snapshot(project) ^ before == set()
    project.lab.sh("bare", "mknod -m 666 /dev/nvidia-uvm c 511 0")
    project.write(INVENTORY.replace("8192", "4096"), version=OLD)
    assert provision(project, "--limit", "bare")["bare"]["status"] == "unchanged"


def test_the_stock_service_is_held_off(project: Project) -> None:
    assert show(project.lab, "bare", STOCK_STATE) == ["disabled", "inactive"]
    project.lab.sh("bare", "systemctl enable --now ollama")  # as its installer does at each run
    assert show(project.lab, "bare", STOCK_STATE) == ["enabled", "inactive"]
    found = provision(project, "--limit", "bare")["bare"]
    assert changed(found) == ["Hold off the stock Ollama service"]
    assert show(project.lab, "bare", STOCK_STATE) == ["disabled", "inactive"]


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
    assert "2 changed, 1 failed" in done.stdout
    assert show(project.lab, "bare", "cat /etc/said") == ["bare"]
    assert show(project.lab, "edge", "ls /etc/said 2>/dev/null") == []


def test_a_wrong_password_is_one_clear_error(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPS_PASSWORD", "not-this-one")
    done = project.ogen("provision", "--limit", "edge", code=3)
    assert "does not take the password" in done.stderr
    assert "not-this-one" not in done.stderr + done.stdout


def test_a_retired_host_gets_its_stock_service_back(project: Project) -> None:
    text = INVENTORY.replace("bare: {{address: {bare},", "bare: {{address: {bare}, state: out,")
    project.write(text.replace("8192", "4096"), version=OLD)
    project.ogen("apply", "--yes")
    done = project.ogen("retire", "bare", "--yes")
    assert "ollama.service is enabled and running again" in done.stdout
    assert show(project.lab, "bare", STOCK_STATE) == ["enabled", "active"]
    assert show(project.lab, "bare", "ls -d /etc/ogen /opt/ogen /etc/systemd/system/ollama.service.d") == []
