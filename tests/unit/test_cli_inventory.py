"""`ogen inventory`: Ansible's dynamic inventory, read by the real ansible-core."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from realsshd import ADDRESS, real_farm

from ogen import shipped
from ogen.cli import init
from ogen.cli.app import ogen
from ogen.playbook.modules import FLEET

BIN = Path(sys.executable).parent
DOCUMENT = Path(__file__).parents[2] / "docs" / "playbooks.md"
INVENTORY = """\
version: 1
ssh: {user: ops, become: true, become_password: !env OGEN_TEST_BECOME}
models:
  chat: {from: "llama3.1:8b-instruct-q4_K_M", context: 8192}
groups:
  boxes: {hosts: ["gpu[1:2]", gone], gpus: [{model: RTX 3090}]}
  rack-1: {hosts: [gpu1, edge], ssh: {port: 2222, proxy_jump: "ops@bastion:2200", connect_timeout: 30s}}
hosts:
  gpu1: {address: 192.0.2.11, ssh: {key: keys/id, password: !file secrets/password}}
  gpu2:
    address: "2001:db8::12"
    python: /opt/python/bin/python3
    ollama: {models_dir: /srv/models, user: llm}
  gone: {address: 192.0.2.13, state: out, reason: fan}
  image: {address: 192.0.2.14, root: machine}
  edge: {address: edge.example.org}
  here: {address: 127.0.0.1, connection: local, ssh: {become: false}}
balancers:
  api: {hosts: [edge], listen: 8080, gate: {}, keys: !file secrets/keys.yaml}
"""


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(ogen, ["inventory", *map(str, args)])


def ansible(program: str, *args: str | Path, cwd: Path, **more: str) -> str:
    """What a program of ansible-core prints; it finds `ogen` through PATH, as a person's would."""
    env = more | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(cwd),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
    }
    done = subprocess.run(
        [BIN / program, *map(str, args)], cwd=cwd, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]: Unable to parse" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """As `ogen init` makes it, with an inventory of more hosts."""
    assert CliRunner().invoke(ogen, ["init", str(tmp_path)]).exit_code == 0
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/password").write_text("hunter2\n")
    return tmp_path


def listed(project: Path) -> dict[str, Any]:
    result = run(project / "inventory.yaml", "--list")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# ------------------------------------------------------------------------------------- by itself
def test_groups_hold_the_hosts_that_ansible_may_work_on(project: Path) -> None:
    found = listed(project)
    assert found.pop("_meta")["hostvars"].keys() == {"gpu1", "gpu2", "edge", "here"}
    assert found == {
        "all": {"hosts": ["gpu1", "gpu2", "edge", "here"]},
        "boxes": {"hosts": ["gpu1", "gpu2"]},
        "rack-1": {"hosts": ["gpu1", "edge"]},
    }


def test_how_hosts_are_reached(project: Path) -> None:
    hostvars = listed(project)["_meta"]["hostvars"]
    reached = {
        host: {key: value for key, value in values.items() if key.startswith("ansible_")}
        for host, values in hostvars.items()
    }
    common = {"ansible_user": "ops", "ansible_become": True}
    rack = {
        "ansible_port": 2222,
        "ansible_ssh_common_args": "-o ProxyJump=ops@bastion:2200",
        "ansible_ssh_timeout": 30,
    }
    key = {"ansible_ssh_private_key_file": str(project / "keys/id")}
    python = {"ansible_python_interpreter": "/opt/python/bin/python3"}
    assert reached == {
        "gpu1": {"ansible_host": "192.0.2.11", **common, **rack, **key},
        "gpu2": {"ansible_host": "2001:db8::12", **common, **python},
        "edge": {"ansible_host": "edge.example.org", **common, **rack},
        "here": {"ansible_host": "127.0.0.1", "ansible_user": "ops", "ansible_connection": "local"},
    }


def test_variables_are_those_that_playbooks_are_told_to_know(project: Path) -> None:
    hostvars = listed(project)["_meta"]["hostvars"]
    table = DOCUMENT.read_text().split("## Names that are known")[1].split("`ansible_facts`")[0]
    documented = set(re.findall(r"`(ogen_[a-z_]+)`", "".join(re.findall(r"^\| (.*?) \|", table, re.M))))
    for values in hostvars.values():
        assert {key for key in values if key.startswith("ogen_")} == documented
    assert (hostvars["gpu2"]["ogen_models_dir"], hostvars["gpu2"]["ogen_user"]) == ("/srv/models", "llm")
    flags = ("ogen_node", "ogen_gpu", "ogen_balancer", "ogen_gate")
    assert [hostvars["gpu1"][one] for one in flags] == [True, True, False, False]
    assert [hostvars["edge"][one] for one in flags] == [False, False, True, True]


def test_no_secret_is_read_or_shown(project: Path) -> None:
    text = run(project / "inventory.yaml", "--list").output
    for word in ("hunter2", "password", "OGEN_TEST_BECOME", "secrets", "keys.yaml"):
        assert word not in text


def test_one_host_is_what_the_list_has_of_it(project: Path) -> None:
    result = run(project / "inventory.yaml", "--host", "gpu1")
    assert json.loads(result.stdout) == listed(project)["_meta"]["hostvars"]["gpu1"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--host", "gpu9"), "there are gpu1, gpu2, edge, here"),
        (("--host", "gone"), "no host `gone` for Ansible"),
        ((), "say --list, or --host NAME"),
        (("--list", "--host", "gpu1"), "say --list, or --host NAME"),
    ],
)
def test_what_is_asked_for_must_be_there(project: Path, args: tuple[str, ...], said: str) -> None:
    result = run(project / "inventory.yaml", *args)
    assert (result.exit_code, said in result.stderr) == (1, True), result.output


def test_text_of_the_inventory_is_no_template_of_ansibles(project: Path) -> None:
    path = project / "inventory.yaml"
    path.write_text(INVENTORY.replace("keys/id", "\"{{ lookup('pipe', 'touch owned') }}\""))
    result = run(path, "--list")
    assert (result.exit_code, "gpu1" in result.stderr, "template" in result.stderr) == (1, True, True)
    assert result.stdout == ""


# --------------------------------------------------------------------------------- under Ansible
def test_ansible_reads_the_project_at_once(project: Path) -> None:
    found = json.loads(ansible("ansible-inventory", "-i", "inventory.sh", "--list", cwd=project))
    assert found["_meta"]["hostvars"] == listed(project)["_meta"]["hostvars"]
    assert set(found["all"]["children"]) == {"ungrouped", "boxes", "rack-1"}
    assert found["ungrouped"]["hosts"] == ["here"]
    assert found["boxes"]["hosts"] == ["gpu1", "gpu2"]


def test_from_another_folder_too(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    said = ansible("ansible-inventory", "-i", project / "inventory.sh", "--host", "gpu2", cwd=elsewhere)
    assert json.loads(said)["ansible_host"] == "2001:db8::12"


def test_a_module_runs_and_knows_what_ogen_knows(project: Path) -> None:
    said = ansible("ansible", "-i", "inventory.sh", "here", "-m", "ansible.builtin.ping", cwd=project)
    assert '"ping": "pong"' in said
    msg = "{{ inventory_hostname }} {{ group_names | join(',') }} {{ ogen_node }} {{ ogen_gate }}"
    debug = ("-m", "ansible.builtin.debug", "-a", json.dumps({"msg": msg}))
    said = ansible("ansible", "-i", "inventory.sh", "all", *debug, cwd=project)
    assert set(re.findall(r'"msg": "(.*)"', said)) == {
        "gpu1 boxes,rack-1 True False",
        "gpu2 boxes True False",
        "edge rack-1 False True",
        "here ungrouped False False",
    }


@pytest.mark.parametrize("name", sorted(path.name for path in shipped.folder("playbooks").glob("*.yaml")))
def test_the_shipped_playbooks_are_for_these_hosts(project: Path, name: str) -> None:
    playbook = shipped.folder("playbooks") / name
    modules = project / "ansible_collections/ogen/fleet/plugins/modules"
    modules.mkdir(parents=True)
    for module in FLEET:  # to this check it is enough that they are there
        (modules / f"{module.rpartition('.')[2]}.py").touch()
    play = ("ansible-playbook", "-i", "inventory.sh", playbook)
    ansible(*play, "--syntax-check", cwd=project, ANSIBLE_COLLECTIONS_PATH=str(project))
    said = ansible(*play, "--list-hosts", cwd=project, ANSIBLE_COLLECTIONS_PATH=str(project))
    assert set(re.findall(r"^      (\S+)$", said, re.M)) == {"gpu1", "gpu2", "edge", "here"}, said


def test_ansible_goes_the_way_that_the_inventory_says(tmp_path: Path) -> None:
    """A real sshd behind a jump: port, user, key and jump are the inventory's, known hosts are OpenSSH's."""
    with real_farm(tmp_path / "farm") as farm:
        jump, server = farm.add("jump"), farm.add("gpu1")
        path = tmp_path / "inventory.yaml"
        path.write_text(f"""\
version: 1
hosts:
  gpu1:
    address: {ADDRESS}
    ssh: {{user: {farm.user}, port: {server.port}, key: farm/key, proxy_jump: bastion}}
""")
        script = tmp_path / "inventory.sh"
        script.write_bytes((Path(init.__file__).parent / "starter/inventory.sh").read_bytes())
        script.chmod(0o755)
        config = tmp_path / "ssh_config"
        bastion = f"Host bastion\n HostName {ADDRESS}\n Port {jump.port}\n IdentityFile {farm.key}\n"
        config.write_text(f"UserKnownHostsFile {farm.known_hosts}\n{bastion}")
        said = ansible(
            "ansible",
            *("-i", script, "all", "-m", "ansible.builtin.ping"),
            cwd=tmp_path,
            ANSIBLE_SSH_ARGS=f"-F {config}",
            ANSIBLE_REMOTE_TMP=str(tmp_path / "remote"),
        )
        assert "gpu1 | SUCCESS" in said
        assert server.logins >= 1
        assert jump.logins >= 1
