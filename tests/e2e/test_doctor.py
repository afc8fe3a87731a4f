"""status, logs and doctor on a real box: nothing on a healthy one, and each fault found by its name."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cluster import Project
from lab import lab, until

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
  api: {{hosts: [solo], listen: 8080, read_timeout: 3s, max_body: 1MiB}}
  gated: {{hosts: [solo], listen: 8081, gate: {{queue: 3}}}}
  sticky: {{hosts: [solo], listen: 8082, strategy: ip_hash}}
monitoring: {{interval: 1s}}
"""
AWAY = "  gone: {{address: 127.0.0.1, ssh: {{port: 1}}, gpus: [{{model: RTX 3090}}]}}\nbalancers:"
BARE = """
apt-get -qq update
apt-get -qq -y install nginx libnginx-mod-http-js libnginx-mod-http-lua lua-cjson >/dev/null
systemctl -q disable --now nginx
useradd --system --create-home --home-dir /usr/share/ollama --shell /bin/false ollama
install -d -o ollama -g ollama /var/lib/ollama /var/lib/ollama/models /var/lib/ollama/models/blobs
"""
# 90 s behind for every program of the box that asks for the time of day
CLOCK = """
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *t) {
    int code = syscall(SYS_clock_gettime, id, t);
    if (!code && id == CLOCK_REALTIME) t->tv_sec -= 90;
    return code;
}
"""
# a line in an instance's journal that the stand-in can't say: journald goes by the writer's cgroup, and looks
# for it when it comes to the line
SAY = (
    "sh -c 'echo $$ >/sys/fs/cgroup/system.slice/ogen-ollama-gpu{card}.service/cgroup.procs;"
    ' exec systemd-cat -t ollama sh -c "echo \\"\\$0\\"; sleep 1" "$0"\' \'{text}\''
)
QUEUES = "curl -s --unix-socket /run/ogen-balancer-gated/release.sock http://gate/queues"
BALANCERS = ("api", "gated", "sticky")
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

    def say(self, card: int, text: str) -> None:
        self.sh(SAY.format(card=card, text=text))

    def spread(self, count: int, port: int, width: int, *options: str) -> str:
        """The statuses of so many generations through a balancer, so many at once."""
        ask = f"curl -s -o /dev/null -w '%{{http_code}}\\n' {' '.join(options)} http://127.0.0.1:{port}/api/generate"
        return self.sh(f"seq {count} | xargs -P {width} -I N {ask} -d @/root/body", check=False)

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

    def finds(self, *kinds: str) -> dict[str, Any]:
        """Findings by kind, with these among them; docs/doctor.md tells for each kind which test does so."""
        found = self.doctor()
        assert set(kinds) <= set(found), found
        return found

    def heal(self) -> None:
        """Takes every fault back; new runs of the instances have a clean log."""
        self.sh("rm -f /etc/testbed/ollama.d/* /etc/testbed/ollama-version; cp /root/gpus /etc/testbed/gpus")
        self.sh("systemctl reset-failed; systemctl restart ogen-ollama-gpu0 ogen-ollama-gpu1 ogen-monitor")
        self.sh("systemctl restart ogen-preload@gpu0 ogen-preload@gpu1")
        self.quiet()
        assert self.doctor(code=0) == {}

    def quiet(self) -> None:
        """Balancers with nothing in their logs, and a prober that finds all well."""
        self.sh("systemctl restart ogen-balancer-api; truncate -s 0 /var/log/ogen/balancer-*.log")
        self.probe(2)

    def probe(self, rounds: int) -> None:
        """Rounds of the prober, faster than systemd lets its timer have them."""
        for _ in range(rounds):
            self.sh("systemctl reset-failed ogen-probe; systemctl start ogen-probe")

    def age(self) -> float:
        """Seconds since the younger instance was started."""
        return min(float(self.sh(AGE.format(card=card))) for card in (0, 1))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with lab(LAB) as made:
        made.up("solo", gpus="24576,24576", ollama=True)
        made.sh("solo", BARE + "cp /etc/testbed/gpus /root/gpus", timeout=300)
        found = Box(made, tmp_path_factory.mktemp("doctor"), ("solo",))
        made.write("solo", "/root/body", json.dumps({"model": "chat", "prompt": "x", "stream": False}))
        found.write(INVENTORY)
        yield found


PRELOAD = 'echo "$0" | base64 -d >/root/late.so && echo /root/late.so >/etc/ld.so.preload'


def test_before_and_after_an_apply(box: Box, tmp_path: Path) -> None:
    late = tmp_path / "late.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", late, "-x", "c", "-"], input=CLOCK, text=True, check=True
    )
    box.lab.exec("solo", "sh", "-c", PRELOAD, base64.b64encode(late.read_bytes()).decode())
    found = box.finds("no-release", "clock")
    assert set(found) == {"no-release", "clock"}
    assert "90 s behind" in found["clock"]["what"]
    box.sh("rm /etc/ld.so.preload")
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
    names = {f"solo/{name}" for name in ("gpu0", "gpu1", *BALANCERS)}
    assert {line["from"] for line in lines} == names or len(lines) == 200
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    one = box.ogen("logs", "solo/gpu1", "--lines", "7").stdout
    assert len(one.splitlines()) == 7
    assert all("solo/gpu1" in line for line in one.splitlines())
    assert "\x1b" not in one
    assert "no instance, balancer or queue 'gpu7'" in box.ogen("logs", "solo/gpu7", code=3).stderr
    box.ogen("logs", "nowhere", code=1)


def test_one_card_idle(box: Box) -> None:
    """One client, whom ip_hash keeps on one card; and a card that the inventory leaves without a model."""
    box.lab.write("solo", "/etc/testbed/ollama.json", '{"tokens": 1, "token_ms": 100}')
    assert set(box.spread(60, 8082, 60).split()) == {"200"}  # the last one waits for six seconds
    found = box.finds("card-idle")
    assert "served 0 of the last 60 requests for chat" in found["card-idle"]["what"]
    assert found["card-idle"]["set"] == "strategy: least_conn"
    box.write(INVENTORY.replace("fill", "1").replace("15}}", "15, env: {{OLLAMA_NEW_ENGINE: '1'}}}}"))
    found = box.finds("card-unused", "variable-ignored")
    assert found["card-unused"]["set"] == "replicas: 2"
    assert found["variable-ignored"]["line"] == 3
    box.write(INVENTORY)
    box.sh("rm /etc/testbed/ollama.json")


def test_requests_that_fail_behind_a_balancer(box: Box) -> None:
    until(lambda: box.age() > 61, 70)  # before that failures count as those of a start
    for port in (11434, 11435):
        box.fault("stall:60", port)
    with ThreadPoolExecutor(2) as pool:
        left = pool.submit(box.spread, 5, 8081, 5, "-m", "10.5")  # two are let in, three wait
        late = pool.submit(box.spread, 4, 8080, 4)
        until(lambda: '"waiting":3' in box.sh(QUEUES), 10)
        assert box.spread(1, 8081, 1).split() == ["503"]
        assert set(late.result().split()) == {"504"}
        assert "502" in box.spread(1, 8080, 1), "all count as dead"
        box.sh(
            "head -c 2000000 /dev/zero | curl -s -o /dev/null http://127.0.0.1:8080/api/chat --data-binary @-"
        )
        assert set(left.result().split()) == {"000"}
    for port in (11434, 11435):
        box.fault("500", port)
    assert "500" in box.spread(1, 8082, 1)
    box.probe(3)
    found = box.finds(
        *("upstream-timeout", "upstream-fails", "no-live-upstreams", "body-too-large"),
        *("client-timeout", "queue-full", "probe-fails"),
    )
    assert found["upstream-timeout"]["set"] == "read_timeout: 6s"
    assert found["body-too-large"]["set"] == "max_body: 2MiB"
    assert found["queue-full"]["set"] == "queue: 6"
    assert re.match("5 clients left after 1[01] s", found["client-timeout"]["what"])
    box.sh("rm /etc/testbed/ollama.d/*")
    box.quiet()


@pytest.mark.soak
def test_a_runner_that_hangs(box: Box) -> None:
    """An instance gives no word to requests for a minute, while its API and the prober's loads are well."""
    box.ogen("apply", "--yes")
    until(lambda: box.age() > 61, 70)
    box.quiet()
    box.fault("stall:600")
    end = time.monotonic() + 70
    while time.monotonic() < end:  # the other one answers, so that least_conn sends here again
        box.spread(4, 8081, 4, "-m", "12")
    box.probe(3)
    found = box.finds("runner-hangs")
    assert "probe-fails" not in found
    assert "solo/gpu0 answers the probes, but none of" in found["runner-hangs"]["what"]
    box.sh("rm /etc/testbed/ollama.d/*; systemctl restart ogen-ollama-gpu0 ogen-preload@gpu0")
    box.quiet()
    assert box.doctor(code=0) == {}


def test_memory_models_and_requests(box: Box) -> None:
    until(lambda: box.age() > 21, 30)
    box.fault("oom")
    box.ask(11434, prompt="x")
    box.fault("novram", 11435)
    for context in (4096, 8192, 4096):
        box.ask(11435, options={"num_ctx": context, "bogus": 1})
    box.sh("curl -s -H 'Host: chat.example.com' http://127.0.0.1:11435/api/tags")
    box.cards("24576:20000:3:95\\n8192")
    found = box.finds(
        *("out-of-memory", "spilled", "context", "setting-ignored", "host-refused"),
        *("memory-others", "card-hot", "card-smaller", "reloads"),
    )
    assert found["out-of-memory"]["what"].startswith("chat ran out of memory")
    assert found["out-of-memory"]["fix"].startswith("next concession: kv_cache: q8_0 for chat (needs ")
    assert found["out-of-memory"]["set"] == "kv_cache: q8_0"
    assert found["out-of-memory"]["line"] == 5
    assert found["spilled"]["about"] == "gpu1"
    assert "19.5" in found["memory-others"]["what"] or "20000" in str(found["memory-others"])
    assert "bogus" in found["setting-ignored"]["what"]
    assert "contexts (4096, 8192)" in found["reloads"]["fix"]
    box.fault("503", 11435)
    box.ask(11435)
    box.fault("500", 11435)
    box.ask(11435)
    # no stand-in's disk is so slow, and none of its runners dies alone: what the real one would say
    box.say(
        0,
        'level=ERROR msg="error loading llama server" error="timed out waiting for llama-server to start"',
    )
    box.say(1, 'time=x level=ERROR msg="llama runner process has terminated: signal: killed"')
    found = box.finds("busy", "requests-fail", "load-timeout", "runner-died")
    assert found["load-timeout"]["about"] == "gpu0"
    assert found["load-timeout"]["set"] == "ollama: {load_timeout: 10m}"
    assert found["busy"]["set"] == "ollama: {max_queue: 1024}"
    box.fault("none")
    box.sh('curl -s http://127.0.0.1:11434/api/generate -d \'{"model": "chat", "keep_alive": 0}\'')
    box.fault("hang", 11435)
    found = box.finds("not-resident", "no-answer", "unreachable-member")
    assert found["not-resident"]["about"] == "gpu0"
    assert found["no-answer"]["about"] == "gpu1"
    assert "solo/gpu1" in found["unreachable-member"]["what"]
    box.heal()


AGE = (
    "t=$(systemctl show -p ActiveEnterTimestampMonotonic --value ogen-ollama-gpu{card}); "
    "awk -v t=$t '{{print $1 - t / 1e6}}' /proc/uptime"
)


def test_cards_that_are_gone(box: Box) -> None:
    box.cards("24576\\n24576:lost")
    found = box.finds("card-lost")
    assert found["card-lost"]["about"] == "card 1"
    assert "GPU is lost" in str(found["card-lost"]["evidence"])
    box.cards("!9")
    box.finds("driver")
    box.cards("!18")
    box.finds("driver-mismatch")
    box.sh("sed '1s/^24576:[0-9]*/24576:20000/' /root/gpus >/etc/testbed/gpus")
    until(lambda: "20971520000" in box.sh("tail -n 4 /var/log/ogen/monitor/cards.csv"), 20)
    box.sh("cp /root/gpus /etc/testbed/gpus")
    moved = box.finds("memory-moves")["memory-moves"]
    assert moved["about"] == "card 0"
    assert moved["set"].startswith("reserve: 12")


def test_instances_on_the_wrong_card_version_or_cpu(box: Box) -> None:
    box.sh("cp /root/gpus /etc/testbed/gpus; echo 0.32.14 >/etc/testbed/ollama-version")
    box.fault("wrongcard")
    box.fault("nogpu", 11435)
    box.sh("systemctl restart ogen-ollama-gpu0 ogen-ollama-gpu1")
    time.sleep(1)
    found = box.finds("vulkan", "on-cpu", "version")
    assert found["version"]["what"] == "runs Ollama 0.32.14, planned is 0.32.15"
    assert found["version"]["set"] == "version: 0.32.14"
    box.sh("rm -f /etc/testbed/ollama.d/* /etc/testbed/ollama-version")
    box.lab.write(
        "solo", DROPIN, "[Service]\nEnvironment=CUDA_VISIBLE_DEVICES=1 OLLAMA_MODELS=/var/lib/ogen/gpu0/x\n"
    )
    box.sh("systemctl daemon-reload; systemctl restart ogen-ollama-gpu0")
    box.sh(
        "systemd-run -q --unit mine -E HOME=/root -E OLLAMA_HOST=127.0.0.1:11500 /usr/local/bin/ollama serve"
    )
    until(lambda: "11500" in box.sh("ss -Hltn"), 10)
    found = box.finds("drop-in", "wrong-card", "wrong-store", "other-ollama")
    assert "in /var/lib/ogen/gpu0/x" in found["wrong-store"]["what"]
    assert "mine.service): it sees every card" in found["other-ollama"]["what"]
    box.sh(f"systemctl stop mine; rm -r $(dirname {DROPIN}) /root/.ollama; systemctl daemon-reload")
    box.heal()


DROPIN = "/etc/systemd/system/ogen-ollama-gpu0.service.d/mine.conf"
STALE = """
cd /etc/ogen/current/balancers/gated && cp -p nginx.conf /root/nginx.conf
sed -i '/return 200 "[0-9a-f]/s/200 "..../200 "0000/' nginx.conf
systemctl reload ogen-balancer-gated && cp -p /root/nginx.conf nginx.conf
"""


def test_services_that_do_not_run(box: Box) -> None:
    box.sh(
        "for i in 1 2; do systemctl kill -s KILL ogen-ollama-gpu0 ogen-balancer-api; sleep 3.5; done; "
        "systemctl stop ogen-monitor"
    )
    box.sh(STALE)
    box.sh("cp -p /etc/ogen/journal /root/journal; sed -i '$d' /etc/ogen/journal")
    box.sh("echo '# mine' >>/etc/ogen/current/balancers/api/nginx.conf")
    box.sh(STOCK)
    found = box.finds(
        *("instance-crashes", "balancer-crashes", "balancer-stale", "service-down", "edited"),
        *("stock-service", "unfinished"),
    )
    box.sh("cp -p /root/journal /etc/ogen/journal; systemctl reload ogen-balancer-gated")
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
    found = box.finds("instance-down", "balancer-down", "port-taken", "disk-low", "blobs-missing")
    assert "python3" in found["port-taken"]["what"]
    box.sh("umount /var/lib/ollama/models; mv /var/lib/ollama/models /var/lib/ollama/away")
    box.sh(
        "cp /etc/fstab /root/fstab; echo '/dev/sdz1 /var/lib/ollama/models ext4 defaults 0 2' >>/etc/fstab"
    )
    box.sh("echo 'gpu0 does not start' >/etc/ogen/stuck")
    found = box.finds("store-missing", "wrong-store", "stuck")
    assert "/var/lib/ollama/models is not mounted" in found["wrong-store"]["what"]
    assert "gpu0 does not start" in str(found["stuck"]["evidence"])
    box.sh("cp /root/fstab /etc/fstab; mv /var/lib/ollama/away /var/lib/ollama/models; rm /etc/ogen/stuck")
    box.sh("systemctl stop thief")
    box.heal()
