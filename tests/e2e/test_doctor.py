"""status, logs and doctor on a real box: nothing on a healthy one, and each fault found by its name."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cluster import Project
from lab import lab

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(300)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: {key}}}
ollama: {{version: 0.32.15}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: 8192, replicas: fill}}
hosts:
  solo: {{address: {solo}, gpus: [{{model: RTX 3090, count: 2}}]}}
balancers:
  api: {{hosts: [solo], listen: 8080}}
"""
AWAY = "  gone: {{address: 127.0.0.1, ssh: {{port: 1}}, gpus: [{{model: RTX 3090}}]}}\nbalancers:"
BARE = """
apt-get -qq update
apt-get -qq -y install nginx libnginx-mod-http-js libnginx-mod-http-lua lua-cjson >/dev/null
systemctl -q disable --now nginx
useradd --system --create-home --home-dir /usr/share/ollama --shell /bin/false ollama
install -d -o ollama -g ollama /var/lib/ollama /var/lib/ollama/models /var/lib/ollama/models/blobs
"""
LAB = os.environ.get("TESTBED_LAB", "doctor")
ASK = "curl -s http://127.0.0.1:{port}/api/generate -d '{body}' >/dev/null"


class Box(Project):
    """One box with two cards that is its own balancer."""

    def sh(self, script: str, check: bool = True) -> str:
        return self.lab.sh("solo", script, check=check)

    def ask(self, port: int, **body: Any) -> None:
        self.sh(ASK.format(port=port, body=json.dumps({"model": "chat", **body})), check=False)

    def fault(self, text: str, port: int = 11434) -> None:
        self.sh(f"mkdir -p /etc/testbed/ollama.d; echo '{text}' >/etc/testbed/ollama.d/{port}.fault")

    def cards(self, text: str) -> None:
        self.sh(f"printf '{text}\\n' >/etc/testbed/gpus")

    def doctor(self, code: int = 2) -> dict[str, Any]:
        """Findings by kind; one with a place in the inventory names it."""
        said = json.loads(self.ogen("doctor", "--format", "json", code=code).stdout)
        for one in said["findings"]:
            assert one["evidence"]
            assert one["fix"]
            assert one["file"].endswith("inventory.yaml")
        return {one["kind"]: one for one in said["findings"]}

    def heal(self) -> None:
        """Takes every fault back; new runs of the instances have a clean log."""
        self.sh("rm -f /etc/testbed/ollama.d/* /etc/testbed/ollama-version; cp /root/gpus /etc/testbed/gpus")
        self.sh("systemctl reset-failed; systemctl restart ogen-ollama-gpu0 ogen-ollama-gpu1 ogen-monitor")
        self.sh("rm -f /var/log/ogen/balancer-api.log; systemctl restart ogen-balancer-api")
        self.sh("systemctl restart ogen-preload@gpu0 ogen-preload@gpu1")
        assert self.doctor(code=0) == {}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with lab(LAB) as made:
        made.up("solo", gpus="24576,24576", ollama=True)
        made.sh("solo", BARE + "cp /etc/testbed/gpus /root/gpus", timeout=300)
        found = Box(made, tmp_path_factory.mktemp("doctor"), ("solo",))
        found.write(INVENTORY)
        yield found


def test_before_and_after_an_apply(box: Box) -> None:
    assert set(box.doctor()) == {"no-release"}
    box.ogen("apply", "--yes")
    for model in ("chat", "chat:latest"):
        box.sh(f'curl -sf http://127.0.0.1:8080/api/generate -d \'{{"model": "{model}"}}\'')
    assert box.doctor(code=0) == {}
    assert "nothing found on 1 host" in box.ogen("doctor").stdout


def test_status_of_a_healthy_host_and_of_one_that_is_away(box: Box) -> None:
    box.cards("24576:5000:12:41:180\\n24576:5100")
    page = box.ogen("status").stdout
    assert "2 of 2 instances up" in page
    assert "as planned" in page
    assert "used 4.9, planned" in page
    assert page.count("chat:latest 5.") == 2
    assert " in force" in page
    box.write(INVENTORY.replace("balancers:", AWAY))
    said = json.loads(box.ogen("status", "--format", "json", code=4).stdout)
    (host,) = said["hosts"]
    assert host["pending"], "another host's instance changes the balancer"
    assert [e["host"] for e in said["errors"]] == ["gone"]
    assert host["cards"][0]["used"] == 5000 * 2**20
    assert [i["state"] for i in host["instances"]] == ["up", "up"]
    assert host["balancers"][0]["in_force"]
    box.write(INVENTORY)
    box.sh("cp /root/gpus /etc/testbed/gpus")


def test_looking_changes_nothing(box: Box) -> None:
    find = "find /etc /var/lib/ogen /var/lib/ollama -printf '%p %i %T@ %m\\n' | sort | sha256sum"
    before = box.sh(find)
    for command in ("status", "doctor", "logs"):
        box.ogen(command)
    assert box.sh(find) == before


def test_logs_are_merged_cleaned_and_chosen(box: Box) -> None:
    box.sh("curl -s http://127.0.0.1:11435/api/steer%1b%5b31m/$(printf '\\033[31m')x", check=False)
    lines = json.loads(box.ogen("logs", "--since", "1h", "--format", "json").stdout)["lines"]
    assert {line["from"] for line in lines} == {"solo/gpu0", "solo/gpu1", "solo/api"} or len(lines) == 200
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    one = box.ogen("logs", "solo/gpu1", "--lines", "7").stdout
    assert len(one.splitlines()) == 7
    assert all("solo/gpu1" in line for line in one.splitlines())
    assert "\x1b" not in one
    assert "no instance or balancer 'gpu7'" in box.ogen("logs", "solo/gpu7", code=3).stderr
    box.ogen("logs", "nowhere", code=1)


def test_memory_models_and_requests(box: Box) -> None:
    time.sleep(max(0.0, 21 - float(box.sh(AGE))))
    box.fault("oom")
    box.ask(11434, prompt="x")
    box.fault("novram", 11435)
    box.ask(11435, options={"num_ctx": 4096, "bogus": 1})
    box.sh("curl -s -H 'Host: chat.example.com' http://127.0.0.1:11435/api/tags")
    box.cards("24576:20000:3:95\\n8192")
    found = box.doctor()
    assert {"out-of-memory", "spilled", "context", "setting-ignored", "host-refused"} <= set(found)
    assert {"memory-others", "card-hot", "card-smaller"} <= set(found)
    assert found["out-of-memory"]["what"].startswith("chat ran out of memory")
    assert found["out-of-memory"]["fix"] == "next concession: kv_cache: q8_0 for chat saves 0.5 GiB"
    assert found["out-of-memory"]["line"] == 5
    assert found["spilled"]["about"] == "gpu1"
    assert "19.5" in found["memory-others"]["what"] or "20000" in str(found["memory-others"])
    assert "bogus" in found["setting-ignored"]["what"]
    box.fault("none")
    box.sh('curl -s http://127.0.0.1:11434/api/generate -d \'{"model": "chat", "keep_alive": 0}\'')
    box.fault("hang", 11435)
    found = box.doctor()
    assert found["not-resident"]["about"] == "gpu0"
    assert found["no-answer"]["about"] == "gpu1"
    assert "solo/gpu1" in found["unreachable-member"]["what"]
    box.heal()


AGE = (
    "t=$(systemctl show -p ActiveEnterTimestampMonotonic --value ogen-ollama-gpu0); "
    "awk -v t=$t '{print $1 - t / 1e6}' /proc/uptime"
)


def test_cards_that_are_gone(box: Box) -> None:
    box.cards("24576\\n24576:lost")
    found = box.doctor()
    assert found["card-lost"]["about"] == "card 1"
    assert "GPU is lost" in str(found["card-lost"]["evidence"])
    for code, kind in (("!9", "driver"), ("!18", "driver-mismatch")):
        box.cards(code)
        assert kind in box.doctor()


def test_instances_on_the_wrong_card_version_or_cpu(box: Box) -> None:
    box.sh("cp /root/gpus /etc/testbed/gpus; echo 0.32.14 >/etc/testbed/ollama-version")
    box.fault("wrongcard")
    box.fault("nogpu", 11435)
    box.sh("systemctl restart ogen-ollama-gpu0 ogen-ollama-gpu1")
    time.sleep(1)
    found = box.doctor()
    assert {"vulkan", "on-cpu", "version"} <= set(found)
    assert found["version"]["what"] == "runs Ollama 0.32.14, planned is 0.32.15"
    box.heal()


def test_services_that_do_not_run(box: Box) -> None:
    box.sh(
        "for i in 1 2; do systemctl kill -s KILL ogen-ollama-gpu0; sleep 3.5; done; "
        "systemctl stop ogen-monitor"
    )
    box.sh("echo '# mine' >>/etc/ogen/current/balancers/api/nginx.conf")
    box.sh(STOCK)
    found = box.doctor()
    assert {"instance-crashes", "service-down", "edited"} <= set(found)
    assert "stock-service" in found
    assert "/etc/ogen/current/balancers/api/nginx.conf" in found["edited"]["what"]
    assert "edited: /etc/ogen/current/balancers/api/nginx.conf" in box.ogen("status").stdout
    box.sh("sed -i '$d' /etc/ogen/current/balancers/api/nginx.conf; systemctl stop ollama")
    box.sh("rm /etc/systemd/system/ollama.service.d/zz.conf /etc/systemd/system/ollama.service")
    box.sh("systemctl daemon-reload")
    box.heal()


STOCK = """
printf '[Service]\\nExecStart=/bin/sleep 600\\n' >/etc/systemd/system/ollama.service
printf '[Unit]\\nConditionPathExists=\\n' >/etc/systemd/system/ollama.service.d/zz.conf
systemctl daemon-reload; systemctl start ollama
"""


def test_stopped_with_the_port_taken_and_the_store_gone(box: Box) -> None:
    box.sh("systemctl stop ogen-ollama-gpu0 ogen-balancer-api")
    box.sh("systemd-run -q --unit thief python3 -m http.server 11434 --bind 127.0.0.1")
    box.sh(
        "mount -t tmpfs -o size=16m none /var/lib/ollama/models; "
        "head -c 15900000 /dev/zero >/var/lib/ollama/models/x"
    )
    time.sleep(1)
    found = box.doctor()
    assert {"instance-down", "balancer-down", "port-taken", "disk-low", "blobs-missing"} <= set(found)
    assert "python3" in found["port-taken"]["what"]
    box.sh("umount /var/lib/ollama/models; systemctl stop thief")
    box.heal()
