"""The agent's look beside the instances: shares of requests, other servers, stores, the monitor's peaks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ogen.agent import look_access, look_others, look_store
from ogen.agent.machine import Machine


def stamp(age: float, zone: str = "+00:00") -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - age)) + zone


def entry(age: float, status: int, upstream: str = "", **more: object) -> str:
    line = {"time": stamp(age), "client": "a", "method": "POST", "status": status, "seconds": 2.0}
    return json.dumps({**line, "upstream": upstream, "upstream_status": str(status), **more})


def test_shares_of_a_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "api.log"
    one, two = "192.0.2.1:11434", "192.0.2.2:11434"
    rows = [
        entry(50, 200, one, pool="pool_a", upstream_seconds="1.5", waited=0),
        entry(
            40, 200, f"{one}, {two}", pool="pool_a", upstream_status="502, 200", upstream_seconds="0.1, 2.5"
        ),
        entry(30, 200, two, pool="pool_a", upstream_seconds="1.0", waited=3.25, client="b"),
        entry(20, 200, two, pool="pool_b", upstream_seconds="-"),
        entry(15, 200, one, method="GET", pool="pool_a"),
        entry(10, 499, one, seconds=60.02),
        entry(5, 503),
    ]
    path.write_text("\n".join(rows))
    monkeypatch.setattr(look_access, "_paths", lambda balancer: [str(path)])
    found = look_access.access("api", 3600.0)
    assert found["own"] == {"503": 1}
    assert [seconds for _, seconds in found["gone"]] == [60.02]
    first, second = found["shares"]
    assert (first["pool"], first["served"], first["clients"]) == ("pool_a", {one: 1, two: 2}, 2)
    assert (first["busy"], first["waited"], first["longest"]) == (5.0, 1, 3.25)
    assert 51 < time.time() - first["start"] < 54
    assert (second["busy"], second["served"]) == (0.0, {two: 1})


def test_only_the_last_answers_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "api.log"
    path.write_text("\n".join(entry(900 - n, 200, f"192.0.2.{1 + n // 400}:1") for n in range(800)))
    monkeypatch.setattr(look_access, "_paths", lambda balancer: [str(path)])
    (share,) = look_access.access("api", 3600.0)["shares"]
    assert share["served"] == {"192.0.2.2:1": look_access.RECENT}


def test_somebody_elses_server(tmp_path: Path) -> None:
    """A real process, called as `ollama serve` is; one that only has the name is none."""
    program = tmp_path / "ollama"
    program.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    program.chmod(0o755)
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "1", "SECRET": "s3cret"}
    serves = subprocess.Popen([program, "serve"], env=env)
    runs = subprocess.Popen([program, "run"], env=env)
    try:
        listed = [
            f'LISTEN 0 4096 127.0.0.1:11500 0.0.0.0:* users:(("python3",pid={serves.pid},fd=3))',
            f'LISTEN 0 4096 127.0.0.1:11501 0.0.0.0:* users:(("python3",pid={runs.pid},fd=3))',
            "LISTEN 0 4096 127.0.0.1:11502 0.0.0.0:*",
            'LISTEN 0 4096 127.0.0.1:11503 0.0.0.0:* users:(("gone",pid=999999999,fd=3))',
        ]
        (found,) = look_others.servers(Machine(), listed)
    finally:
        for process in (serves, runs):
            process.kill()
            process.wait()
    assert (found["pid"], found["port"], found["env"]) == (serves.pid, 11500, {"CUDA_VISIBLE_DEVICES": "1"})


def test_what_cards_held_at_most(tmp_path: Path) -> None:
    path = tmp_path / "cards.csv"
    head = "time,gpu,uuid,name,memory_used_bytes,memory_free_bytes,memory_total_bytes\n"
    rows = [
        (100, "GPU-0", 9000),
        (50, "GPU-0", 700),
        (40, "GPU-0", 800),
        (30, "GPU-0", 600),
        (20, "GPU-1", 5),
    ]
    path.write_text(
        head + "".join(f"{stamp(age, 'Z')},0,{uuid},X,{used},1,2\n" for age, uuid, used in rows) + "torn,0"
    )
    found = look_others.peaks(60.0, str(path))
    assert {uuid: used for uuid, (_, used) in found.items()} == {"GPU-0": 800, "GPU-1": 5}
    assert 38 < time.time() - found["GPU-0"][0] < 43
    assert look_others.peaks(200.0, str(path))["GPU-0"][1] == 9000
    assert look_others.peaks(60.0, str(tmp_path / "none")) == {}


def test_a_store_that_is_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, other = tmp_path / "models", tmp_path / "home/me/.ollama/models"
    for folder in (models, other, models / "models"):
        (folder / "blobs").mkdir(parents=True)
    monkeypatch.setattr(look_store, "STORES", (str(tmp_path / "home/*/.ollama/models"),))
    (other / "blobs" / "sha256-1").touch()
    (models / "models" / "blobs" / "sha256-2").touch()
    found = look_store.elsewhere(str(models), {"sha256-1", "sha256-2", "sha256-3"})
    assert found == {str(other): ["sha256-1"], f"{models}/models": ["sha256-2"]}
    assert look_store.elsewhere(str(models), set()) == {}
    assert look_store.elsewhere(str(other), {"sha256-1"}) == {}, "it is that store itself"


@pytest.mark.parametrize(
    ("fstab", "told"),
    [
        ("/dev/sdb1 /data ext4 defaults 0 2", "/data"),
        ("/dev/sdb1 /data/models/ ext4 defaults 0 2\n/dev/sda1 /data ext4 defaults 0 2", "/data/models"),
        ("/dev/sdb1 /mounted ext4 defaults 0 2", ""),
        ("/dev/sdb1 /data ext4 noauto,user 0 2", ""),
        ("/dev/sdb1 /dat ext4 defaults 0 2", ""),
        ("# /dev/sdb1 /data ext4 defaults 0 2\n\nUUID=1 / ext4 defaults 0 1\n/swap none swap sw 0 0", ""),
    ],
)
def test_a_disk_that_is_not_mounted(tmp_path: Path, fstab: str, told: str) -> None:
    (tmp_path / "fstab").write_text(fstab + "\n")
    (tmp_path / "mounts").write_text("/dev/sda1 / ext4 rw 0 0\n/dev/sdc1 /mounted ext4 rw 0 0\n")
    assert look_store.unmounted("/data/models", str(tmp_path / "fstab"), str(tmp_path / "mounts")) == told


def test_listeners_are_told_with_their_programs() -> None:
    """What `ss` says here of a port of ours has the shape that is read."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True)
        (line,) = (line for line in done.stdout.splitlines() if f":{port} " in line)
    found = look_others._LISTENER.search(line)
    assert found
    assert found.group(1) == str(port)
    assert str(os.getpid()) in look_others._PID.findall(found.group(2))
