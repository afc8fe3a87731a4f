"""The same inventory by ogen on one box, and by ansible-playbook from the export on the other: the machines
are the same after each step, over the whole file system."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ansible
import parity
import pytest
from ansibled import Exported
from cluster import Project
from lab import Lab, lab
from test_provision import archive

pytestmark = [pytest.mark.boxes, pytest.mark.soak, pytest.mark.timeout(900)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: {key}}}
ollama: {{version: 0.32.15, source: {{file: "dist/ollama-{{version}}.tar.zst"}}}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: {context}, aliases: ["llama3.1:8b"]}}
hosts:
  box: {{address: ADDRESS, gpus: [{{model: RTX 3090, count: 2}}]}}
balancers:
  api: {{hosts: [box], listen: 8080, gate: true, keys: !file secrets/keys.yaml}}
"""
LEAVING = """\
version: 1
ssh: {{user: admin, become: true, key: {key}}}
hosts:
  box: {{address: ADDRESS, state: out}}
"""
STOCK = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
KEY = "0123456789abcdef-of-alice"
KEYS = "files/hosts/box/etc/ogen/current/balancers/api/keys.conf"


@dataclass
class Pair:
    """`ours` is ogen's box, `theirs` Ansible's; both inventories differ by the address alone."""

    lab: Lab
    ours: Project
    theirs: Project
    exported: Exported

    def write(self, context: int = 8192) -> None:
        for name, project in (("ours", self.ours), ("theirs", self.theirs)):
            text = INVENTORY.replace("ADDRESS", self.lab.address(name))
            project.write(text, context=context)

    def export(self) -> None:
        """As somebody does it that keeps keys in the project: encrypted."""
        self.exported.export("--with-secrets")
        self.exported.run("ansible-vault", "encrypt", KEYS)

    def same(self, what: str) -> None:
        one, other = (parity.read(self.lab, name) for name in ("ours", "theirs"))
        counts = f"{len(one['files'])} paths, {len(one['packages'])} packages, {len(one['active'])} units"
        found = list(parity.differences(one, other))
        print(f"\n{what}: {counts}; {len(found)} differences")
        assert found == []


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two boxes with the same cards and a stock Ollama service; the tests below run in order."""
    top = tmp_path_factory.mktemp("parity")
    with lab("parity") as made:
        made.env["TESTBED_BIND"] = f"{Path(ansible.__file__).parents[1]}:/mnt"
        made.up("ours", "theirs", gpus="24576,24576")
        cards = made.sh("ours", "cat /etc/testbed/gpus")
        for name in ("ours", "theirs"):
            made.write(name, "/etc/testbed/gpus", cards)
            made.write(name, "/etc/systemd/system/ollama.service", STOCK)
            made.sh(name, "systemctl daemon-reload && systemctl -q enable --now ollama")
            # Ansible's own apt module installs this for itself
            made.sh(name, "apt-get -qq update && apt-get -qq -y install python3-apt >/dev/null")
            (top / name / "secrets").mkdir(parents=True)
            (top / name / "secrets/keys.yaml").write_text(f"alice: {KEY}\n")
            (top / name / "dist").mkdir()
        archive(top / "ours/dist", "0.32.15")
        shutil.copy(top / "ours/dist/ollama-0.32.15.tar.zst", top / "theirs/dist")
        projects = [Project(made, top / name, boxes=()) for name in ("ours", "theirs")]
        (top / "vault").write_text("the vault's password\n")
        exported = Exported(projects[1], top / "export", {"ANSIBLE_VAULT_PASSWORD_FILE": str(top / "vault")})
        found = Pair(made, *projects, exported)
        found.write()
        found.export()
        yield found


def provisioned(pair: Pair) -> list[str]:
    """ogen's own report."""
    hosts = json.loads(pair.ours.ogen("provision", "--format", "json").stdout)["hosts"]
    return [host["status"] for host in hosts]


def applied(pair: Pair) -> list[str]:
    hosts = json.loads(pair.ours.ogen("apply", "--yes", "--format", "json").stdout)["hosts"]
    return [host["status"] for host in hosts]


def test_provision(pair: Pair) -> None:
    pair.same("two bare boxes")
    assert provisioned(pair) == ["changed"]
    assert pair.exported.play("provision")["box"] > 10
    pair.same("provision, first run")


def test_provision_again(pair: Pair) -> None:
    assert provisioned(pair) == ["unchanged"]
    assert pair.exported.play("provision") == {"box": 0}
    pair.same("provision, second run")


def test_apply(pair: Pair) -> None:
    assert pair.exported.play("apply", "--check", "--diff") == {"box": 2}
    assert applied(pair) == ["applied"]
    assert pair.exported.play("apply") == {"box": 2}
    pair.same("apply, first run")
    for name in ("ours", "theirs"):
        assert "chat" in ask_with_key(pair.lab, name)


def ask_with_key(made: Lab, box: str) -> str:
    ask_ = f"curl -sS -H 'Authorization: Bearer {KEY}' http://127.0.0.1:8080/api/tags"
    return made.sh(box, ask_)


def test_apply_again(pair: Pair) -> None:
    assert applied(pair) == ["unchanged"]
    assert pair.exported.play("apply") == {"box": 0}
    assert pair.exported.play("apply", "--check", "--diff") == {"box": 0}
    pair.same("apply, second run")


def test_each_takes_the_others_host_for_its_own(pair: Pair) -> None:
    theirs = json.loads(pair.theirs.ogen("history", "--format", "json").stdout)
    assert "with Ansible" in json.dumps(theirs)
    pair.theirs.ogen("diff", code=0)
    assert (
        json.loads(pair.theirs.ogen("provision", "--format", "json").stdout)["hosts"][0]["status"]
        == "unchanged"
    )
    address = f"ansible_host={pair.lab.address('ours')}"
    assert pair.exported.play("apply", "-e", address) == {"box": 0}
    assert pair.exported.play("provision", "-e", address) == {"box": 0}
    pair.same("each by the other")


def test_a_change(pair: Pair) -> None:
    pair.write(context=4096)
    pair.export()
    said = pair.exported.run("ansible-playbook", "playbooks/apply.yaml", "--check", "--diff")
    assert "-OLLAMA_CONTEXT_LENGTH" in said or "-Environment=OLLAMA_CONTEXT_LENGTH=8192" in said, said
    assert KEY not in said
    assert applied(pair) == ["applied"]
    assert pair.exported.play("apply")["box"] >= 1
    pair.same("one change")
    assert applied(pair) == ["unchanged"]
    assert pair.exported.play("apply") == {"box": 0}
    pair.same("one change, second run")


DRAIN = """\
- name: Drain
  hosts: all
  become: true
  gather_facts: false
  tasks:
    - name: Keep the balancers away
      ogen.fleet.drain: {instances: [gpu1], state: STATE, seconds: 120}
      delegate_to: "{{ item }}"
      loop: "{{ ogen_edges }}"
"""


def test_drain(pair: Pair) -> None:
    def down() -> list[str]:
        return json.loads(pair.lab.sh("theirs", "cat /run/ogen/leases.json"))["taken"]["api"]

    for state, servers in (("drained", ["127.0.0.1:11435"]), ("served", [])):
        (pair.exported.folder / f"playbooks/{state}.yaml").write_text(DRAIN.replace("STATE", state))
        assert pair.exported.play(state, "--check") == {"box": 1}
        assert pair.exported.play(state) == {"box": 1}
        assert down() == servers
        assert pair.exported.play(state) == {"box": 0}


def test_a_change_that_the_host_makes_itself(pair: Pair) -> None:
    """What ansible-pull does when it has the project: `ansible-playbook -c local`, for one host. The keys
    come by a variable."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the box's Python can't use the packages of this one")
    pair.write(context=2048)
    for project in (pair.ours, pair.theirs):  # keys that a host has already would not be asked for
        (project.folder / "secrets/keys.yaml").write_text(f"bob: {KEY[::-1]}\n")
    (pair.exported.folder / KEYS).unlink()
    pair.exported.export()
    pull = "rm -rf /root/fleet; mkdir /root/fleet; cd /root/fleet; tar x; PYTHONPATH=/mnt LC_ALL=C.UTF-8 "
    pull += "python3 -c 'from ansible.cli.playbook import main; main()' -c local -l box playbooks/apply.yaml"
    key = ["-i", str(pair.lab.key), "-o", f"UserKnownHostsFile={pair.lab.known_hosts}"]
    assert applied(pair) == ["applied"]
    path = "/etc/ogen/current/balancers/api/keys.conf"
    told = json.dumps({"ogen_secrets": {path: pair.lab.sh("ours", f"cat {path}")}})
    (pair.exported.folder / "secrets.json").write_text(told)
    packed = subprocess.run(
        ["tar", "-C", pair.exported.folder, "-c", "."], capture_output=True, check=True
    ).stdout
    for changed, more in ((0, ""), (1, " -e @secrets.json"), (0, " -e @secrets.json")):
        there = f"root@{pair.lab.address('theirs')}"
        done = subprocess.run(
            ["ssh", *key, there, pull + more], input=packed, capture_output=True, check=False
        )
        said = (done.stdout + done.stderr).decode()
        if not more:  # a control: without the keys it can't be done, and it says what to do
            assert "set the variable ogen_secrets" in said, said
            assert "failed=1" in said
            continue
        assert f"changed={changed} " in said, said
        assert "unreachable=0    failed=0" in said, said
    pair.same("one change, made by the host itself")


def test_rollback(pair: Pair) -> None:
    pair.ours.ogen("rollback", "--yes")
    assert pair.exported.play("rollback", "--check") == {"box": 1}
    assert pair.exported.play("rollback") == {"box": 1}
    pair.same("rollback")


def test_retire(pair: Pair) -> None:
    leaver = ("-e", "ogen_retire=box")
    assert pair.exported.play("retire", *leaver, "--check") == {"box": 1}
    assert pair.exported.play("retire", *leaver) == {"box": 1}
    pair.ours.write(LEAVING.replace("ADDRESS", pair.lab.address("ours")))
    pair.ours.ogen("retire", "box", "--yes")
    pair.same("retire")
    assert pair.exported.play("retire", *leaver) == {"box": 0}


PLANTED = {
    "touch /usr/local/planted": "files /usr/local/planted",
    "chmod 600 /etc/logrotate.conf": "files /etc/logrotate.conf",
    "chown ollama /etc/issue.net": "files /etc/issue.net",
    "echo '#' >>/etc/debconf.conf": "files /etc/debconf.conf",
    "ln -sfn /usr/share/zoneinfo/Etc/GMT /etc/localtime": "files /etc/localtime",
    "systemctl -q enable nginx": "enabled nginx.service",
    "systemctl start nginx": "active nginx.service",
    "dpkg --purge --force-all python3-apt >/dev/null 2>&1": "packages python3-apt",
}


def test_a_planted_difference_is_found(pair: Pair) -> None:
    before = parity.read(pair.lab, "theirs")
    for script, expected in PLANTED.items():
        pair.lab.sh("theirs", script)
        after = parity.read(pair.lab, "theirs")
        lines = list(parity.differences(before, after))
        assert any(line.startswith(expected) for line in lines), (script, lines[:5])
        before = after
