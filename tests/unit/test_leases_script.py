"""templates/leases.py, which keeps nginx away from leased servers."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

CONF = """\
upstream pool_chat {
    zone pool_chat 64k;
    least_conn;
    server 192.0.2.11:11434 max_fails=2 fail_timeout=10s;
    server [2001:db8::1]:11434 weight=3 max_fails=2 fail_timeout=10s;
    keepalive 32;
}
upstream pool_coder {
    server 192.0.2.11:11434 max_fails=2 fail_timeout=10s;
    server 192.0.2.11:114 max_fails=2;
}
server {
    listen 8080;
    server_name _;
    location = /down { return 200 "none\\n"; }
}
"""


@pytest.fixture
def script(tmp_path: Path) -> ModuleType:
    """The script, with its folders under tmp_path."""
    path = Path(__file__).parents[2] / "templates" / "leases.py"
    spec = importlib.util.spec_from_file_location("leases_script", path)
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    run = tmp_path / "run"
    (run / "ogen" / "leases").mkdir(parents=True)
    found.RELEASE, found.RUN = str(tmp_path / "release"), str(run)  # type: ignore[attr-defined]
    found.KEYS = str(tmp_path / "keys")  # type: ignore[attr-defined]
    found.LEASES, found.STATE = str(run / "ogen/leases"), str(run / "ogen/leases.json")  # type: ignore[attr-defined]
    return found


def test_every_line_of_a_server_is_marked_and_no_other(script: ModuleType) -> None:
    text = script.marked(CONF, {"192.0.2.11:11434", "192.0.2.99:1"})
    changed = [line for old, line in zip(CONF.splitlines(), text.splitlines(), strict=True) if old != line]
    assert changed == [
        "    server 192.0.2.11:11434 max_fails=2 fail_timeout=10s down;",
        "    server 192.0.2.11:11434 max_fails=2 fail_timeout=10s down;",
        '    location = /down { return 200 "192.0.2.11:11434\\n"; }',
    ]
    assert script.marked(CONF, set()) == CONF
    assert "server [2001:db8::1]:11434 weight=3 max_fails=2 fail_timeout=10s down;" in script.marked(
        CONF, {"[2001:db8::1]:11434"}
    )


def test_a_release_is_adopted_with_what_is_down(script: ModuleType, tmp_path: Path) -> None:
    release, run = tmp_path / "release/api", tmp_path / "run/ogen-balancer-api"
    release.mkdir(parents=True)
    run.mkdir()
    (release / "nginx.conf").write_text(CONF)
    (release / "keys.conf").write_text("secret")
    (release / "keys.conf").chmod(0o600)
    script.write(script.STATE, json.dumps({"down": ["192.0.2.11:11434"]}).encode())
    script.adopt("api")
    assert (run / "release.conf").read_text() == CONF
    assert (run / "nginx.conf").read_text() == script.marked(CONF, {"192.0.2.11:11434"})
    assert (run / "keys.conf").stat().st_mode & 0o777 == 0o600
    assert not list(run.glob("*.new"))
    assert (run / "keys.conf").read_text() == "secret"
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/api.conf").write_text("of a later apply")
    (tmp_path / "keys/api.conf").chmod(0o600)
    script.adopt("api")
    assert (run / "keys.conf").read_text() == "of a later apply"
    assert (run / "keys.conf").stat().st_mode & 0o777 == 0o600


class Instance(BaseHTTPRequestHandler):
    tags: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        body = json.dumps({"models": [{"name": name} for name in self.tags]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def instance() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Instance) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        Instance.tags = []
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_what_comes_back_must_serve_its_models(
    script: ModuleType, instance: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a lease, ended, answering without the model (something else at its port), serving again."""
    (tmp_path / "release/api").mkdir(parents=True)
    folder = tmp_path / "run/ogen-balancer-api"
    folder.mkdir()
    (folder / "members.json").write_text(json.dumps({"unit": "x.service", "servers": {instance: ["chat"]}}))
    monkeypatch.setattr(script, "PACE", 0.0)
    watch = script.Watch()
    watch.step()
    assert watch.down == set()
    lease = tmp_path / "run/ogen/leases/a.json"
    lease.write_text(json.dumps({"servers": [instance], "until": time.monotonic() + 60}))
    watch.step()
    assert watch.down == {instance}
    assert script.read(script.STATE)["taken"] == {"api": [instance]}
    lease.write_text(json.dumps({"servers": [instance], "until": time.monotonic() - 1}))
    watch.step()
    assert watch.down == {instance}, "it answers, but has no chat"
    assert not lease.exists()
    assert script.read(script.STATE)["returning"] == [instance]
    again = script.Watch()  # started anew, it goes on where it was
    Instance.tags = ["chat:latest"]
    again.step()
    again.step()
    assert again.down == set()


def test_a_balancer_that_was_taken_out_demands_nothing(
    script: ModuleType, instance: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder may stay behind: the models that it wanted would keep all others away for ever."""
    for name, models in (("api", ["chat"]), ("old", ["coder"])):
        folder = tmp_path / f"run/ogen-balancer-{name}"
        folder.mkdir()
        told = {"unit": f"{name}.service", "servers": {instance: models}}
        (folder / "members.json").write_text(json.dumps(told))
    (tmp_path / "release/api").mkdir(parents=True)
    Instance.tags = ["chat:latest"]
    monkeypatch.setattr(script, "PACE", 0.0)
    lease = tmp_path / "run/ogen/leases/a.json"
    lease.write_text(json.dumps({"servers": [instance], "until": time.monotonic() + 60}))
    pid = tmp_path / "run/ogen-balancer-old/nginx.pid"
    pid.write_text(str(os.getpid()))
    monkeypatch.setattr(script, "tell_nginx", lambda *_: True)
    watch = script.Watch()
    watch.step()
    lease.unlink()
    watch.step()
    assert watch.down == {instance}, "it still runs, and sends to the instance"
    pid.unlink()
    watch.step()
    watch.step()
    assert watch.down == set()
    left = sorted(path.name for path in (tmp_path / "run").glob("ogen-balancer-*"))
    assert left == ["ogen-balancer-api"], "what it left behind goes; nothing of those of the release"


def test_a_server_that_nobody_lists_any_more_is_forgotten(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "run/ogen/leases/a.json").write_text(
        json.dumps({"servers": ["192.0.2.1:1"], "until": time.monotonic() + 60})
    )
    watch = script.Watch()
    watch.step()
    assert watch.down == {"192.0.2.1:1"}
    (tmp_path / "run/ogen/leases/a.json").unlink()
    watch.step()
    assert watch.down == set()


def test_an_nginx_that_came_up_with_what_was_down_before_is_told_again(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was starting when the lease ended: it had read its file, and could not be asked yet."""
    (tmp_path / "release/api").mkdir(parents=True)
    folder = tmp_path / "run/ogen-balancer-api"
    folder.mkdir()
    (folder / "members.json").write_text(
        json.dumps({"unit": "x.service", "servers": {"192.0.2.11:11434": ["chat"]}})
    )
    (folder / "release.conf").write_text(CONF)
    said, told = ["192.0.2.11:11434"], []

    def hup(command: list[str], **_: object) -> None:
        told.append(command)
        said[0] = "none"

    monkeypatch.setattr(script, "PACE", 0.0)
    monkeypatch.setattr(script, "running", lambda name: False)
    monkeypatch.setattr(script, "answer", lambda name: said[0])
    monkeypatch.setattr(script.subprocess, "run", hup)
    watch = script.Watch()
    watch.step()
    assert watch.taken == {"api": set()}
    monkeypatch.setattr(script, "running", lambda name: True)
    monkeypatch.setattr(script, "CHECK", 0.0)
    watch.step()
    assert len(told) == 1
    assert watch.taken == {"api": set()}
    watch.step()
    assert len(told) == 1


def test_damaged_leases_are_none(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "run/ogen/leases/a.json").write_text("{")
    (tmp_path / "run/ogen/leases/b.json").write_text("[1]")
    assert script.leased(time.monotonic()) == set()
