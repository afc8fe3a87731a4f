"""The monitor: figures against pynvml's, a day of samples, and what may become of cards, driver and disk."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import json
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import amd_cards
import pytest
from test_render_scripts import TEMPLATES, TESTBED, samples, script, settings
from test_render_scripts import smi as nvidia_smi

DAY = 24 * 3600
NOON = 1_800_014_400  # 2027-01-15T12:00:00Z

#: reads the same cards through pynvml and through the monitor, for each text of the file
COMPARE = """\
import importlib.util, json, os, sys, pynvml
spec = importlib.util.spec_from_file_location("monitor", sys.argv[1])
monitor = importlib.util.module_from_spec(spec)
spec.loader.exec_module(monitor)

def truth(index):
    h = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(h, version=pynvml.nvmlMemory_v2)
    return {
        "gpu": index, "driver": pynvml.nvmlSystemGetDriverVersion(), "uuid": pynvml.nvmlDeviceGetUUID(h),
        "name": pynvml.nvmlDeviceGetName(h), "total": memory.total, "free": memory.free, "used": memory.used,
        "utilization": pynvml.nvmlDeviceGetUtilizationRates(h).gpu,
        "temperature": pynvml.nvmlDeviceGetTemperature(h, pynvml.NVML_TEMPERATURE_GPU),
        "power": pynvml.nvmlDeviceGetPowerUsage(h) / 1000,
    }

pynvml.nvmlInit()
cards, found = monitor.Cards(), []
for text in json.load(sys.stdin):
    with open(os.environ["FAKE_NVML_FILE"], "w") as file:
        file.write(text)
    found.append([cards.read()[0], [truth(i) for i in range(pynvml.nvmlDeviceGetCount())]])
assert cards.nvml is not None
print(json.dumps(found))
"""


@pytest.fixture
def monitor() -> Any:
    spec = importlib.util.spec_from_file_location("monitor_script", TEMPLATES / "monitor.py")
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def library(folder: Path, cc: str, text: str | None = None) -> Path:
    """The stand-in of libnvidia-ml.so.1, made from its source or from `text`."""
    source = folder / "nvml.c"
    source.write_text(text or (TESTBED / "fake_nvml.c").read_text())
    made = folder / "libnvidia-ml.so.1"
    command = [cc, "-std=c99", "-D_POSIX_C_SOURCE=200809L", "-shared", "-fPIC", "-o", f"{made}.new", source]
    subprocess.run(command, check=True, capture_output=True)
    Path(f"{made}.new").rename(made)  # as dpkg does it: who has the old one open keeps it
    return made


@pytest.fixture
def gpus(
    tmp_path: Path, need: Callable[[str], str], monitor: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Writes the cards that the library in `tmp_path` shows; nvidia-smi is not there."""
    made = library(tmp_path, need("cc"))
    load = monitor.ctypes.CDLL
    monkeypatch.setattr(monitor.ctypes, "CDLL", lambda name: load(str(made)))
    monkeypatch.setenv("FAKE_NVML_FILE", str(tmp_path / "gpus"))
    monkeypatch.setenv("PATH", "/nonexistent")

    def write(text: str) -> None:
        (tmp_path / "gpus").write_text(text)

    return write


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


# ------------------------------------------------------------------------------------- figures
def test_figures_are_pynvml_s(tmp_path: Path, need: Callable[[str], str]) -> None:
    library(tmp_path, need("cc"))
    texts = [
        "\n".join(
            f"{total}:{(total * step * (card + 1)) // 97 % total}:{(7 * step + card) % 101}"
            f":{30 + step + card}:{40 * step + card}:NVIDIA {step} {card}:GPU-{card}{step:04d}"
            for card, total in enumerate((24576, 12288, 81559))
        )
        for step in range(20)
    ]
    env = {"LD_LIBRARY_PATH": str(tmp_path), "FAKE_NVML_FILE": str(tmp_path / "gpus"), "PATH": "/nonexistent"}
    (tmp_path / "gpus").write_text(texts[0])
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, str(TEMPLATES / "monitor.py")],
        input=json.dumps(texts),
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 20
    for ours, theirs in found:
        assert len(theirs) == 3
        assert [card for card in ours if "lost" not in card] == theirs


# ----------------------------------------------------------------------------------------- AMD
def test_amd_cards_are_read_from_sysfs(monitor: Any, tmp_path: Path) -> None:
    drm = tmp_path / "drm"
    amd_cards.card(drm, 1, "0000:03:00.0", product_name="Radeon PRO W7900", mem_info_vram_used=5 << 30)
    amd_cards.card(drm, 0, "0000:83:00.0", unique_id=None, gpu_busy_percent=None, hwmon_power1_average=None)
    amd_cards.card(drm, 2, "0000:01:00.0", vendor="0x10de")
    amd_cards.card(drm, 3, "0000:02:00.0", mem_info_vram_total=None)  # an old card with the driver radeon
    first, second = monitor.Amd(str(drm)).read()[0]
    assert first.pop("driver").startswith("amdgpu ")
    assert first == {
        "gpu": 0,
        "uuid": "GPU-1a2b3c4d5e6f7081",
        "name": "Radeon PRO W7900",
        "total": 24 << 30,
        "used": 5 << 30,
        "free": 19 << 30,
        "utilization": 37,
        "temperature": 61,
        "power": 210.5,
    }
    assert (second["gpu"], second["uuid"], second["name"]) == (1, "0000:83:00.0", "AMD 0x744c")
    assert not {"utilization", "power"} & set(second)


def test_an_amd_card_that_is_lost_and_a_driver_that_is_not_loaded(monitor: Any, tmp_path: Path) -> None:
    drm, amd = tmp_path / "drm", monitor.Amd(str(tmp_path / "drm"))
    assert amd.read() == ([], f"no AMD card in {drm}: is amdgpu loaded?")
    amd_cards.card(drm, 0, "0000:03:00.0")
    folder = amd_cards.card(drm, 1, "0000:83:00.0")
    assert not any("lost" in card for card in amd.read()[0])
    (folder / "mem_info_vram_used").write_text("")  # the read fails
    assert [card.get("lost") for card in amd.read()[0]] == [None, "the driver gives no figures"]
    (drm / "card1/device").unlink()
    assert [card.get("lost") for card in amd.read()[0]] == [None, "the driver lists it no more"]
    amd_cards.card(drm, 1, "0000:83:00.0")
    assert not any("lost" in card for card in amd.read()[0])


def test_both_makers_in_one_textfile(tmp_path: Path) -> None:
    amd_cards.card(tmp_path / "drm", 0, "0000:03:00.0")
    path = nvidia_smi(tmp_path)
    done = script("monitor.py", settings(tmp_path, amd=True, drm=str(tmp_path / "drm")), "--once", PATH=path)
    assert done.returncode == 0, done.stderr
    found = samples((tmp_path / "prom/ogen.prom").read_text())
    assert found['ogen_gpu_memory_used_bytes{gpu="0",uuid="GPU-0a2b3c4d5e6f7081"}'] == 3 << 30
    assert found['ogen_gpu_memory_used_bytes{gpu="0",uuid="GPU-aa"}'] == 1 << 30
    assert found["ogen_gpu_driver_up"] == 1
    assert {row["uuid"] for row in csv.DictReader((tmp_path / "cards.csv").open())} >= {
        "GPU-aa",
        "GPU-0a2b3c4d5e6f7081",
    }


# ---------------------------------------------------------------------------------------- cards
def test_a_lost_card_keeps_its_name_and_comes_back(monitor: Any, gpus: Callable[[str], None]) -> None:
    clock = Clock()
    cards = monitor.Cards(clock)
    gpus("24576:1:2:3:4:A:GPU-a\n16384:1:2:3:4:B:GPU-b")
    assert [card["uuid"] for card in cards.read()[0]] == ["GPU-a", "GPU-b"]
    gpus("24576:1:2:3:4:A:GPU-a\n16384:lost")
    for _ in range(3):
        well, lost = cards.read()[0]
        assert (well["used"], "lost" in well) == (1 << 20, False)
        assert (lost["uuid"], lost["name"], "error 15" in lost["lost"]) == ("GPU-b", "B", True)
        assert "used" not in lost
    gpus("16384:1:2:3:4:B:GPU-b")  # the other one is not even listed, and indexes have moved
    found = {card["uuid"]: card for card in cards.read()[0]}
    assert (found["GPU-b"]["gpu"], "lost" in found["GPU-b"]) == (0, False)
    assert found["GPU-a"]["lost"] == "the driver lists it no more"
    gpus("16384:1:2:3:4:B:GPU-b\n16384:lost")  # whichever it is, it is not the one that is well
    assert [card.get("uuid") for card in cards.read()[0]] == ["GPU-b", None, "GPU-a"]
    gpus("24576:1:2:3:4:A:GPU-a\n16384:1:2:3:4:B:GPU-b")
    assert not any("lost" in card for card in cards.read()[0])


def test_nvml_is_opened_anew_for_a_lost_card_but_not_each_time(
    monitor: Any, gpus: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, opened = Clock(), []
    cards, init = monitor.Cards(clock), monitor.Nvml.__init__
    monkeypatch.setattr(monitor.Nvml, "__init__", lambda self: (opened.append(clock.now), init(self))[1])
    gpus("24576\n16384:lost")
    for _ in range(30):
        clock.now += 5
        assert len(cards.read()[0]) == 2
    assert len(opened) == 4, opened


def test_a_driver_that_goes_and_comes_back(monitor: Any, gpus: Callable[[str], None]) -> None:
    cards = monitor.Cards()
    for code, says in (("!9", "nvidia-smi"), ("!18", "nvidia-smi")):
        gpus("24576:1")
        assert cards.read()[0][0]["used"] == 1 << 20
        gpus(code + "\n24576")
        none, why = cards.read()
        assert none == []
        assert says in why
    gpus("24576:2")
    assert cards.read() == ([dict(cards.read()[0][0], used=2 << 20)], "")


def test_another_driver_s_library_is_taken_at_once(
    tmp_path: Path,
    monitor: Any,
    gpus: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After an update the old library says "mismatch" for ever; the process must not keep it."""
    cards = monitor.Cards()
    gpus("24576:1")
    assert cards.read()[0][0]["driver"] == "550.54.15"
    gpus("!18\n24576:1")
    assert cards.read()[0] == []
    newer = (TESTBED / "fake_nvml.c").read_text().replace("*p == '!'", "0").replace("550.54.15", "570.1")
    with monkeypatch.context() as path:
        path.setenv("PATH", "/usr/bin:/bin")
        library(tmp_path, "cc", newer)
    assert cards.read()[0][0]["driver"] == "570.1"


SMI = "#!/bin/sh\necho x >>{count}\n{then}\n"


def smi(folder: Path, then: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi that counts its runs."""
    count = folder / "runs"
    program = folder / "bin/nvidia-smi"
    program.parent.mkdir(exist_ok=True)
    program.write_text(SMI.format(count=count, then=then))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return count


@pytest.fixture
def no_nvml(monitor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(monitor.ctypes, "CDLL", missing)


LINE = "echo '0, GPU-a, 550.1, A, 1024, 23552, 24576, 35, 61, 210.5'"


@pytest.mark.usefixtures("no_nvml")
def test_an_nvidia_smi_that_fails_is_asked_once_a_minute(
    tmp_path: Path, monitor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    cards = monitor.Cards(clock)
    count = smi(tmp_path, "echo 'NVIDIA-SMI has failed'; exit 9", monkeypatch)
    for _ in range(24):
        clock.now += 5
        assert cards.read() == ([], "NVIDIA-SMI has failed")
    assert len(count.read_text().split()) == 2
    smi(tmp_path, LINE, monkeypatch)
    clock.now += 60
    for _ in range(3):
        assert cards.read()[0][0]["power"] == 210.5
    assert len(count.read_text().split()) == 5


@pytest.mark.usefixtures("no_nvml")
def test_an_nvidia_smi_that_hangs_holds_nothing_up(
    tmp_path: Path, monitor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    cards = monitor.Cards(clock)
    monkeypatch.setattr(monitor, "SMI_WAIT", 0.2)
    count = smi(tmp_path, "exec sleep 600", monkeypatch)
    assert "no answer in 0.2 s" in cards.read()[1]
    killed = cards.smi.stuck
    assert killed.wait(20) == -9
    # one in the kernel does not even end when it is killed: no second one is started beside it
    monkeypatch.setattr(type(killed), "poll", lambda self: None)
    for _ in range(3):
        clock.now += 60
        assert cards.read() == ([], "nvidia-smi does not end")
    assert len(count.read_text().split()) == 1
    monkeypatch.undo()


# ------------------------------------------------------------------------------------ instances
class Raw:
    """A server that accepts, and answers with what it is told; None never answers."""

    def __init__(self, reply: bytes | None) -> None:
        self.reply, self.asked, self.open, self.most = reply, [], 0, 0  # type: ignore[var-annotated]
        self.server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def accept(self) -> None:
        while True:
            try:
                link, _ = self.server.accept()
            except OSError:
                return
            self.open += 1
            self.most = max(self.most, self.open)
            threading.Thread(target=self.serve, args=(link,), daemon=True).start()

    def serve(self, link: socket.socket) -> None:
        with link:
            self.asked.append(link.recv(4096).split(b" ")[1].decode())
            if self.reply is None:
                link.recv(1)  # until the other side gives up
            else:
                try:
                    link.sendall(self.reply)
                except OSError:
                    pass
        self.open -= 1

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        """Not closed under its thread's hands: that would accept for whoever has its descriptor next."""
        self.server.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.server.close()


def http(body: bytes) -> bytes:
    return b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + body


def watch(monitor: Any, *servers: Raw, clock: Any = time.monotonic) -> Any:
    named = [
        {"name": f"gpu{n}", "url": one.url, "ollama": f"127.0.0.1:{11434 + n}"}
        for n, one in enumerate(servers)
    ]
    return monitor.Instances(named, clock)


def test_hung_instances_are_waited_for_together(monitor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "TIMEOUT", 1.0)
    with Raw(None) as hung, Raw(http(b'{"version": "1", "models": []}')) as well:
        states = watch(monitor, *[hung] * 20, well).read()
        assert hung.most == 40, "all were asked before the first was given up"
    assert [state["up"] for state in states] == [False] * 20 + [True]
    assert states[0]["why"] == "no answer in 1 s"


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"", "no HTTP"),
        (b"SSH-2.0-OpenSSH\r\n", "no HTTP"),
        (b"HTTP/1.0 503 busy\r\n\r\n{}", "HTTP 503"),
        (http(b""), "Expecting value"),
        (http(b"[]"), "no object"),
        (http(b'{"version": "1", "models": [1]}'), "attribute"),
        (http(b'{"version": "1", "models": [{"size": 1e999}]}'), "infinity"),
        (http(b'{"version": "1", "models": [{"size": "x"}]}'), "invalid literal"),
        (http(b"[" * 100_000), "recursion"),
        (http(b" " * (5 << 20)), "without end"),
    ],
)
def test_answers_of_no_use(monitor: Any, reply: bytes, why: str) -> None:
    with Raw(reply) as one:
        (state,) = watch(monitor, one).read()
    assert not state["up"]
    assert why in state["why"]


def test_hostile_names_break_no_file(tmp_path: Path, monitor: Any) -> None:
    name = '=cmd("x")\\ud800\\u001b[31m\\n\\u202e"'.replace('"', '\\"')
    body = '{"version": "~", "models": [{"name": "~", "size": 2, "size_vram": 1}]}'.replace("~", name)
    (tmp_path / "prom").mkdir()
    with Raw(http(body.encode())) as one:
        config = json.loads(Path(settings(tmp_path, cards=False)).read_text())
        config["instances"] = [{"name": "gpu0", "url": one.url, "ollama": "127.0.0.1:11434"}]
        monitor.Monitor(config).round(NOON)
    text = (tmp_path / "prom/ogen.prom").read_text()
    assert samples(text)
    assert text.isascii()
    with (tmp_path / "models.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["model"].startswith("'=cmd")
    assert row["host_bytes"] == "1"


def test_the_version_is_asked_for_when_it_may_have_changed(monitor: Any) -> None:
    clock = Clock()
    with Raw(http(b'{"version": "1", "models": []}')) as one:
        watching = watch(monitor, one, clock=clock)
        for _ in range(10):
            clock.now += 5
            assert watching.read()[0]["version"] == "1"
        assert one.asked.count("/api/version") == 1
        one.reply = b""
        assert not watching.read()[0]["up"]
        one.reply = http(b'{"version": "2", "models": []}')
        assert watching.read()[0]["version"] == "2"
        clock.now += monitor.VERSION
        watching.read()
        assert one.asked.count("/api/version") == 3


# --------------------------------------------------------------------------------------- journal
def test_only_changes_are_told(tmp_path: Path, monitor: Any, capsys: pytest.CaptureFixture[str]) -> None:
    made = monitor.Monitor(json.loads(Path(settings(tmp_path)).read_text()))
    card = {"gpu": 0, "uuid": "GPU-a", "name": "A", "used": 1, "free": 2, "total": 3}
    model = {"name": "chat:latest", "size": 5 << 30, "vram": 5 << 30, "host": 0, "context": 1, "expires": ""}
    state = {"name": "gpu0", "ollama": "x", "up": True, "version": "1", "models": [model]}
    down = {**state, "up": False, "models": [], "why": "Connection refused"}
    spilled = {**state, "models": [{**model, "vram": 4 << 30, "host": 1 << 30}]}
    for cards, why, states in (
        ([card], "", [state]),
        ([{**card, "used": 2}], "", [state]),
        ([{**card, "lost": "error 15"}], "", [state]),
        ([card], "", [spilled]),
        ([card], "", [spilled]),
        ([], "error 9", [down]),
        ([card], "", [down]),
    ):
        made.report(cards, why, states)
    assert capsys.readouterr().out.splitlines() == [
        "instance gpu0 has loaded: chat:latest",
        "card 0 GPU-a: lost: error 15",
        "card 0 GPU-a: well again",
        "instance gpu0 has loaded: chat:latest (1.0 of 5.0 GiB in host memory)",
        "driver: no figures: error 9",
        "instance gpu0: down: Connection refused",
        "instance gpu0 has loaded: nothing",
        "driver: well again",
    ]


# ------------------------------------------------------------------------------------- the files
def test_a_full_disk_leaves_no_torn_line(tmp_path: Path, monitor: Any) -> None:
    """A limit on the file's size makes writes end in the middle, as a full disk does."""
    path = tmp_path / "cards.csv"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    written = 0
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        for number in range(40):
            try:
                monitor.append(str(path), "n,text", [[number, "x" * 30]])
                written += 1
            except OSError:
                pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert 20 < written < 40, "some went in, some did not"
    monitor.append(str(path), "n,text", [[99, "after"]])
    lines = path.read_text().splitlines()
    assert lines == ["n,text", *(f"{number},{'x' * 30}" for number in range(written)), "99,after"]


def test_a_line_torn_by_a_power_cut_stays_alone(tmp_path: Path, monitor: Any) -> None:
    path = tmp_path / "cards.csv"
    path.write_text("n,text\n1,to")
    monitor.append(str(path), "n,text", [[2, "whole"]])
    assert path.read_text() == "n,text\n1,to\n2,whole\n"


def rotation(folder: Path, keep: int) -> Path:
    """ogen's own logrotate file, for a folder of the test."""
    from ogen.render.engine import Engine

    text = Engine().render("logrotate.j2", {"monitor": True, "balancers": [], "keep_days": keep}, None)
    text = text.replace("/var/log/ogen/monitor", str(folder)).replace("daily", "su root root\n    daily")
    path = folder / "logrotate.conf"
    path.write_text(text)
    path.chmod(0o644)
    return path


def logrotate(folder: Path, conf: Path, *, another_day: bool) -> None:
    """One run of the timer; of another day: for all that logrotate knows, the last rotation was yesterday."""
    state = folder / "state"
    if another_day and state.exists():
        yesterday = time.strftime("%Y-%m-%d-%H:%M:%S", time.localtime(time.time() - DAY - 3600))
        state.write_text(re.sub(r"\d{4}-\d+-\d+-\S+", yesterday, state.read_text()))
    done = subprocess.run(
        ["/usr/sbin/logrotate", "-s", state, conf], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def read_all(folder: Path, name: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The rows of each file, oldest first."""
    files = sorted(folder.glob(f"{name}-*"), key=lambda path: int(re.findall(r"\d{9,}", path.name)[-1]))
    for path in [*files, folder / name]:
        data = path.read_bytes() if path.exists() else b""
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
        if text:
            yield path.name, list(csv.DictReader(io.StringIO(text)))


def rotations(folder: Path) -> Callable[[], None]:
    """Names of rotated files end in the second: two rotations of one second are none."""
    last = [0]

    def wait() -> None:
        while int(time.time()) == last[0]:
            time.sleep(0.05)
        last[0] = int(time.time())

    return wait


@pytest.mark.skipif(os.geteuid() != 0, reason="logrotate wants its own user")
def test_a_day_of_samples_and_its_rotation(
    tmp_path: Path, monitor: Any, need: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    need("logrotate")
    folder = tmp_path / "log"
    folder.mkdir(mode=0o755)
    conf, anew = rotation(folder, 3), rotations(folder)
    config = json.loads(Path(settings(tmp_path, csv=str(folder))).read_text())
    made = monitor.Monitor(config)
    seen = {"gpu": 0, "uuid": "GPU-a", "name": "A", "driver": "550.1", "free": 2, "total": 3, "power": 20.5}
    model = {"name": "chat:latest", "size": 5, "vram": 5, "host": 0, "context": 1, "expires": ""}
    state = {"name": "gpu0", "ollama": "127.0.0.1:11434", "up": True, "version": "1", "models": [model]}
    turn = [0]
    made.cards.read = lambda: (
        [{**seen, "used": turn[0]}, {**seen, "gpu": 1, "uuid": "GPU-b", "used": 0}],
        "",
    )
    made.instances.read = lambda: [state]
    rounds = DAY // 5
    prom = tmp_path / "prom"
    prom.rmdir()  # the textfile is replaced each time: the last hour of that will do
    for turn[0] in range(rounds):
        now = NOON + 5 * turn[0]
        if now % 3600 == 0:  # more often than the timer
            midnight = now % DAY == 0
            if midnight:
                anew()
            logrotate(folder, conf, another_day=midnight)
        if turn[0] == rounds - 720:
            prom.mkdir()
        made.round(now)
    parts = dict(read_all(folder, "cards.csv"))
    assert len(parts) == 2, "rotated once, at midnight"
    half = rounds  # two cards, half a day
    assert [len(rows) for rows in parts.values()] == [half, half]
    rows = [row for part in parts.values() for row in part if row["gpu"] == "0"]
    assert [row["memory_used_bytes"] for row in rows] == [str(number) for number in range(rounds)]
    assert (rows[0]["time"], rows[-1]["time"]) == ("2027-01-15T12:00:00Z", "2027-01-16T11:59:55Z")
    assert sum(len(part) for _, part in read_all(folder, "models.csv")) == rounds
    found = samples((prom / "ogen.prom").read_text())
    assert found['ogen_gpu_memory_used_bytes{gpu="0",uuid="GPU-a"}'] == rounds - 1
    assert capsys.readouterr().out == "instance gpu0 has loaded: chat:latest\n"
    for day in range(1, 6):  # five days more: three old ones are kept, all but the newest compressed
        anew()
        logrotate(folder, conf, another_day=True)
        made.round(NOON + (day + 1) * DAY)
    names = sorted(path.name for path in folder.glob("cards.csv*"))
    assert len(names) == 4
    assert [name.endswith(".gz") for name in names] == [False, True, True, False]


@pytest.mark.skipif(os.geteuid() != 0, reason="logrotate wants its own user")
def test_a_file_that_grows_too_fast_is_rotated_before_the_day_is_over(
    tmp_path: Path, monitor: Any, need: Callable[[str], str]
) -> None:
    need("logrotate")
    folder = tmp_path / "log"
    folder.mkdir(mode=0o755)
    conf = rotation(folder, 14)
    assert "maxsize 50M" in conf.read_text()
    logrotate(folder, conf, another_day=False)
    for size, rotated in ((50 << 20, 0), ((50 << 20) + 1, 1)):
        monitor.append(str(folder / "cards.csv"), "n,text", [[1, "x"]])
        os.truncate(folder / "cards.csv", size)
        logrotate(folder, conf, another_day=False)
        assert len(list(folder.glob("cards.csv-*"))) == rotated
