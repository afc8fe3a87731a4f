"""`ogen export ansible`: the project under Ansible's own checkers, and its modules at work on a folder."""

from __future__ import annotations

import ast
import hashlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ogen import __version__
from ogen.cli.app import ogen
from ogen.inventory import load
from ogen.plan import plan
from ogen.push.bundle import bundle, sources
from ogen.render import render

BIN = Path(sys.executable).parent
GOLDEN = Path(__file__).parents[1] / "golden" / "ansible"
FLEET = "collections/ansible_collections/ogen/fleet"
INVENTORY = """\
version: 1
ssh: {user: ops, become: true, become_password: !env OGEN_TEST_BECOME}
ollama: {version: 0.32.15, source: {file: "dist/ollama-{version}.tar.zst"}}
models:
  chat: {from: "llama3.1:8b-instruct-q4_K_M", context: CONTEXT}
groups:
  boxes: {hosts: ["gpu[1:2]", gone], gpus: [{model: RTX 3090}]}
hosts:
  gpu1: {address: 192.0.2.11}
  gpu2: {address: 192.0.2.12}
  gone: {address: 192.0.2.13, state: out, reason: fan}
  edge: {address: 192.0.2.10}
balancers:
  api: {hosts: [edge], listen: 8080, keys: !file secrets/keys.yaml}
"""
KEY = "canary-0123456789abcdef"
KEYS = "files/hosts/edge/etc/ogen/current/balancers/api/keys.conf"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    top = tmp_path / "project"
    (top / "dist").mkdir(parents=True)
    (top / "secrets").mkdir()
    (top / "dist/ollama-0.32.15.tar.zst").write_bytes(b"an archive")
    (top / "secrets/keys.yaml").write_text(f"alice: {KEY}\n")
    write(top)
    return top


def write(top: Path, context: int = 8192) -> None:
    (top / "inventory.yaml").write_text(INVENTORY.replace("CONTEXT", str(context)))


def run(project: Path, *args: str) -> Result:
    words = ["export", "ansible", str(project / "inventory.yaml"), "-o", str(project / "out"), *args]
    return CliRunner().invoke(ogen, words)


def exported(project: Path, *args: str) -> Path:
    result = run(project, *args)
    assert result.exit_code == 0, result.output
    return project / "out"


def ansible(program: str, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(cwd.parent),
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
    }
    words = [BIN / program, *args]
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=240, check=False)


def names(top: Path) -> list[str]:
    return sorted(path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file())


# ---------------------------------------------------------------------------------- what is written
def test_the_project_is_as_agreed(project: Path) -> None:
    top = exported(project)
    agent = f"{FLEET}/plugins/module_utils/agent/"
    shown = "\n".join(name for name in names(top) if not name.startswith(agent)) + "\n"
    made = {"inventory.yaml": (top / "inventory.yaml").read_text(), "tree.txt": shown}
    if os.environ.get("OGEN_UPDATE_GOLDEN"):
        for name, text in made.items():
            (GOLDEN / name).write_text(text)
    assert made == {name: (GOLDEN / name).read_text() for name in made}


def test_the_collection_is_the_agent_that_ogen_sends(project: Path) -> None:
    top = exported(project) / FLEET
    for name, data in sources().items():
        if name.startswith("agent/"):
            assert (top / "plugins/module_utils" / name).read_bytes() == data
    assert f"version: {__version__}\n" in (top / "galaxy.yml").read_text()


def test_releases_are_those_of_ogen(project: Path) -> None:
    top = exported(project)
    keys = (project / "secrets/keys.yaml").read_text()
    for release in render(plan(load(project / "inventory.yaml")), secrets=lambda secret: keys):
        if release.host == "gone":
            continue
        folder = top / "files/hosts" / release.host
        told = json.loads((folder / "release.json").read_text())
        assert told["id"] == release.id
        assert told["manifest"] == release.manifest()
        for file in release.files:
            if not file.secret:
                assert hashlib.sha256(Path(f"{folder}{file.path}").read_bytes()).hexdigest() == file.sha256
    assert not (top / "files/hosts/gone").exists()


def test_archives_go_along_and_cost_no_room(project: Path) -> None:
    top = exported(project)
    (archive,) = (top / "files/archives").rglob("*.zst")
    assert archive.samefile(project / "dist/ollama-0.32.15.tar.zst")
    (project / "inventory.yaml").write_text(
        re.sub(r", source: .*}}", "}", INVENTORY.replace("CONTEXT", "8192"))
    )
    exported(project)
    assert not (top / "files/archives").exists()
    assert (project / "dist/ollama-0.32.15.tar.zst").read_bytes() == b"an archive"


def test_the_projects_own_playbooks_come_first(project: Path) -> None:
    own = "- name: Say so\n  hosts: all\n  tasks:\n    - ansible.builtin.shell: whoami | tee /tmp/whoami\n"
    (project / "playbooks").mkdir()
    (project / "playbooks/provision.yaml").write_text(own)
    assert (exported(project) / "playbooks/provision.yaml").read_text() == "---\n" + own


def test_files_of_others_stay(project: Path) -> None:
    (project / "out/playbooks").mkdir(parents=True)
    (project / "out/playbooks/apply.yaml").write_text("mine")
    result = run(project)
    assert result.exit_code == 1
    assert "was not written by ogen" in result.stderr
    assert names(project / "out") == ["playbooks/apply.yaml"]


def test_what_runs_on_hosts_is_plain_enough_for_their_python(project: Path) -> None:
    plugins = exported(project) / FLEET / "plugins"
    for path in [*(plugins / "modules").glob("*.py"), *(plugins / "module_utils").rglob("*.py")]:
        ast.parse(path.read_text(), feature_version=(3, 8))


# --------------------------------------------------------------------------------------- secrets
def holders(top: Path) -> list[str]:
    return [name for name in names(top) if KEY.encode() in (top / name).read_bytes()]


def test_no_key_is_written_unless_asked_for(project: Path) -> None:
    top = exported(project)
    digest = hashlib.sha256(KEY.encode()).hexdigest().encode()
    assert holders(top) == []
    assert not any(digest in (top / name).read_bytes() for name in names(top))
    result = run(project, "--with-secrets")
    assert (top / KEYS).stat().st_mode & 0o777 == 0o600
    assert f"warning: keys in plain text: {KEYS}" in result.stderr
    # a router knows keys by their sha256
    assert digest in (top / KEYS).read_bytes()
    assert KEY not in result.output


def test_encrypted_keys_stay_as_long_as_their_balancer(project: Path) -> None:
    top = exported(project, "--with-secrets")
    (top / KEYS).write_text("$ANSIBLE_VAULT;1.1;AES256\n")
    exported(project)
    assert (top / KEYS).read_text() == "$ANSIBLE_VAULT;1.1;AES256\n"
    text = (project / "inventory.yaml").read_text().replace(", keys: !file secrets/keys.yaml", "")
    (project / "inventory.yaml").write_text(text)
    exported(project)
    assert not (top / KEYS).exists()


# -------------------------------------------------------------------------- Ansible's own checkers
def test_ansible_takes_every_playbook(project: Path) -> None:
    top = exported(project)
    playbooks = [f"playbooks/{path.name}" for path in (top / "playbooks").iterdir()]
    done = ansible("ansible-playbook", "--syntax-check", *playbooks, cwd=top)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    shown = "msg='{{ ogen_release }} {{ ogen_ollama_archives[0].file }}'"
    done = ansible("ansible", "gpu1", "-m", "ansible.builtin.debug", "-a", shown, cwd=top)
    found = re.findall(rf"{top}/\S+[^\s\"]", done.stdout)
    assert found[0] == f"{top}/files/hosts/gpu1", done.stdout
    assert Path(found[1]).read_bytes() == b"an archive"


def test_the_linter_finds_nothing_and_would(project: Path) -> None:
    top = exported(project)
    lint = partial(ansible, "ansible-lint", "--offline", "--profile", "production", cwd=top)
    done = lint()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failure(s), 0 warning(s)" in done.stderr
    bad = "---\n- name: Bad\n  hosts: all\n  tasks:\n    - shell: whoami\n"
    (top / "playbooks/bad.yaml").write_text(bad)
    assert "no-changed-when" in lint("playbooks/bad.yaml").stdout


def test_modules_are_documented(project: Path) -> None:
    top = exported(project)
    modules = ("drain", "models", "release")
    done = ansible("ansible-doc", "--json", *[f"ogen.fleet.{one}" for one in modules], cwd=top)
    assert done.returncode == 0, done.stderr
    for name in modules:
        found = json.loads(done.stdout)[f"ogen.fleet.{name}"]
        assert found["examples"]
        assert found["return"]
        text = (top / FLEET / f"plugins/modules/{name}.py").read_text().partition("argument_spec=")[2]
        assert sorted(found["doc"]["options"]) == sorted(re.findall(r'"(\w+)": \{"type"', text))


# ----------------------------------------------------------------------------------- at work
@pytest.fixture
def module(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """`module(step, …)`: ogen.fleet.release on a folder that stands for a host."""
    top = exported(project, "--with-secrets")
    package = types.ModuleType("ansible_collections")
    package.__path__ = [str(top / "collections/ansible_collections")]
    before = set(sys.modules)
    monkeypatch.setitem(sys.modules, "ansible_collections", package)
    release = importlib.import_module("ansible_collections.ogen.fleet.plugins.modules.release")
    sending = importlib.import_module("ansible_collections.ogen.fleet.plugins.plugin_utils.sending")
    monkeypatch.setattr(release, "Peer", partial(release.Peer, root=str(tmp_path / "host")))
    (tmp_path / "host/etc/systemd/system").mkdir(parents=True)

    def work(step: str, host: str = "edge", state: str = "present", **more: Any) -> dict[str, Any]:
        folder = sending.Folder(str(project / f"out/files/hosts/{host}"), None, {})
        told = {"step": step, "state": state, "id": None, "who": "tester", "manifest": folder.manifest}
        if step == "change":
            found = work("look", host, state)
            contents = {
                one["sha256"]: Path(f"{folder.path}{path}").read_bytes() for path, one in folder.files.items()
            }
            agent = sending.agent()
            told.update(base=found.get("report", {}).get("current"), agent=hashlib.sha256(agent).hexdigest())
            told["archive"] = packed(tmp_path / "sent.tar.gz", {"agent": agent, **contents})
        done: dict[str, Any] = release.work({**told, "diff": True, **more}, False)
        return done

    yield work
    for name in set(sys.modules) - before:
        if name.startswith("ansible_collections"):
            del sys.modules[name]


def packed(path: Path, contents: dict[str, bytes]) -> str:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def test_a_release_comes_into_force_and_then_nothing_is_left_to_do(
    project: Path, tmp_path: Path, module: Callable[..., Any]
) -> None:
    seen = module("look")
    assert (seen["changed"], seen["agents"]) == (True, [])
    done = module("change")
    wanted = json.loads((project / "out/files/hosts/edge/release.json").read_text())["id"]
    assert (done["changed"], done["release"], done["before"]) == (True, wanted, "")
    here = tmp_path / "host/etc/ogen/current"
    assert (
        f'"{KEY}"' in (here / "balancers/api/keys.conf").read_text()
        or (here / "balancers/api/keys.conf").exists()
    )
    seen = module("look")
    assert (seen["changed"], seen["agents"]) == (False, [bundle().sha256])
    (here / "balancers/api/members.json").write_text("somebody's")
    seen = module("look")
    assert seen["changed"]
    assert [one["path"] for one in seen["report"]["files"] if one["state"] != "same"] == [
        "/etc/ogen/current/balancers/api/members.json"
    ]
    assert seen["texts"] == [["/etc/ogen/current/balancers/api/members.json", "somebody's"]]


def test_back_and_away(project: Path, tmp_path: Path, module: Callable[..., Any]) -> None:
    first = module("change", "gpu1")["release"]
    write(project, context=4096)
    exported(project)
    second = module("change", "gpu1")
    assert second["before"] == first != second["release"]
    assert module("look", "gpu1", "previous") == {
        "agents": [bundle().sha256],
        "changed": True,
        "release": first,
        "before": second["release"],
    }
    assert module("change", "gpu1", "previous", to=first)["release"] == first
    assert not module("look", "gpu1", "previous", id=first)["changed"]
    nothing = {**{key: [] for key in ("files", "units", "models", "views", "instances", "balancers")}}
    told = {"manifest": {"format": 1, "host": "gpu1", **nothing, "librarian": {}}}
    assert module("look", "gpu1", "absent", **told)["changed"]
    assert module("change", "gpu1", "absent", **told)["release"] == ""
    assert not (tmp_path / "host/etc/ogen").exists()
    assert not module("look", "gpu1", "absent", **told)["changed"]


def test_files_come_to_the_agent_in_parts(tmp_path: Path, module: Callable[..., Any]) -> None:
    utils = "ansible_collections.ogen.fleet.plugins.module_utils"
    peer, parts = (importlib.import_module(f"{utils}.{one}") for one in ("peer", "agent.parts"))
    data = os.urandom(peer.PART + 17)
    (tmp_path / "blob").write_bytes(data)
    one = peer.Peer({"files": {"sha256:00": str(tmp_path / "blob")}}, str(tmp_path / "host"))
    size, content = parts.fetch(one.session, "sha256:00")
    came = list(content)
    assert (size, [len(part) for part in came], b"".join(came)) == (len(data), [peer.PART, 17], data)


def test_a_file_that_was_edited_in_the_export_is_refused(project: Path, module: Callable[..., Any]) -> None:
    sending = sys.modules["ansible_collections.ogen.fleet.plugins.plugin_utils.sending"]
    place = "/etc/ogen/current/balancers/api/members.json"
    Path(f"{project}/out/files/hosts/edge{place}").write_text("edited")
    folder = sending.Folder(str(project / "out/files/hosts/edge"), None, {})
    with pytest.raises(Exception, match="is not what the release says"):
        folder.content(place)
    (project / "out" / KEYS).unlink()
    with pytest.raises(Exception, match="set the variable ogen_secrets"):
        folder.content("/etc/ogen/current/balancers/api/keys.conf")
