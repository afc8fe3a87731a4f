"""Models on many hosts: from a mirror that loads each once, from a folder of this machine, and away again."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from cluster import Commands, processes
from lab import Lab, lab
from registry import Registry, serving

from ogen import push
from ogen.inventory import load
from ogen.plan import plan
from ogen.push.mirror import mirror_of

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(600)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: {key}}}
ollama: {{version: 0.32.15}}
monitoring: {{enabled: false}}
mirror: {mirror}
models:
  chat: {{from: "{chat}", context: {context}, on: "{on}"}}
  rung: {{from: "llama3.2:3b-instruct-q4_K_M", on: gpu1, replicas: 2}}
hosts:
  gpu1:
    address: {gpu1}
    gpus: [{{model: RTX 3090, count: 2}}]
    instances: [{{gpus: [0], models: [rung], context: 8192}}, {{gpus: [1], models: [rung], context: {rung}}}]
  gpu2: {{address: {gpu2}, gpus: [{{model: RTX 3090}}]}}
  gpu3: {{address: {gpu3}, gpus: [{{model: RTX 3090}}]}}
  gpu4: {{address: {gpu4}, gpus: [{{model: RTX 3090}}]}}
rollout: {{batches: [100%], max_fail: 100%, downloads: {downloads}}}
"""
BOXES = ("gpu1", "gpu2", "gpu3", "gpu4")
OTHERS = BOXES[1:]
CHAT, RUNG = "llama3.1:8b-instruct-q4_K_M", "llama3.2:3b-instruct-q4_K_M"
KEPT, LARGE = "qwen2.5-coder:7b-instruct-q4_K_M", "qwen3:8b"
SIZE = 9_000_000
USUAL: dict[str, object] = {"mirror": "{host: gpu1}", "chat": CHAT, "context": 8192, "on": "gpu[2:4]"}
USUAL |= {"rung": 4096, "downloads": 4}
STORE = "/var/lib/ollama/models"
BARE = f"""
useradd --system --create-home --home-dir /usr/share/ollama --shell /bin/false ollama
install -d -o ollama -g ollama /var/lib/ollama {STORE} {STORE}/blobs
"""
NGINX = "apt-get -qq update; apt-get -qq -y install nginx >/dev/null; systemctl -q disable --now nginx"


@dataclass
class Fleet(Commands):
    """Four hosts: the first one is the mirror, and only it knows the way to the origin."""

    origin: Registry | None = None

    def sh(self, box: str, script: str, check: bool = True) -> str:
        return self.lab.sh(box, script, check=check)

    def change(self, **values: object) -> None:
        self.write(INVENTORY, **{**USUAL, **values})

    def sent(self) -> int:
        assert self.origin
        return self.origin.of_blobs()

    def context(self, box: str, port: int = 11434) -> int:
        found = json.loads(self.sh(box, f"curl -s http://127.0.0.1:{port}/api/ps"))["models"]
        return int(found[0]["context_length"])

    def answer(self, box: str, model: str, port: int = 11434) -> str:
        body = json.dumps({"model": model, "prompt": "hello", "stream": False})
        found = json.loads(self.sh(box, f"curl -s http://127.0.0.1:{port}/api/generate -d '{body}'"))
        assert found["done"]
        return str(found["response"])

    def store(self, box: str) -> list[str]:
        """Manifests of a box's store by their short paths."""
        script = f"cd {STORE}/manifests/registry.ollama.ai && find . -type f | sort"
        return [line[2:] for line in self.sh(box, script).splitlines()]

    def whole(self, box: str) -> None:
        """Every blob is what its name says, and its owner's."""
        script = f"cd {STORE}/blobs && sha256sum * && stat -c '%U:%G %a' *"
        lines = self.sh(box, script).splitlines()
        for line in lines:
            digest, _, name = line.partition("  ")
            assert line == "ollama:ollama 644" or name == f"sha256-{digest}", (box, line)
        assert "ollama:ollama 644" in lines


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with lab("mirror") as made:
        made.up("gpu1", gpus="24576,24576", ollama=True)
        made.up(*OTHERS, gpus="24576", ollama=True)
        for box in BOXES:
            made.sh(box, BARE)
        made.sh("gpu1", NGINX, timeout=300)
        with serving(gateway(made)) as origin:
            for name in (CHAT, RUNG):
                origin.add(name, SIZE)
            made.write("gpu1", "/etc/testbed/registry", origin.url)
            for box in OTHERS:  # who asks the origin by itself fails
                made.write(box, "/etc/testbed/registry", "http://127.0.0.1:9")
            found = Fleet(made, tmp_path_factory.mktemp("mirror"), boxes=BOXES, origin=origin)
            found.change()
            yield found


def gateway(made: Lab) -> str:
    """The control machine's address in the lab."""
    return made.address("gpu1").rpartition(".")[0] + ".1"


def large(fleet: Fleet, name: str) -> str:
    assert fleet.origin
    path = "/v2/library/" + name.replace(":", "/manifests/")
    layers = json.loads(fleet.origin.manifests[path])["layers"]
    return str(layers[0]["digest"])


# ------------------------------------------------------------------------------------- the mirror
def test_what_will_be_loaded_is_told_before_anything_starts(fleet: Fleet) -> None:
    assert fleet.origin
    said = fleet.ogen("apply", "--dry-run", code=2).stderr
    for box in BOXES:
        found = re.search(
            rf"note: {box}: 1 model to load, ([\d.]+) GiB; ([\d.]+) GiB are free in {STORE}", said
        )
        assert found, said
        assert float(found[1]) > 1
    assert re.search(r"note: gpu1, the mirror, has for others 1 model to load, 4\.\d GiB", said), said
    assert fleet.origin.asked == []


def test_the_origin_sends_each_model_once_for_four_hosts(fleet: Fleet) -> None:
    assert fleet.origin
    done = fleet.ogen("apply", "--yes")
    print(done.stderr)
    blobs = sum(blob.size for blob in fleet.origin.blobs.values())
    print(f"\nthe origin sent {fleet.sent()} bytes of {blobs}; hosts: {len(BOXES)}")
    assert fleet.sent() == blobs
    assert "gpu1: models: gives 1 model to the others" in done.stderr
    for box in OTHERS:
        assert fleet.answer(box, "chat")
        assert "library/llama3.1/8b-instruct-q4_K_M" in fleet.store(box)
        fleet.whole(box)
    assert fleet.answer("gpu1", "rung")
    assert fleet.sh("gpu1", "systemctl is-active ogen-mirror", check=False).strip() == "inactive"


PULL = """
export HOME=/root OLLAMA_MODELS=/root/pulled OLLAMA_HOST=127.0.0.1:9999
ollama serve >/dev/null 2>&1 & trap "kill $!" EXIT
timeout 20 sh -c 'until curl -s http://127.0.0.1:9999 >/dev/null; do sleep 0.1; done'
ollama pull {url}/library/{name} 2>&1
"""


def test_only_the_fleet_and_only_what_is_named_is_served(fleet: Fleet) -> None:
    private = "install -D -o ollama /dev/stdin {0}/manifests/registry.ollama.ai/library/private/latest"
    fleet.sh("gpu1", f"echo '{{}}' | {private.format(STORE)}")
    options = push.Options(push.Keyring(str(fleet.folder), (fleet.lab.known_hosts,)), who="test")
    mirror = mirror_of(plan(load(fleet.inventory)))
    assert mirror
    digest, other = large(fleet, CHAT), large(fleet, RUNG)
    chat = "/v2/library/llama3.1/manifests/8b-instruct-q4_K_M"
    with mirror.serving({CHAT: 0}, options, push.ignore) as supply:
        url = supply["mirror"]

        def ask(path: str, *more: str, box: str = "gpu2") -> str:
            told = "-w '%{http_code} %{size_download}'"
            command = f"curl -s -o /dev/null --connect-timeout 3 {told} {' '.join(more)}"
            return fleet.sh(box, f"{command} '{url}{path}'", check=False)

        blob = f"/v2/library/llama3.1/blobs/{digest}"
        assert ask(blob) == f"200 {SIZE}"
        assert ask(blob, "-I") == "200 0"
        assert ask(blob, "-H 'Range: bytes=1000-1999'") == "206 1000"
        assert ask(chat).startswith("200 ")
        assert ask(chat, "-X POST -d x").startswith("403 ")
        assert ask(blob, "-X DELETE").startswith("403 ")
        for path in (
            "/v2/library/private/manifests/latest",
            "/v2/library/llama3.2/manifests/3b-instruct-q4_K_M",
            f"/v2/library/llama3.2/blobs/{other}",
            f"/v2/library/llama3.1/blobs/{other}",
        ):
            assert ask(path).startswith("404 "), path
        for path in ("/", "/v2/", "/v2/library/llama3.1/blobs/", "/nginx.conf", "/v2/..%2f..%2fnginx.conf"):
            assert ask(path)[:3] in ("403", "404", "400"), path
        said = fleet.sh("gpu2", PULL.format(url=url, name=CHAT))
        assert "success" in said, "Ollama itself may pull from it"
        stranger = f"curl -s -o /dev/null --connect-timeout 2 -w '%{{http_code}}' '{url}{chat}'"
        assert local(stranger) == "000", "the control machine is no host of the inventory"
        score = fleet.sh("gpu1", "systemctl show -p User -p CapabilityBoundingSet ogen-mirror").split()
        assert score == ["CapabilityBoundingSet=", "User=ollama"]
    assert fleet.sh("gpu1", "systemctl is-active ogen-mirror", check=False).strip() == "inactive"
    assert fleet.sh("gpu1", "ls -d /run/ogen/mirror 2>/dev/null", check=False) == ""


def local(command: str) -> str:
    import subprocess

    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False).stdout


def test_a_corrupt_blob_is_noticed_and_nothing_comes_into_force(fleet: Fleet) -> None:
    path = f"{STORE}/blobs/{large(fleet, CHAT).replace(':', '-')}"
    fleet.sh(
        "gpu1", f"cp -p {path} /root/good; printf X | dd of={path} bs=1 seek=5000 conv=notrunc status=none"
    )
    fleet.sh("gpu2", f"rm -r {STORE}/manifests {path}")
    pids = processes(fleet.lab, "gpu2")
    fleet.change(context=6144)
    done = fleet.ogen("apply", "--yes", code=3)
    assert "another content than its name says" in done.stderr
    assert path.rpartition("/")[2] in done.stderr
    assert processes(fleet.lab, "gpu2") == pids
    assert fleet.context("gpu3") == 6144
    fleet.sh("gpu1", f"cp -p /root/good {path}")
    before = fleet.sent()
    fleet.ogen("apply", "--failed", "--yes")
    assert fleet.context("gpu2") == 6144
    assert fleet.sent() == before
    fleet.whole("gpu2")


# ------------------------------------------------------------------------------------- two rungs
def view(fleet: Fleet, instance: str) -> str:
    where = f"/etc/ogen/current/instances/{instance}/manifests/registry.ollama.ai/library/rung/latest"
    return fleet.sh("gpu1", f"sha256sum <{where}")


def test_one_of_two_rungs_changes_and_the_other_stays_as_it_was(fleet: Fleet) -> None:
    pids = dict(line.split() for line in processes(fleet.lab, "gpu1").splitlines())
    assert (fleet.context("gpu1"), fleet.context("gpu1", 11435)) == (8192, 4096)
    assert view(fleet, "gpu0") != view(fleet, "gpu1")
    before, other, said = view(fleet, "gpu0"), view(fleet, "gpu1"), fleet.answer("gpu1", "rung")
    done = json.loads(change(fleet, context=6144, rung=2048))
    (result,) = (host for host in done["hosts"] if host["host"] == "gpu1")
    assert result["restarted"] == ["ogen-ollama-gpu1.service"]
    now = dict(line.split() for line in processes(fleet.lab, "gpu1").splitlines())
    assert now["ogen-ollama-gpu0.service"] == pids["ogen-ollama-gpu0.service"]
    assert now["ogen-ollama-gpu1.service"] != pids["ogen-ollama-gpu1.service"]
    assert (fleet.context("gpu1"), fleet.context("gpu1", 11435)) == (8192, 2048)
    assert view(fleet, "gpu0") == before
    assert view(fleet, "gpu1") != other
    assert fleet.answer("gpu1", "rung") == said


def change(fleet: Fleet, **values: object) -> str:
    fleet.change(**values)
    return fleet.ogen("apply", "--yes", "--format", "json").stdout


# ------------------------------------------------------------------------------------- without any registry
def test_a_folder_of_the_control_machine_will_do(fleet: Fleet) -> None:
    fleet.lab.write("gpu1", "/etc/testbed/registry", "http://127.0.0.1:9")
    kept = Registry()
    kept.add(KEPT, SIZE)
    before = fleet.sent()
    kept.store(fleet.folder / "models")
    fleet.change(mirror="{folder: models}", chat=KEPT, rung=2048, downloads=1)
    done = fleet.ogen("apply", "--yes")
    assert done.stderr.count("waits for its turn: 1 host loads models at once") >= 1
    for box in OTHERS:
        assert fleet.answer(box, "chat")
        assert "library/qwen2.5-coder/7b-instruct-q4_K_M" in fleet.store(box)
        fleet.whole(box)
    assert fleet.sent() == before


def test_models_that_no_release_needs_go_when_asked(fleet: Fleet) -> None:
    old = "library/llama3.1/8b-instruct-q4_K_M"
    told = fleet.change(mirror="{folder: models}", chat=KEPT, rung=2048, context=4096)
    told = fleet.ogen("apply", "--yes").stderr
    assert re.search(
        r"note: gpu2 has \d models of 8.6 MiB \(.*llama3.1:8b.*\), which no release needs", told
    ), told
    assert old in fleet.store("gpu2")
    preview = fleet.ogen("apply", "--dry-run", "--prune-models", code=0).stderr
    assert "note: gpu2 would lose" in preview
    done = json.loads(fleet.ogen("apply", "--yes", "--prune-models", "--format", "json").stdout)
    assert done["pruned"]["gpu2"]["bytes"] > SIZE
    for box in BOXES:
        assert old not in fleet.store(box)
        fleet.whole(box)
        names = [path for path in fleet.store(box) if path.startswith("ogen/")]
        assert len(names) == (3 if box == "gpu1" else 2), names
    assert "library/private/latest" in fleet.store("gpu1")
    fleet.ogen("rollback", "--yes", "--limit", "gpu2")
    assert fleet.answer("gpu2", "chat")
    assert fleet.context("gpu2") == 8192


@pytest.mark.soak
def test_two_gigabytes_for_four_hosts(fleet: Fleet) -> None:
    """The fourth host is the mirror itself."""
    assert fleet.origin
    digest = fleet.origin.add(LARGE, 2_000_000_000)
    fleet.lab.write("gpu1", "/etc/testbed/registry", fleet.origin.url)
    fleet.change(chat=LARGE, rung=2048)
    begun = time.monotonic()
    fleet.ogen("apply", "--yes", timeout=1200)
    spent = time.monotonic() - begun
    sent = fleet.origin.sent[f"/v2/library/qwen3/blobs/{digest}"]
    print(f"\nthe origin sent {sent} bytes for {len(BOXES)} hosts; {spent:.0f} s")
    assert sent == 2_000_000_000
    for box in OTHERS:
        fleet.whole(box)
