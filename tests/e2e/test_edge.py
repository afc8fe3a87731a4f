"""Who reaches an instance, and how one edge host takes another one's place while requests run."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from cluster import Project, processes
from lab import lab, until
from test_drain import stream

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(600)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: key}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: 8192, replicas: fill}}
hosts:
  gpu1: {{address: {gpu1}, gpus: [{{model: RTX 3090, count: 2}}]}}
  edge1: {{address: {edge1}}}
  edge2: {{address: {edge2}}}
balancers:
  api: {{hosts: [{edges}], listen: 8080}}
"""
TIMINGS = {"token_ms": 50, "tokens": 20, "load_ms": 500}
UNIT = "ogen-ollama-gpu0.service"
#: `ogen` that is killed when all balancers have switched, before anything is taken away
KILLED = """
import os, signal
from ogen.cli import main
from ogen.push import rollout
rollout.Rollout.contract = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
main()
"""
#: As Ollama does it: a server on a loopback port of its own, asked by a process of the same unit.
CHILD = """
import socket, sys, threading
with open(sys.argv[1], "w") as file:
    file.write("0")  # this process becomes one of the unit
server = socket.create_server(("0.0.0.0", 40000))
threading.Thread(target=lambda: [server.accept() for _ in iter(int, 1)], daemon=True).start()
def reach(address, port):
    try:
        socket.create_connection((address, port), timeout=2).close()
        return "yes"
    except OSError:
        return "no"
print(reach("127.0.0.1", 40000), reach("127.0.0.1", 11434), reach(sys.argv[2], 22), flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with lab("edge") as made:
        made.up("gpu1", gpus="24576,24576", ollama=True)
        made.up("edge1", "edge2", "stranger", gpus="none")
        made.write("gpu1", "/etc/testbed/ollama.json", json.dumps(TIMINGS))
        project = Project(made, tmp_path_factory.mktemp("project"), boxes=("gpu1", "edge1", "edge2"))
        project.write(INVENTORY, edges="edge1")
        project.ogen("provision")
        project.ogen("apply", "--yes")
        yield project


def reaches(project: Project, box: str, port: int = 11434, address: str = "") -> bool:
    """Whether a connection comes about from a box to gpu1."""
    where = address or project.lab.address("gpu1")
    code = project.lab.sh(box, f"timeout 2 bash -c 'exec 3<>/dev/tcp/{where}/{port}'; echo $?").strip()
    assert code in ("0", "124"), f"{box} is refused: {code}"
    return code == "0"


def instances(project: Project) -> list[str]:
    return [line for line in processes(project.lab, "gpu1").splitlines() if "ollama" in line]


def admitted(project: Project) -> set[str]:
    """The boxes that gpu1's instances let in, as systemd has it."""
    names = {f"{project.lab.address(box)}/32": box for box in ("edge1", "edge2", "stranger")}
    shown = project.lab.sh("gpu1", "systemctl show -p IPAddressAllow --value 'ogen-ollama-gpu*.service'")
    return {names[word] for word in shown.split() if word in names}


def test_only_the_balancer_and_the_host_itself_reach_an_instance(boxes: Project) -> None:
    assert reaches(boxes, "edge1")
    assert not reaches(boxes, "edge2")
    assert not reaches(boxes, "stranger")
    assert reaches(boxes, "gpu1", address="127.0.0.1")
    assert '"version"' in boxes.lab.sh("gpu1", "curl -s http://127.0.0.1:11434/api/version")


def test_a_process_of_the_unit_reaches_its_own_servers_and_nobody_else(boxes: Project) -> None:
    made = boxes.lab
    made.write("gpu1", "/root/child.py", CHILD)
    place = made.sh("gpu1", f"systemctl show -p ControlGroup --value {UNIT}").strip()
    child = subprocess.Popen(
        [*ssh(boxes, "gpu1"), f"sudo python3 /root/child.py /sys/fs/cgroup{place}/cgroup.procs "
         + made.address("stranger")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert child.stdout
        assert child.stdout.readline().split() == ["yes", "yes", "no"]
        assert reaches(boxes, "edge1", 40000), "the unit's filter, and no other, lets the balancer through"
        assert not reaches(boxes, "stranger", 40000)
    finally:
        child.communicate("\n", timeout=30)


def ssh(project: Project, box: str) -> list[str]:
    made = project.lab
    options = ["-o", f"UserKnownHostsFile={made.known_hosts}", "-o", "LogLevel=ERROR", "-i", str(made.key)]
    return ["ssh", *options, f"admin@{made.address(box)}"]


def test_without_the_filter_a_stranger_gets_through(boxes: Project) -> None:
    """What the other tests measure with tells the difference."""
    folder = f"/run/systemd/system/{UNIT}.d"
    text = "[Service]\\nIPAddressDeny=\\nIPAddressAllow=\\n"
    boxes.lab.sh("gpu1", f"mkdir {folder}; printf '{text}' >{folder}/zz.conf; systemctl daemon-reload")
    try:
        assert reaches(boxes, "stranger")
        assert f"{folder}/zz.conf" in boxes.ogen("diff", code=2).stdout
    finally:
        boxes.lab.sh("gpu1", f"rm -r {folder}; systemctl daemon-reload")
    assert not reaches(boxes, "stranger")
    boxes.ogen("diff", code=0)


def test_what_systemd_has_is_read_back_and_mended(boxes: Project) -> None:
    """A line is removed, taken by systemd, and comes back without a word to it: the file alone looks well."""
    place = f"/etc/systemd/system/{UNIT}"
    before = instances(boxes)
    boxes.lab.sh(
        "gpu1",
        f"cp --preserve=all $(readlink -f {place}) /root/unit; "
        f"sed -i '/IPAddressAllow=198/d' $(readlink -f {place}); systemctl daemon-reload",
    )
    assert not reaches(boxes, "edge1")
    assert "+IPAddressAllow=198" in boxes.ogen("diff", code=2).stdout
    boxes.lab.sh("gpu1", f"cp --preserve=all /root/unit $(readlink -f {place})")
    assert "does not admit" in boxes.ogen("diff", "--drift", code=2).stdout
    boxes.ogen("apply", "--yes")
    assert reaches(boxes, "edge1")
    assert instances(boxes) == before
    boxes.ogen("diff", code=0)


@dataclass
class Clients:
    """Streams by way of the first of `edges` that takes a connection, three at once, until told to stop."""

    edges: list[str]
    served: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Clients:
        self.threads = [threading.Thread(target=self._send) for _ in range(3)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(120)

    def _send(self) -> None:
        while not self.stop.is_set():
            edge = next(filter(_open, self.edges), self.edges[-1])
            why = stream(f"http://{edge}:8080")
            if why:
                self.failed.append(f"{edge}: {why}")
                self.stop.wait(0.2)
            else:
                self.served[edge] += 1


def _open(edge: str) -> bool:
    try:
        socket.create_connection((edge, 8080), timeout=2).close()
    except OSError:
        return False
    return True


def test_a_new_edge_host_that_does_not_come_up_takes_nothing_from_the_old_one(boxes: Project) -> None:
    """edge2 was never provisioned: there is no nginx."""
    before = instances(boxes)
    boxes.write(INVENTORY, edges="edge2")
    rows = json.loads(boxes.ogen("apply", "--format", "json", code=6).stdout)["hosts"]
    found = {row["host"]: row["status"] for row in rows}
    assert found == {"gpu1": "applied", "edge1": "withheld", "edge2": "rolled_back"}
    assert "balancers were not switched (edge2)" in rows[0]["message"]
    assert admitted(boxes) == {"edge1", "edge2"}
    assert not stream(f"http://{boxes.lab.address('edge1')}:8080")
    boxes.write(INVENTORY, edges="edge1")
    boxes.ogen("apply", "--yes")
    assert admitted(boxes) == {"edge1"}
    assert instances(boxes) == before
    boxes.ogen("diff", code=0)


def test_another_edge_host_takes_over_under_load(boxes: Project) -> None:
    old, new = (boxes.lab.address(name) for name in ("edge1", "edge2"))
    before = instances(boxes)
    assert len(before) == 2
    boxes.write(INVENTORY, edges="edge2")
    boxes.ogen("provision")
    with Clients([new, old]) as clients:
        until(lambda: clients.served[old] > 3, 30)
        done = boxes.ogen("apply", "--yes")
        until(lambda: clients.served[new] > 3, 30)
    print(f"\nedge1 replaced by edge2: {dict(clients.served)} streams whole, {len(clients.failed)} failed")
    assert not clients.failed
    assert "still admits" not in done.stdout
    assert instances(boxes) == before
    assert admitted(boxes) == {"edge2"}
    assert not reaches(boxes, "edge1")
    assert not _open(old), "its nginx is gone"
    boxes.ogen("diff", code=0)


def test_a_controller_that_dies_in_between_leaves_all_serving_and_the_next_apply_closes(
    boxes: Project,
) -> None:
    old, new = (boxes.lab.address(name) for name in ("edge2", "edge1"))
    before = instances(boxes)
    boxes.write(INVENTORY, edges="edge1")
    with Clients([new, old]) as clients:
        until(lambda: clients.served[old] > 1, 30)
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, "apply", str(boxes.inventory), "--yes"],
            env=boxes.env,
            capture_output=True,
            timeout=120,
        )
        assert ended.returncode == -9
        until(lambda: clients.served[new] > 1, 30)
        assert not stream(f"http://{old}:8080")
        assert admitted(boxes) == {"edge1", "edge2"}
        assert not reaches(boxes, "stranger")
        until(lambda: "still admits" in boxes.ogen("diff", code=2).stdout, 30)
        found = json.loads(boxes.ogen("doctor", "--format", "json", code=2).stdout)["findings"]
        assert "admission" in [one["kind"] for one in found]
        boxes.ogen("apply", "--yes")
        again = clients.served[new]
        until(lambda: clients.served[new] > again, 30)
    print(f"\na controller killed: {dict(clients.served)} streams whole, {len(clients.failed)} failed")
    assert not clients.failed
    assert instances(boxes) == before
    assert admitted(boxes) == {"edge1"}
    assert not reaches(boxes, "edge2")
    boxes.ogen("diff", code=0)
