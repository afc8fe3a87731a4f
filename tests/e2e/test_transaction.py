"""The transaction on a real box: what an apply does, and what is refused. Faults: test_faults.py."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cluster import ask, processes, snapshot
from lab import Lab, lab

from ogen import push
from ogen.errors import RemoteError, RolledBack
from ogen.inventory import load
from ogen.inventory.model import Host, Secret
from ogen.plan import plan
from ogen.release.model import File
from ogen.render import render

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(600)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: key}}
ollama: {{version: 0.32.15}}
models:
  chat: {{from: llama3.1:8b-instruct-q4_K_M, context: {context}, replicas: fill, aliases: ["llama3.1:8b"]}}
hosts:
  solo: {{address: {address}, gpus: [{{model: RTX 3090, count: 2}}]}}
balancers:
  api: {{hosts: [solo], listen: 8080}}
"""
BARE = """
apt-get -qq update
apt-get -qq -y install nginx libnginx-mod-http-js libnginx-mod-http-lua lua-cjson >/dev/null
systemctl -q disable --now nginx
useradd --system --create-home --home-dir /usr/share/ollama --shell /bin/false ollama
install -d -o ollama -g ollama /var/lib/ollama /var/lib/ollama/models /var/lib/ollama/models/blobs
"""
LAB = os.environ.get("TESTBED_LAB", "tx")
INSTANCES = ("ogen-ollama-gpu0.service", "ogen-ollama-gpu1.service")


@dataclass
class Box:
    """One box with two cards that is its own balancer."""

    lab: Lab
    folder: Path
    name: str = "solo"

    def sh(self, script: str, check: bool = True) -> str:
        return self.lab.sh(self.name, script, check=check)

    def target(
        self, context: int = 8192, change: Callable[[File], File] | None = None, text: str = INVENTORY
    ) -> push.Target:
        path = self.folder / "inventory.yaml"
        path.write_text(text.format(address=self.lab.address(self.name), context=context))
        made = plan(load(path))
        (release,) = render(made)
        if change:
            release = replace(release, files=tuple(change(f) for f in release.files))
        return push.targets(made, [release])[0]

    @property
    def options(self) -> push.Options:
        keyring = push.Keyring(str(self.folder), (self.lab.known_hosts,), reveal=lambda secret: "ops")
        return push.Options(keyring, who="test", settle=1.0, answer=15.0, load=30.0, reload=6.0)

    def apply(self, target: push.Target, on_event: push.OnEvent = push.ignore) -> push.HostResult:
        return push.apply([target], self.options, on_event).results[0]

    def applied(self, context: int = 8192) -> push.Target:
        """Brings the box to a good release."""
        target = self.target(context)
        result = self.apply(target)
        assert result.status in ("applied", "unchanged"), (
            f"{result.error} {result.error and result.error.log}"
        )
        return target

    @property
    def current(self) -> str:
        return self.sh("readlink /etc/ogen/current").strip()

    def pids(self) -> dict[str, str]:
        return dict(line.split() for line in processes(self.lab, self.name).splitlines())

    def serves(self) -> None:
        _, answer = ask(f"http://{self.lab.address(self.name)}:8080", "chat")
        assert answer["done"]

    def context(self, port: int = 11434) -> int:
        found = json.loads(self.sh(f"curl -s http://127.0.0.1:{port}/api/ps"))["models"]
        return int(found[0]["context_length"])

    def outside(self) -> str:
        """Everything that an apply may touch, without /etc/ogen itself."""
        lines = snapshot(self.lab, self.name).splitlines()
        return "\n".join(line for line in lines if not line.startswith("/etc/ogen"))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with lab(LAB) as made:
        made.up("solo", gpus="24576,24576", ollama=True)
        made.sh("solo", BARE, timeout=300)
        folder = tmp_path_factory.mktemp("tx")
        (folder / "key").write_bytes(made.key.read_bytes())
        (folder / "key").chmod(0o600)
        yield Box(made, folder)


def edit(ending: str, old: str, new: str) -> Callable[[File], File]:
    """Changes the text of the files whose path ends so."""

    def change(file: File) -> File:
        if not file.path.endswith(ending):
            return file
        text = file.content.decode()
        assert re.search(old, text, re.MULTILINE), f"{old!r} is not in {file.path}"
        return replace(file, content=re.sub(old, new, text, flags=re.MULTILINE).encode())

    return change


# --------------------------------------------------------------------------------- the good way
def test_first_apply_serves(box: Box) -> None:
    result = box.apply(box.target())
    assert result.status == "applied", f"{result.error} {result.error and result.error.log}"
    box.serves()
    assert box.context() == 8192
    assert set(box.pids()) >= {*INSTANCES, "ogen-balancer-api.service"}


def test_second_apply_writes_and_restarts_nothing(box: Box) -> None:
    target = box.applied()
    before, pids = snapshot(box.lab, "solo"), box.pids()
    result = box.apply(target)
    assert result.status == "unchanged"
    assert snapshot(box.lab, "solo") == before
    assert box.pids() == pids


def test_changed_model_restarts_instances_only_and_rolls_back(box: Box) -> None:
    box.applied(8192)
    before, pids = box.current, box.pids()
    result = box.apply(box.target(16384))
    assert result.status == "applied", result.error
    now = box.pids()
    assert all(now[u] != pids[u] for u in INSTANCES)
    assert {u: p for u, p in now.items() if u not in INSTANCES} == {
        u: p for u, p in pids.items() if u not in INSTANCES
    }
    assert box.context() == 16384
    (back,) = push.rollback([box.target().host], None, box.options).results
    assert back.status == "applied", back.error
    assert box.current == before
    assert box.context() == 8192
    box.serves()
    entries = push.history([box.target().host], box.options)["solo"]
    assert not isinstance(entries, Exception)
    assert [e["status"] for e in entries][-2:] == ["applied", "applied"]


def test_a_killed_instance_is_started_by_the_next_apply(box: Box) -> None:
    target = box.applied()
    box.sh("systemctl stop ogen-ollama-gpu1")
    result = box.apply(target)
    assert result.status == "applied"
    assert result.restarted == ("ogen-ollama-gpu1.service",)
    box.serves()


def test_an_edit_on_the_host_is_seen_and_repaired_and_kept(box: Box) -> None:
    target = box.applied()
    box.sh("echo '# by hand' >>/etc/ogen/current/models/chat.Modelfile")
    found = push.compare([target], box.options)["solo"]
    assert not isinstance(found, Exception)
    assert found.edited == ("/etc/ogen/current/models/chat.Modelfile",)
    assert not found.unchanged
    result = box.apply(target)
    assert result.status == "applied"
    assert result.restarted == ()
    assert "by hand" not in box.sh("cat /etc/ogen/current/models/chat.Modelfile")
    assert "by hand" in box.sh("cat /etc/ogen/previous/models/chat.Modelfile")


# ------------------------------------------------------------------------------ refused at stage
@pytest.mark.parametrize(
    ("change", "word"),
    [
        (edit("nginx.conf", r"^http \{", "http {\n    no_such_directive on;"), "no_such_directive"),
        (edit("gpu0.service", r"^TimeoutStopSec=.*", "TimeoutStopSec=soon"), "soon"),
        (edit("preload.py", r"^import json", "import json ]"), "preload.py"),
    ],
)
def test_a_release_that_a_checker_refuses(box: Box, change: Callable[[File], File], word: str) -> None:
    box.applied()
    before, pids, outside = box.current, box.pids(), box.outside()
    result = box.apply(box.target(8192, change))
    assert isinstance(result.error, RolledBack)
    assert word in str(result.error)
    assert push.Outcome((result,)).exit_code() == 6
    assert (box.current, box.pids()) == (before, pids)
    assert box.outside() == outside
    assert not box.sh("ls -A /etc/ogen/releases | grep ^.new || true")
    box.serves()


def test_an_unknown_model_is_refused_and_nothing_changes(box: Box) -> None:
    target = box.applied()
    before, pids = box.current, box.pids()
    missing = replace(
        target.release.models[0],
        name="ogen/chat:0000000000000000",
        source="missing:8b",
        request={"from": "missing:8b"},
    )
    views = tuple(replace(v, model=missing.name) for v in target.release.views)
    bad = replace(target, release=replace(target.release, models=(missing,), views=views))
    result = box.apply(bad)
    assert isinstance(result.error, RemoteError)
    assert "missing:8b" in str(result.error)
    assert (box.current, box.pids()) == (before, pids)
    assert box.sh("systemctl is-active ogen-librarian-stage", check=False).strip() == "inactive"


# ------------------------------------------------------------------------------------ rolled back
def test_a_first_apply_that_fails_leaves_the_box_as_it_was(box: Box) -> None:
    """No release before: links go, and a stock server that was held off serves again."""
    script = (
        "systemctl stop 'ogen-*' ogen.target; rm -rf /etc/ogen; "
        "find /etc/systemd/system /etc/logrotate.d -name '*ogen*' -delete; systemctl daemon-reload"
    )
    box.sh(script)
    stock = (
        "[Service]\nExecStart=/usr/local/bin/ollama serve\nUser=ollama\nEnvironment=HOME=/usr/share/ollama\n"
    )
    box.lab.write("solo", "/etc/systemd/system/ollama.service", stock)
    box.sh("systemctl daemon-reload; systemctl start ollama")
    bad = box.target(8192, edit("gpu0.service", r"^ExecStart=.*", "ExecStart=/bin/false"))
    before = box.outside().replace("ogen-recover", "")
    result = box.apply(bad)
    assert isinstance(result.error, RolledBack), result.error
    assert box.sh("systemctl is-active ollama").strip() == "active"
    assert box.sh("ls /etc/ogen/current || true", check=False).strip() == ""
    names = {line.split()[0] for line in box.outside().splitlines()}
    left = names - {line.split()[0] for line in before.splitlines()}
    assert all("ogen-recover" in n or "basic.target.wants" in n or "/var/lib/ollama" in n for n in left), left
    good = box.apply(box.target())
    assert good.status == "applied", good.error
    assert box.sh("systemctl is-active ollama", check=False).strip() == "inactive"
    box.serves()


# ------------------------------------------------------------------------------- further kinds of parts
GGUF = """\
version: 1
ssh: {{user: admin, become: true, key: key}}
ollama: {{version: 0.32.15}}
models:
  own: {{from: {{Q4_K_M: ./own.gguf}}, card: llama3.1-8b, context: 4096, replicas: fill}}
hosts:
  solo: {{address: {address}, gpus: [{{model: RTX 3090, count: 2}}]}}
"""
SHARED = INVENTORY + "  side: {{hosts: [solo], listen: 8088, routing: single, pool: chat, into: conf.d}}\n"


def test_a_model_from_a_file_of_the_control_machine(box: Box) -> None:
    box.applied()
    (box.folder / "own.gguf").write_bytes(b"GGUF" + os.urandom(9 * 1024 * 1024))
    target = box.target(text=GGUF)
    assert list(target.uploads.values()) == [str(box.folder / "own.gguf")]
    told: list[push.Event] = []
    result = box.apply(target, told.append)
    assert result.status == "applied", result.error
    assert any(e.phase == "models" and e.percent == 100.0 for e in told)
    running = json.loads(box.sh("curl -s http://127.0.0.1:11435/api/ps"))["models"]
    assert [m["name"] for m in running] == ["own:latest"]
    assert box.sh("systemctl is-active ogen-balancer-api", check=False).strip() in ("inactive", "unknown")
    assert box.apply(box.target(text=GGUF)).status == "unchanged"
    assert box.apply(box.target()).status == "applied"
    box.serves()


def test_a_file_within_the_machines_own_nginx(box: Box) -> None:
    box.applied()
    box.sh("rm -f /etc/nginx/sites-enabled/default; systemctl start nginx")
    result = box.apply(box.target(text=SHARED))
    assert result.status == "applied", f"{result.error} {result.error and result.error.log}"
    assert ask(f"http://{box.lab.address('solo')}:8088", "chat")[1]["done"]
    assert box.apply(box.target(text=SHARED)).status == "unchanged"
    pid = box.sh("systemctl show -p MainPID --value nginx")
    bad = box.target(
        text=SHARED, change=edit("conf.d/ogen-side.conf", r"listen .*8088;", "listen 8088 nonsense;")
    )
    refused = box.apply(bad)
    assert isinstance(refused.error, RolledBack)
    assert "nonsense" in str(refused.error)
    assert ask(f"http://{box.lab.address('solo')}:8088", "chat")[1]["done"]
    assert box.apply(box.target()).status == "applied"
    assert box.sh("ls /etc/nginx/conf.d") == ""
    assert box.sh("systemctl show -p MainPID --value nginx") == pid
    assert (
        box.sh("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8088/", check=False).strip() == "000"
    )
    box.sh("systemctl stop nginx")


# ------------------------------------------------------------------------------------- becoming root
def as_user(box: Box, user: str, secret: bool = False, **more: object) -> Host:
    host = box.target().host
    word = Secret("env", "PASSWORD") if secret else None
    return replace(host, ssh=replace(host.ssh, user=user, become_password=word), **more)  # type: ignore[arg-type]


def test_root_with_a_password(box: Box) -> None:
    facts = push.hello([as_user(box, "ops", secret=True)], box.options)["solo"]
    assert not isinstance(facts, Exception)
    assert facts["uid"] == 0
    assert [g["index"] for g in facts["gpus"]] == [0, 1]
    assert facts["ollama"] == "0.32.15"
    assert "ngx_http_js_module.so" in facts["nginx"]["modules"]


def test_the_systems_own_client(box: Box) -> None:
    facts = push.hello([as_user(box, "admin", transport="openssh")], box.options)["solo"]
    assert not isinstance(facts, Exception), facts
    assert facts["uid"] == 0
