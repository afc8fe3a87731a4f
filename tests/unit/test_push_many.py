"""A rollout over many hosts, each with an OpenSSH server: what the controller needs, and leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from realsshd import ADDRESS, RealFarm, real_farm

MEMORY = 250e6  # bytes; what a hundred hosts may take

#: a controller as a process of its own: the test's memory is not its
CONTROLLER = """\
import gc, json, os, socket, sys, threading
from pathlib import Path
from ogen import push
from ogen.inventory.model import Host, Ssh
from ogen.release.model import File, Release

spec = json.loads(Path(sys.argv[1]).read_text())
files = [File("/etc/ogen/current/%02d.txt" % n, b"%d\\n" % n * 500) for n in range(30)]
ring = push.Keyring(spec["folder"], (Path(spec["known_hosts"]),))

def targets(text):
    changed = (File("/etc/ogen/current/00.txt", text), *files[1:])
    return [
        push.Target(
            Host(name, spec["address"], root=root, transport=spec["transport"],
                 ssh=Ssh(user=spec["user"], port=port, key="key")),
            Release(name, changed),
        )
        for name, port, root in spec["hosts"]
    ]

def left():
    gc.collect()
    files = []
    for number in os.listdir("/proc/self/fd"):
        try:
            files.append(os.readlink("/proc/self/fd/" + number))
        except FileNotFoundError:  # the folder's own
            pass
    return [threading.active_count(), sorted(files)]

statuses, after = [], []
with socket.create_server(("127.0.0.1", 0)):
    open_ = left()  # what it would look like
for text in (b"one", b"one", b"two"):
    outcome = push.apply(targets(text), push.Options(ring))
    statuses.append([r.status for r in outcome.results])
    after.append(left())
# not getrusage's: that begins with what the parent had
words = Path("/proc/self/status").read_text().split()
peak = int(words[words.index("VmHWM:") + 1]) * 1024
print(json.dumps({"open": open_, "statuses": statuses, "after": after, "peak": peak}))
"""


def roll_out(farm: RealFarm, count: int, transport: str) -> dict[str, Any]:
    for number in range(count):
        farm.add(f"h{number:03}", more="MaxStartups 100\n")
    spec = {
        "folder": str(farm.folder),
        "known_hosts": str(farm.known_hosts),
        "address": ADDRESS,
        "user": farm.user,
        "transport": transport,
        "hosts": [[n, s.port, str(s.folder / "root")] for n, s in farm.servers.items()],
    }
    file = farm.folder / "spec.json"
    file.write_text(json.dumps(spec))
    env = {k: v for k, v in os.environ.items() if k != "SSH_AUTH_SOCK"}
    done = subprocess.run(
        [sys.executable, "-c", CONTROLLER, str(file)],
        capture_output=True,
        text=True,
        timeout=280 if count <= 20 else 1800,
        check=False,
        env={**env, "OGEN_SSH_CONFIG": "none", "XDG_CACHE_HOME": str(farm.folder / "cache")},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("count", "transport"),
    [
        (20, "paramiko"),
        pytest.param(100, "paramiko", marks=pytest.mark.soak),
        pytest.param(100, "openssh", marks=pytest.mark.soak),
    ],
)
def test_many_hosts_leave_no_thread_and_no_socket(
    tmp_path: Path, need: Any, count: int, transport: str
) -> None:
    need("sshd")
    with real_farm(tmp_path / "farm") as farm:
        found = roll_out(farm, count, transport)
        assert found["statuses"] == [["applied"] * count, ["unchanged"] * count, ["applied"] * count]
        assert [f for f in found["open"][1] if "socket" in f]  # it can be seen
        for threads, files in found["after"]:
            assert threads == 1
            assert not [f for f in files if "socket" in f]
        assert found["after"][2] == found["after"][1]
        assert found["peak"] < MEMORY
        assert [s.logins for s in farm.servers.values()] == [3] * count
