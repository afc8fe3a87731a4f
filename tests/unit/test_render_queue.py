"""A queue's files: fine for systemd, nginx and Redis; its secrets where they belong and nowhere else."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rendering import check_nginx, check_units, run, systemd_root, text_of

from ogen.catalog import libraries
from ogen.errors import RenderError, UsageError
from ogen.inventory import load
from ogen.inventory.model import Secret
from ogen.plan import plan
from ogen.push import libraries as sending
from ogen.release.model import Release
from ogen.render import render

SECRET = "correct-horse-battery-staple"
INVENTORY = """\
version: 1
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", parallel: 2, aliases: [gpt], replicas: fill}}
hosts:
  gpu1: {{address: {address}, gpus: [{{model: RTX 3090}}]}}
  edge: {{address: 192.0.2.10}}
balancers:
  api: {{hosts: [edge], keys: !env KEYS, {routing}}}
queues:
  jobs:
    redis: {redis}
    balancers: [api]
rollout: {{drain_timeout: 30s}}
"""
TLS = "{certificate: /etc/ssl/a.pem, key: /etc/ssl/private/a.key, ca: /etc/ssl/a.pem}"
OWN = f"{{host: edge, secret: !env S, tls: {TLS}}}"
ROUTINGS = {
    "njs": "listen: 8080",
    "gate": "gate: true",
    "plain": "routing: single, pool: chat",
    "inside": "routing: single, pool: chat, into: conf.d",
}


def reveal(secret: Secret) -> str:
    if secret.argument == "KEYS":
        return "alice: alice-0123456789abcdef"
    return "rediss://me:pass@192.0.2.9:6380/0" if secret.argument == "URL" else SECRET


def releases(
    folder: Path, redis: str = OWN, *, known: bool = True, routing: str = "njs", address: str = "192.0.2.11"
) -> dict[str, Release]:
    path = folder / "inventory.yaml"
    path.write_text(INVENTORY.format(redis=redis, routing=ROUTINGS[routing], address=address))
    made = render(plan(load(path)), secrets=reveal if known else None)
    return {release.host: release for release in made}


@pytest.mark.parametrize("routing", ROUTINGS)
def test_nginx_and_systemd_take_it(tmp_path: Path, need: Callable[[str], str], routing: str) -> None:
    need("systemd-analyze")
    root = systemd_root(tmp_path / "root")
    for release in releases(tmp_path, routing=routing).values():
        check_units(release, root)
        check_nginx(release, tmp_path, need("nginx"))


def test_exposure_is_small(tmp_path: Path, need: Callable[[str], str]) -> None:
    need("systemd-analyze")
    scores = {}
    for release in releases(tmp_path).values():
        for file in release.files:
            if "ogen-queue-" in file.path and file.path.endswith(".service"):
                unit = tmp_path / Path(file.path).name
                unit.write_bytes(file.content)
                _, output = run("systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit))
                found = re.search(r"exposure level for \S+: ([\d.]+)", output)
                assert found, output
                scores[unit.name] = float(found[1])
    assert len(scores) == 3
    assert max(scores.values()) <= 3.0, scores


def test_each_part_is_where_it_belongs_and_knows_what_it_must(tmp_path: Path) -> None:
    made = releases(tmp_path)
    units = {host: sorted(u.name for u in one.units if "queue" in u.name) for host, one in made.items()}
    assert units == {
        "edge": ["ogen-queue-front-jobs.service", "ogen-queue-redis-jobs.service"],
        "gpu1": ["ogen-queue-worker-jobs-gpu0.service"],
    }
    folder = "/etc/ogen/current/queues/jobs"
    worker = json.loads(text_of(made["gpu1"], f"{folder}/worker-gpu0.json"))
    assert worker["pools"] == [{"model": "chat", "slots": 2}]
    assert (worker["port"], worker["grace"]) == (11434, 30)
    assert worker["redis"]["host"] == "192.0.2.10"
    front = json.loads(text_of(made["edge"], f"{folder}/front.json"))
    assert front["names"] == {"chat": "chat", "chat:latest": "chat", "gpt": "chat", "gpt:latest": "chat"}
    unit = text_of(made["gpu1"], "/etc/systemd/system/ogen-queue-worker-jobs-gpu0.service")
    assert "BindsTo=ogen-ollama-gpu0.service" in unit
    assert "WantedBy=ogen.target ogen-ollama-gpu0.service" in unit
    assert "IPAddressAllow=192.0.2.10" in unit


def test_files_that_are_not_ogens_are_named_where_they_are_missing(tmp_path: Path) -> None:
    """By the agent, before an apply: systemd's word is "Failed to set up credentials: Protocol error"."""
    made = releases(tmp_path)
    asserted = {
        unit: re.findall(
            "AssertPathExists=(.*)", text_of(made[host], f"/etc/systemd/system/ogen-queue-{unit}.service")
        )
        for host, unit in (("edge", "redis-jobs"), ("edge", "front-jobs"), ("gpu1", "worker-jobs-gpu0"))
    }
    assert asserted == {
        "redis-jobs": ["/etc/ssl/a.pem", "/etc/ssl/private/a.key"],
        "front-jobs": ["/etc/ssl/a.pem"],
        "worker-jobs-gpu0": ["/etc/ssl/a.pem"],
    }


def test_passwords_are_each_parts_own_and_in_secret_files_alone(tmp_path: Path) -> None:
    made = releases(tmp_path)
    folder = "/etc/ogen/current/queues/jobs"
    passwords = {
        role: text_of(made[host], f"{folder}/{role}.secret").strip()
        for host, role in (("edge", "front"), ("gpu1", "worker"))
    }
    assert len(set(passwords.values())) == 2
    users = text_of(made["edge"], f"{folder}/users.acl")
    for role, password in passwords.items():
        assert f"user {role} reset on #{hashlib.sha256(password.encode()).hexdigest()} ~ogen:*" in users
    for release in made.values():
        for file in release.files:
            if file.path.endswith((".secret", ".acl")):
                assert (file.secret, file.mode) == (True, 0o600)
            else:
                held = [w for w in (SECRET, *passwords.values()) if w.encode() in file.content]
                assert not held, file.path
    assert not any(
        password.encode() in file.content
        for release in releases(tmp_path, known=False).values()
        for file in release.files
        for password in passwords.values()
    ), "without secrets nothing is made of them"


def test_another_secret_restarts_the_parts_and_no_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hashes() -> dict[str, str]:
        return {u.name: u.hash for release in releases(tmp_path).values() for u in release.units}

    before = hashes()
    monkeypatch.setattr(f"{__name__}.SECRET", "another-horse-battery-staple")
    after = hashes()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {
        "ogen-queue-front-jobs.service",
        "ogen-queue-redis-jobs.service",
        "ogen-queue-worker-jobs-gpu0.service",
    }


def test_a_url_is_a_secret_and_brings_no_redis(tmp_path: Path) -> None:
    made = releases(tmp_path, "{url: !env URL}")
    assert not [u for release in made.values() for u in release.units if "redis" in u.name]
    secret = text_of(made["gpu1"], "/etc/ogen/current/queues/jobs/worker.secret")
    assert secret.strip() == "rediss://me:pass@192.0.2.9:6380/0"
    unit = text_of(made["gpu1"], "/etc/systemd/system/ogen-queue-worker-jobs-gpu0.service")
    assert "IPAddressDeny" not in unit


def test_a_short_secret_and_a_name_for_an_address_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.SECRET", "short")
    with pytest.raises(RenderError, match="at least 16 characters"):
        releases(tmp_path)
    with pytest.raises(RenderError, match="by IP address"):
        releases(tmp_path, known=False, address="gpu1.example.org")


def test_a_fleet_without_a_queue_has_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    text = INVENTORY.format(redis=OWN, routing=ROUTINGS["njs"], address="192.0.2.11")
    path.write_text(re.sub(r"(?s)queues:.*?(?=rollout)", "", text))
    for release in render(plan(load(path)), secrets=reveal):
        assert not [file.path for file in release.files if "queue" in file.path]
        assert not [file.path for file in release.files if b"/queue/" in file.content]


def test_redis_reads_its_own_configuration(tmp_path: Path, need: Callable[[str], str]) -> None:
    """Whatever it does not know, it ends with."""
    server = need("redis-server")
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=redis"]
    made = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([need("openssl"), *words, *made], check=True, capture_output=True)
    edge, folder = releases(tmp_path)["edge"], "/etc/ogen/current/queues/jobs"
    (tmp_path / "users").write_text(text_of(edge, f"{folder}/users.acl"))
    config = text_of(edge, f"{folder}/redis.conf")
    config = config.replace("/run/credentials/ogen-queue-redis-jobs.service", str(tmp_path))
    config = config.replace("/var/lib/ogen-queue-redis-jobs", str(tmp_path)).replace(" 192.0.2.10", "")
    config = config.replace("tls-port 6379", "tls-port 0")
    (tmp_path / "redis.conf").write_text(config + f"unixsocket {tmp_path}/s\n")
    out = tmp_path / "out"
    with out.open("wb") as file:
        process = subprocess.Popen([server, str(tmp_path / "redis.conf")], stdout=file, stderr=file)
    try:
        end = time.monotonic() + 20
        while b"ready to accept" not in out.read_bytes():
            assert process.poll() is None, out.read_text()
            assert time.monotonic() < end, out.read_text()
            time.sleep(0.05)
        ping = [need("redis-cli"), "-s", str(tmp_path / "s")]
        assert b"NOAUTH" in subprocess.run([*ping, "ping"], capture_output=True, check=False).stdout
        asked = subprocess.run([*ping, "config", "get", "appendfsync"], capture_output=True, check=False)
        assert b"NOAUTH" in asked.stdout
    finally:
        process.kill()
        process.wait()


# ---------------------------------------------------------------------------------------- libraries
def test_a_missing_or_another_wheel_is_told(tmp_path: Path) -> None:
    tmp_path = tmp_path / "two words"
    tmp_path.mkdir()
    releases(tmp_path, known=False)
    inventory = load(tmp_path / "inventory.yaml")
    host = inventory.host("gpu1")
    assert [one["id"] for one in sending.wanted(inventory, host)] == [libraries.ID]
    with pytest.raises(UsageError, match="no such file") as caught:
        sending.prepare(inventory, host)
    assert "pip download" in str(caught.value.hint)
    assert "saq==0.26.4" in str(caught.value.hint)
    assert str(tmp_path / "wheels") in shlex.split(str(caught.value.hint)), (
        "a shell takes it as it is printed"
    )
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / next(iter(sorted(libraries.WHEELS)))).write_bytes(b"something else")
    with pytest.raises(UsageError, match="its sha256 is"):
        sending.prepare(inventory, host)
