"""The monitor on a box, as systemd runs it: cards, driver, instances and disk change under it."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster import OGEN, Project
from lab import lab, until

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(300)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: {key}}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: 8192, replicas: fill}}
hosts:
  box: {{address: {box}, gpus: [{{model: RTX 3090, count: 2}}], monitoring: {{interval: 1s}}}}
balancers:
  api: {{hosts: [box], listen: 8080}}
"""
BOTH = (
    "24576:1024:35:61:210:NVIDIA GeForce RTX 3090:GPU-aa\n24576:2048:0:40:25:NVIDIA GeForce RTX 3090:GPU-bb\n"
)
LOST = BOTH.replace("24576:2048", "24576:lost")
PROM = "/var/lib/prometheus/node-exporter/ogen.prom"
LOGS = "/var/log/ogen/monitor"
PATIENCE = 30


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The monitor's files lie on small disks of their own. The tests below run in order."""
    with lab("monitor") as made:
        made.up("box", ollama=True)
        made.write("box", "/etc/testbed/gpus", BOTH)
        made.sh("box", f"mkdir -p {LOGS} {PROM.rpartition('/')[0]} && mount -t tmpfs -o size=2m logs {LOGS}")
        found = Project(made, tmp_path_factory.mktemp("project"), boxes=("box",))
        found.write(INVENTORY)
        found.ogen("provision")
        found.ogen("apply", "--yes")
        yield found


def figures(box: Project) -> dict[str, float]:
    lines = [line for line in box.lab.sh("box", f"cat {PROM}").splitlines() if line[:1] != "#"]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def of(metric: str, gpu: int, uuid: str) -> str:
    return f'ogen_{metric}{{gpu="{gpu}",uuid="{uuid}"}}'


def shows(box: Project, name: str, value: float) -> None:
    until(lambda: figures(box).get(name) == value, PATIENCE)


def told(box: Project) -> list[str]:
    return box.lab.sh("box", "journalctl -q -o cat -u ogen-monitor --grep ': '").splitlines()


def pid(box: Project) -> str:
    return box.lab.sh("box", "systemctl show -p MainPID -p NRestarts --value ogen-monitor")


def rows(box: Project, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(box.lab.sh("box", f"cat {LOGS}/{name}.csv"))))


def written(box: Project, name: str) -> Callable[[], bool]:
    """Whether a line has come since this call."""
    before = len(rows(box, name))
    return lambda: len(rows(box, name)) > before


def test_figures_of_cards_and_instances(box: Project) -> None:
    shows(box, of("gpu_memory_used_bytes", 1, "GPU-bb"), 2048 << 20)
    box.values["pid"] = pid(box)
    found = figures(box)
    assert found[of("gpu_memory_free_bytes", 0, "GPU-aa")] == (24576 - 1024) << 20
    assert found[of("gpu_memory_total_bytes", 0, "GPU-aa")] == 24576 << 20
    assert found[of("gpu_utilization_ratio", 0, "GPU-aa")] == 0.35
    assert found[of("gpu_temperature_celsius", 0, "GPU-aa")] == 61
    assert found[of("gpu_power_watts", 0, "GPU-aa")] == 210
    assert found['ogen_ollama_up{ollama="127.0.0.1:11435"}'] == 1
    model = '{model="chat:latest",ollama="127.0.0.1:11434"}'
    assert found["ogen_ollama_model_vram_bytes" + model] == found["ogen_ollama_model_size_bytes" + model] > 0
    until(written(box, "models"), PATIENCE)
    last = rows(box, "models")[-1]
    assert (last["instance"], last["up"], last["model"], last["host_bytes"]) == (
        "gpu1",
        "1",
        "chat:latest",
        "0",
    )
    assert {row["uuid"] for row in rows(box, "cards")} == {"GPU-aa", "GPU-bb"}
    maps = box.lab.sh("box", f"cat /proc/{pid(box).split()[0]}/maps")
    assert "libnvidia-ml.so.1" in maps, "through NVML, in its sandbox"


def test_readings_that_change(box: Project) -> None:
    box.lab.write("box", "/etc/testbed/gpus", BOTH.replace("24576:1024:35", "24576:20000:99"))
    shows(box, of("gpu_memory_used_bytes", 0, "GPU-aa"), 20000 << 20)
    assert figures(box)[of("gpu_utilization_ratio", 0, "GPU-aa")] == 0.99


def test_a_lost_card(box: Project) -> None:
    box.lab.write("box", "/etc/testbed/gpus", LOST)
    shows(box, of("gpu_up", 1, "GPU-bb"), 0)
    found = figures(box)
    assert of("gpu_memory_used_bytes", 1, "GPU-bb") not in found
    assert found[of("gpu_up", 0, "GPU-aa")] == 1, "the other goes on"
    box.lab.write("box", "/etc/testbed/gpus", BOTH)
    shows(box, of("gpu_up", 1, "GPU-bb"), 1)
    lines = [line for line in told(box) if line.startswith("card")]
    assert lines == [
        "card 1 GPU-bb: lost: nvmlDeviceGetHandleByIndex_v2: error 15",
        "card 1 GPU-bb: well again",
    ]


@pytest.mark.parametrize("code", ["!9", "!18"])
def test_a_driver_that_is_loaded_anew(box: Project, code: str) -> None:
    box.lab.write("box", "/etc/testbed/gpus", code + "\n" + BOTH)
    shows(box, "ogen_gpu_driver_up", 0)
    assert of("gpu_up", 0, "GPU-aa") not in figures(box)
    assert "driver: no figures: " in told(box)[-1]
    box.lab.write("box", "/etc/testbed/gpus", BOTH)
    shows(box, "ogen_gpu_driver_up", 1)
    shows(box, of("gpu_up", 0, "GPU-aa"), 1)
    until(lambda: told(box)[-1] == "driver: well again", PATIENCE)


def test_an_instance_that_goes_down(box: Project) -> None:
    up = 'ogen_ollama_up{ollama="127.0.0.1:11434"}'
    box.lab.sh("box", "systemctl stop ogen-ollama-gpu0")
    shows(box, up, 0)
    assert figures(box)['ogen_ollama_up{ollama="127.0.0.1:11435"}'] == 1
    assert "instance gpu0: down: Connection refused" in told(box)
    box.lab.sh("box", "systemctl start ogen-ollama-gpu0")
    shows(box, up, 1)


def test_a_model_that_spills(box: Project) -> None:
    box.lab.write("box", "/etc/testbed/ollama-fault", "novram")
    box.lab.sh("box", "systemctl restart ogen-ollama-gpu0")
    until(lambda: any("GiB in host memory" in line for line in told(box)), PATIENCE)
    model = '{model="chat:latest",ollama="127.0.0.1:11434"}'
    found = figures(box)
    assert 0 < found["ogen_ollama_model_vram_bytes" + model] < found["ogen_ollama_model_size_bytes" + model]
    box.lab.sh("box", "rm /etc/testbed/ollama-fault; systemctl restart ogen-ollama-gpu0")


def test_a_full_disk(box: Project) -> None:
    box.lab.sh("box", f"cat /dev/zero >{LOGS}/fill 2>/dev/null; true")
    until(lambda: "cards.csv: not written: No space left on device" in told(box), PATIENCE)
    box.lab.write("box", "/etc/testbed/gpus", BOTH.replace("24576:1024", "24576:3000"))
    shows(box, of("gpu_memory_used_bytes", 0, "GPU-aa"), 3000 << 20)  # the textfile lies elsewhere
    box.lab.sh("box", f"rm {LOGS}/fill")
    until(lambda: "cards.csv: well again" in told(box), PATIENCE)
    until(written(box, "cards"), PATIENCE)
    for name in ("cards", "models"):
        keys = set(rows(box, name)[0])
        assert all(set(row) == keys and None not in row.values() for row in rows(box, name)), "no torn line"


def test_rotation_while_it_writes(box: Project) -> None:
    box.lab.sh("box", "/usr/sbin/logrotate -f /etc/logrotate.d/ogen")
    until(lambda: box.lab.sh("box", f"ls {LOGS}/cards.csv 2>/dev/null", check=False) != "", PATIENCE)
    until(written(box, "cards"), PATIENCE)
    old = box.lab.sh("box", f"cat {LOGS}/cards.csv-*")
    assert old.startswith("time,gpu,uuid")
    assert old.endswith("\n")


@contextmanager
def prometheus(program: str, config: Path) -> Iterator[Callable[[str], float | None]]:
    """A real one with this configuration; gives the value of an expression, None while it has none."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    args = [f"--config.file={config}", f"--storage.tsdb.path={config.parent}/tsdb"]
    log = (config.parent / "prometheus.log").open("wb")
    with log, subprocess.Popen([program, *args, f"--web.listen-address=127.0.0.1:{port}"], stderr=log) as run:

        def value(expr: str) -> float | None:
            query = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': expr})}"
            try:
                with urllib.request.urlopen(query, timeout=5) as reply:
                    found = json.load(reply)["data"]["result"]
            except OSError:
                return None
            return float(found[0]["value"][1]) if found else None

        try:
            yield value
        finally:
            run.terminate()


@pytest.mark.soak
def test_a_real_prometheus_scrapes_the_box(box: Project, need: Callable[[str], str]) -> None:
    """What `ogen export prometheus` writes, against the box's own node_exporter as Debian packages it."""
    box.lab.write("box", "/etc/testbed/gpus", BOTH)
    box.lab.sh("box", "apt-get -qq update && apt-get -qq -y install prometheus-node-exporter >/dev/null")
    folder = box.folder / "prometheus"
    command = [*OGEN, "export", "prometheus", str(box.inventory), "-o", str(folder)]
    subprocess.run(command, env=box.env, check=True, capture_output=True)
    config = folder / "prometheus.yml"
    config.write_text(config.read_text().replace("interval: 15s", "interval: 1s"))
    with prometheus(need("prometheus"), config) as value:
        until(lambda: value('ogen:gpu_memory_used:ratio{host="box",gpu="1"}') == 2048 / 24576, PATIENCE)
        assert value('ogen:gpu_temperature:celsius{host="box",gpu="0"}') == 61
        assert value("ogen:gpus_up:count - ogen:gpus_planned:count") == 0
        box.lab.write("box", "/etc/testbed/gpus", LOST)
        until(lambda: value("ogen:gpus_up:count - ogen:gpus_planned:count") == -1, PATIENCE)
        box.lab.sh("box", "systemctl stop prometheus-node-exporter")
        until(lambda: value('ogen:host_up:bool{host="box"}') == 0, PATIENCE)
    box.lab.write("box", "/etc/testbed/gpus", BOTH)


def test_a_report_over_ssh(box: Project) -> None:
    """What the tests before did to the box, in the bins that its agent has counted."""
    ask = 'curl -sf localhost:8080/api/generate -d \'{"model": "chat", "prompt": "hello"}\''
    until(lambda: "response" in box.lab.sh("box", ask, check=False), PATIENCE)
    box.ogen("report", "--since", "1h", "-o", "report.html")
    page = (box.folder / "report.html").read_text()
    made = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert made
    found = json.loads(made[1])
    (host,) = found["hosts"]
    first, second = host["cards"]
    assert (first["name"], first["total"]) == ("RTX 3090", 24.0)
    assert max(value for value in first["most"] if value is not None) == round(20000 / 1024, 2), (
        "a rotated file's"
    )
    assert second["lost"]
    texts = {text for _, text in host["marks"]}
    assert "gpu0 down" in texts
    assert any(text.startswith("applied ") for text in texts), texts
    (balancer,) = found["balancers"]
    assert balancer["total"] >= 1
    assert {row["name"] for row in balancer["table"]} <= {"box/gpu0", "box/gpu1"}
    assert balancer["has_first"]
    assert balancer["over"]["first"]["p50"] <= balancer["over"]["seconds"]["p50"] * 1.1


def test_it_was_one_process_all_the_time(box: Project) -> None:
    assert pid(box) == box.values["pid"]
    said = json.dumps(told(box))
    assert "Traceback" not in said


MODPROBE = """\
#!/bin/sh
echo "called: $*"
[ "$1" != -u ] || [ -e /dev/nvidia-uvm ] || mknod -m 666 /dev/nvidia-uvm c 511 0
"""


def test_device_nodes_are_made_before_instances_start(box: Project) -> None:
    """After a boot nothing has made /dev/nvidia-uvm, and in its sandbox no instance could."""
    made = box.lab
    made.write("box", "/usr/bin/nvidia-modprobe", MODPROBE)
    away = "[Service]\nExecStartPost=/bin/rm /dev/nvidia-uvm\n"
    made.write("box", "/etc/systemd/system/testbed-gpu.service.d/away.conf", away)
    made.sh("box", "chmod 755 /usr/bin/nvidia-modprobe")
    made.tool("stop", "box")
    made.tool("start", "box")
    until(lambda: "active" in made.sh("box", "systemctl is-active ogen-ollama-gpu1", check=False), PATIENCE)
    times = "ExecMainExitTimestampMonotonic ActiveEnterTimestampMonotonic"
    cards, instance = (
        [int(text) for text in made.sh("box", f"systemctl show --value -p {p} {unit}").split()]
        for unit, p in zip(("ogen-cards", "ogen-ollama-gpu0"), times.split(), strict=True)
    )
    assert 0 < cards[0] < instance[0]
    said = made.sh("box", "journalctl -q -b -o cat -u ogen-cards --grep called").splitlines()
    assert said[:2] == ["called: -c 0 -c 1", "called: -u -c 0"]
    assert made.sh("box", "stat -c '%a %F' /dev/nvidia-uvm").strip() == "666 character special file"
    assert made.sh("box", "systemctl show -p LogRateLimitBurst --value ogen-ollama-gpu0").strip() == "10000"
    assert box.ogen("diff").returncode == 0
