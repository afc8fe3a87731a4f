"""The agent's look: cards, journals, access logs and the store, from recorded and made-up tools."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import amd_cards
import pytest
from agents import ask, host, release

from ogen.agent import look, look_access, look_cards, look_log, look_store
from ogen.agent.disk import Disk
from ogen.agent.errors import AgentError
from ogen.agent.machine import Answer, Done, Machine
from ogen.inventory.model import Gpu
from ogen.observe.evidence import match
from ogen.observe.hearing import cards_seen


class Told(Machine):
    """Answers commands by their first word that is a key."""

    def __init__(self, **answers: Done) -> None:
        self.answers = answers
        self.asked: list[Sequence[str]] = []

    def run(self, command: Sequence[str], timeout: float = 60.0, stdin: str = "") -> Done:
        self.asked.append(command)
        return next(
            (done for key, done in self.answers.items() if any(key in word for word in command)),
            Done(127, ""),
        )


ROW = "%d, GPU-%d, 00000000:0%d:00.0, NVIDIA GeForce RTX 3090, 550.54.15, 24576, 6600, 3, 41, [N/A]\n"


def test_cards_and_a_lost_one() -> None:
    lost = "Unable to determine the device handle for GPU0000:02:00.0: GPU is lost.  Reboot the system\n\n"
    apps = Done(0, "1, GPU-0, 5000, /usr/bin/python3\nNo running processes found\n")
    found = look_cards.cards(Told(gpu_uuid=apps, **{"query-gpu": Done(15, ROW % (0, 0, 1) + lost)}))
    assert found["code"] == 15
    assert [row["uuid"] for row in found["rows"]] == ["GPU-0"]
    assert found["rows"][0]["memory.used"] == "6600"
    assert found["said"] == [
        "Unable to determine the device handle for GPU0000:02:00.0: GPU is lost.  Reboot the system"
    ]
    assert [(app["pid"], app["used_memory"]) for app in found["apps"]] == [("1", "5000")]


def test_no_driver() -> None:
    text = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"
    found = look_cards.cards(Told(smi=Done(9, text)))
    assert (found["code"], found["rows"], found["apps"]) == (9, [], [])
    assert "communicate" in found["said"][0]


def test_amd_cards_by_the_kernel(tmp_path: Path) -> None:
    drm = tmp_path / "drm"
    amd_cards.card(drm, 1, "0000:03:00.0", hwmon_power1_average=None, hwmon_power1_input=99600000)
    lost = amd_cards.card(drm, 0, "0000:83:00.0")
    amd_cards.card(drm, 2, "0000:01:00.0", vendor="0x10de")
    (lost / "mem_info_vram_used").write_text("")
    found = look_cards.cards(Told(**{"query-gpu": Done(0, ROW % (0, 0, 1))}), str(drm))
    nvidia, amd = found["rows"]
    assert (nvidia["uuid"], "vendor" in nvidia) == ("GPU-0", False)
    assert amd.pop("driver_version")
    assert amd == {
        "vendor": "amd",
        "index": "0",
        "uuid": "GPU-1a2b3c4d5e6f7081",
        "pci.bus_id": "0000:03:00.0",
        "name": "AMD 0x744c",
        "memory.total": "24576",
        "memory.used": "3072",
        "utilization.gpu": "37",
        "temperature.gpu": "61",
        "power.draw": "99",
    }
    seen = cards_seen({"cards": found})
    assert [(c.vendor, c.source, c.used >> 20, c.busy) for c in seen] == [
        ("nvidia", "nvidia-smi", 6600, 3.0),
        ("amd", "sysfs", 3072, 37.0),
    ]
    ours = Gpu(0, "RX 7900 XTX", "amd", 24 << 30), Gpu(1, "RX", "amd", 24 << 30, uuid="GPU-1A2B3C4D5E6F7081")
    assert [match(gpu, seen) for gpu in ours] == [seen[1], seen[1]]
    assert match(Gpu(0, "RTX 3090", "nvidia", 24 << 30), seen) is seen[0]


def test_units_with_one_that_is_not_ours(tmp_path: Path) -> None:
    """A balancer within the machine's own nginx has no unit in the release."""
    blocks = [
        "ActiveState=active\nSubState=running\nNRestarts=2\nActiveEnterTimestampMonotonic=1000000",
        "ActiveState=inactive\nNRestarts=0\nActiveEnterTimestampMonotonic=0",
        "ActiveState=failed\nNRestarts=[not set]",
    ]
    machine = Told(show=Done(0, "\n\n".join(blocks)))
    proof = {"balancer": "side", "unit": "nginx.service", "socket": "/nowhere", "hash": "x"}
    unit = {"name": "ogen-x.service"}
    template = {"name": "ogen-preload@.service"}
    found = look._live(
        Disk(str(tmp_path)), machine, {"units": [unit, template], "instances": [], "balancers": [proof]}
    )
    assert list(found["units"]) == ["nginx.service", "ogen-x.service", "ollama.service"]
    assert [one["active"] for one in found["units"].values()] == ["active", "inactive", "failed"]
    assert found["units"]["nginx.service"]["restarts"] == 2
    assert found["units"]["nginx.service"]["age"] > 0
    assert found["units"]["ogen-x.service"]["age"] is None
    assert found["hashes"] == {"side": ""}
    assert found["cards"]["code"] == 127


def test_an_instance_that_does_not_answer() -> None:
    assert "refused" in look._instance(Machine(), {"port": 1})["error"]


def test_the_store(tmp_path: Path) -> None:
    models, view = (
        tmp_path / "models",
        tmp_path / "instances/gpu0/manifests/registry.ollama.ai/library/chat/latest",
    )
    (models / "blobs").mkdir(parents=True)
    view.parent.mkdir(parents=True)
    (models / "blobs" / "sha256-1").write_text("x")
    layers = [
        {"digest": "sha256:1", "mediaType": look_store.MODEL_LAYER},
        {"digest": "sha256:2", "mediaType": "x"},
    ]
    view.write_text(json.dumps({"layers": layers}))
    manifest = {"librarian": {"models_dir": str(models)}, "views": [{"path": str(view)}]}
    found = look_store.store(manifest)
    assert found["blobs"] == {"sha256-1": ["chat:latest"]}
    assert found["lacking"] == [["gpu0", "chat:latest", "sha256-2"]]
    assert found["disk"]["there"]
    assert 0 < found["disk"]["free"] <= found["disk"]["total"]
    view.write_text("no json")
    assert look_store.store(manifest)["blobs"] == {}
    assert not look_store.disk(str(tmp_path / "away" / "further"))["there"]
    assert look_store.store({"views": [], "librarian": {}}) == {}


def test_the_access_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()

    def line(age: float, status: int, upstream: str, answers: str) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(now - age))
        return json.dumps({"time": stamp, "status": status, "upstream": upstream, "upstream_status": answers})

    path = tmp_path / "api.log"
    rows = [
        line(9000, 502, "192.0.2.1:11434", "502"),
        line(5, 200, "192.0.2.1:11434, 192.0.2.2:11434", "502, 200"),
        line(4, 504, "[2001:db8::1]:11434", "504"),
        line(3, 413, "", ""),
        "torn {",
    ]
    path.write_text("\n".join(rows))
    monkeypatch.setattr(look_access, "_paths", lambda balancer: [str(path)])
    found = look_access.access("api", 3600.0)
    assert found["statuses"] == {"200": 1, "504": 1, "413": 1}
    assert [failed[1:] for failed in found["failed"]] == [
        ["192.0.2.1:11434", "502"],
        ["[2001:db8::1]:11434", "504"],
    ]


def test_who_gives_no_word_to_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = float(int(time.time()))

    def line(age: float, upstream: str, answers: str, uri: str = "/api/chat", seconds: float = 30.0) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(now - age))
        entry = {"time": stamp, "status": 499, "method": "POST", "uri": uri, "seconds": seconds}
        return json.dumps({**entry, "upstream": upstream, "upstream_status": answers, "pool": "chat"})

    rows = [
        line(400, "a:1", "-"),
        line(200, "a:1", "200", seconds=1.0),  # it answers: what was before counts no more
        line(190, "a:1", "-", seconds=60.0),  # begun before that answer
        line(100, "a:1, b:2", "504, 200", "/v1/chat/completions"),
        line(90, "a:1", "200", "/api/show"),  # no runner is asked for that
        line(50, "a:1", "-"),
        line(40, "c:3", "-"),
        line(30, "c:3", "503"),
        line(20, "d:4", "-", "/api/pull"),
    ]
    path = tmp_path / "api.log"
    path.write_text("\n".join(rows))
    monkeypatch.setattr(look_access, "_paths", lambda balancer: [str(path)])
    found = look_access.access("api", 3600.0)["silent"]
    assert found == [["chat", "a:1", 3, now - 200, now - 50]]


def test_who_served_what_since_a_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "api.log"

    def log(count: int, upstream: str, status: int = 200, client: str = "10.0.0.9") -> None:
        line = {"client": client, "uri": "/api/generate", "status": status, "upstream": upstream}
        line["upstream_status"] = ", ".join(
            "502" if n else str(status) for n in range(upstream.count(",") + 1)
        )
        with path.open("a") as file:
            file.write((json.dumps(line) + "\n") * count)

    monkeypatch.setattr(look_access, "_paths", lambda balancer: [str(path)])
    assert look_access.served("api", None) == {"mark": None, "rows": [], "whole": False}
    log(3, "192.0.2.1:11434")
    first = look_access.served("api", None)
    assert (first["rows"], first["whole"]) == ([], True)
    log(2, "192.0.2.1:11434")
    log(5, "192.0.2.1:11434, 192.0.2.2:11434")
    log(1, "", 503, "10.0.0.8")
    second = look_access.served("api", first["mark"])
    assert second["rows"] == [
        ["10.0.0.9", "/api/generate", "200", "192.0.2.2:11434", 5],
        ["10.0.0.9", "/api/generate", "200", "192.0.2.1:11434", 2],
        ["10.0.0.8", "/api/generate", "503", "", 1],
    ]
    assert second["whole"]
    assert look_access.served("api", second["mark"])["rows"] == []
    path.rename(tmp_path / "api.log-1")
    log(4, "192.0.2.3:11434")
    third = look_access.served("api", second["mark"])
    assert [row[3:] for row in third["rows"]] == [["192.0.2.3:11434", 4]]
    assert not third["whole"], "it was rotated: what came before is not counted"
    monkeypatch.setattr(look_access, "SERVED", 300)
    log(9, "192.0.2.3:11434")
    assert not look_access.served("api", third["mark"])["whole"]


@pytest.mark.parametrize(
    ("answers", "seen"),
    [
        ({"/load": "Active connections: 9 \nReading: 0 Writing: 4 Waiting: 5 \n"}, {"running": 3}),
        (
            {
                "/queues": '{"pool_a":{"slots":2,"running":2,"waiting":1},'
                '"pool_b":{"slots":1,"running":0,"waiting":0}}'
            },
            {"running": 2, "waiting": 1, "slots": 3},
        ),
        ({"/queues": "{}", "/load": "Writing: 1"}, {"running": 0}),
        ({"/queues": '{"pool_a": 3}', "/load": "what"}, {}),
        ({}, {}),
    ],
)
def test_requests_under_way(answers: dict[str, str], seen: dict[str, int]) -> None:
    class Socket(Machine):
        def ask_socket(self, path: str, url: str, timeout: float = 2.0) -> Answer:
            assert path == "/run/x.sock"
            return Answer(200 if url in answers else 404, answers.get(url, ""))

    assert look._under_way(Socket(), {"socket": "/run/x.sock"}) == seen


def test_lines_for_people() -> None:
    records: list[dict[str, Any]] = [
        {"__REALTIME_TIMESTAMP": "1700000000250000", "MESSAGE": "one\ntwo", "_SYSTEMD_UNIT": "a.service"},
        {
            "__REALTIME_TIMESTAMP": "1700000001000000",
            "MESSAGE": [104, 105, 255],
            "_SYSTEMD_UNIT": "a.service",
        },
        {
            "__REALTIME_TIMESTAMP": "1700000002000000",
            "MESSAGE": "Started",
            "UNIT": "a.service",
            "_SYSTEMD_UNIT": "init",
        },
        {"__REALTIME_TIMESTAMP": "1700000003000000", "MESSAGE": None, "__CURSOR": "s=1;i=4"},
    ]
    machine = Told(journalctl=Done(0, "\n".join(map(json.dumps, records)) + "\nnot json"))
    lines, cursor = look_log._lines(machine, {"a.service": "gpu0"}, 50)
    assert cursor == "s=1;i=4"
    assert [(stamp, who, text) for stamp, who, text in lines] == [
        (1700000000.25, "gpu0", "one"),
        (1700000000.25, "gpu0", "two"),
        (1700000001.0, "gpu0", "hi\ufffd"),
        (1700000002.0, "gpu0", "Started"),
    ]
    assert look_log._lines(machine, {}, 50) == ([], None)
    assert look_log._lines(Told(journalctl=Done(0, "")), {"a.service": "gpu0"}, 50, None, "s=1") == (
        [],
        "s=1",
    )


@pytest.mark.parametrize(
    ("text", "stamp", "line"),
    [
        ("1763937672.123456 gpu1 ollama[12]: time=x msg=y", 1763937672.123456, "time=x msg=y"),
        ("1763937672.123456 gpu1 systemd[1]: Started a.service.", 1763937672.123456, "Started a.service."),
        ("1763937672.123456 gpu1 a.b: x: y", 1763937672.123456, "x: y"),
    ],
)
def test_a_line_of_the_journal(text: str, stamp: float, line: str) -> None:
    found = look_log._STAMPED.match(text)
    assert found
    assert (float(found[1]), found[2]) == (stamp, line)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('[GIN] 2026/11/23 - 22:57:35 | 200 |    0.27ms | 127.0.0.1 | GET "/api/version"', False),
        ('[GIN] 2026/11/23 - 22:57:35 | 403 |    0.27ms | 127.0.0.1 | GET "/api/version"', True),
        ("load_tensors: offloaded 33/33 layers to GPU", True),
        ("slot update_slots: id 0 | task 7 | prompt done", False),
        ("2026/11/23 22:57:35 [error] 7#7: *1 no live upstreams while connecting to upstream", True),
    ],
)
def test_what_is_telling(text: str, kept: bool) -> None:
    assert bool(look_log.TELLING.search(text)) is kept


def test_a_folder_that_stands_for_a_host(tmp_path: Path) -> None:
    one = host(tmp_path)
    seen = ask(one, "look", deep=True)["seen"]
    assert (seen["live"], seen["current"], seen["idle"]) == (False, None, True)
    assert abs(ask(one, "look", clock=True)["seen"]["time"] - time.time()) < 10
    assert ask(one, "logs", lines=5)["lines"] == []
    load = ask(one, "look", load={"cards": True, "served": {"api": None}})["seen"]
    assert load.keys() == {"time", "live"}, "nothing of the machine that holds the folder"
    from agents import apply

    assert apply(one, release())["status"] == "applied"
    seen = ask(one, "look", deep=True)["seen"]
    assert seen["current"]
    assert "units" not in seen, "no systemd is asked for a folder"


MANIFEST = {
    "instances": [{"instance": "gpu0", "unit": "ogen-ollama-gpu0.service"}],
    "balancers": [{"balancer": "api", "unit": "ogen-balancer-api.service"}],
    "units": [
        {"name": name}
        for name in (
            "ogen-ollama-gpu0.service",
            "ogen-balancer-api.service",
            "ogen-monitor.service",
            "ogen-queue-redis-jobs.service",
            "ogen-queue-front-jobs.service",
            "ogen-queue-worker-jobs-gpu0.service",
            "ogen-queue-worker-jobs-more-gpu0.service",
        )
    ],
}


@pytest.mark.parametrize(
    ("name", "who"),
    [
        ("gpu0", ["gpu0"]),
        ("api", ["api"]),
        ("jobs", ["queue-front-jobs", "queue-redis-jobs", "queue-worker-jobs-gpu0"]),
        ("jobs-more", ["queue-worker-jobs-more-gpu0"]),
        ("queue-redis-jobs", ["queue-redis-jobs"]),
    ],
)
def test_whose_journals_are_shown(name: str, who: list[str]) -> None:
    assert sorted(look_log.journals(MANIFEST, name).values()) == who
    everyone = look_log.journals(MANIFEST, None)
    assert len(everyone) == 6
    assert everyone["ogen-queue-redis-jobs.service"] == "queue-redis-jobs"
    with pytest.raises(AgentError, match="no instance, balancer or queue 'job' here"):
        look_log.journals(MANIFEST, "job")
