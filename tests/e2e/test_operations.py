"""What operators do to two boxes that serve and balance: shrink, edit, remove, reboot, roll back."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from cluster import Answers, Commands, Project, ask, load
from lab import lab

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(600)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: key}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: {context}, replicas: {replicas}}}
{models}
hosts:
  left: {{address: {left}, gpus: [{{model: RTX 3090, count: 2}}]}}
  right: {{address: {right}, gpus: {gpus}}}
balancers:
  api: {{hosts: [left, right], listen: 8080}}
  locked: {{hosts: [right], listen: 8081, keys: !file secrets/keys.yaml}}
  inside: {{hosts: [left], listen: 8082, into: conf.d, routing: single, pool: chat}}
"""
AS_USUAL: dict[str, object] = {
    "context": 8192,
    "replicas": "fill",
    "models": "",
    "gpus": "[{model: RTX 3090, count: 2}]",
}
KEY = "sk-operator-0123456789abcdef"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Two boxes with two cards each, both of them balancers too; the tests below leave them serving."""
    with lab("operate") as made:
        made.up("left", "right", gpus="24576,24576", ollama=True)
        project = Commands(made, tmp_path_factory.mktemp("project"), boxes=("left", "right"))
        secrets = project.folder / "secrets"
        secrets.mkdir()
        (secrets / "keys.yaml").write_text(f"operator: {KEY}\n")
        (secrets / "keys.yaml").chmod(0o600)
        project.write(INVENTORY, **AS_USUAL)
        project.ogen("provision")
        project.ogen("apply", "--yes")
        yield project


def change(project: Project, **values: object) -> None:
    project.write(INVENTORY, **{**AS_USUAL, **values})


def url(project: Project, box: str = "left", port: int = 8080) -> str:
    return f"http://{project.lab.address(box)}:{port}"


def serves(project: Project, instances: int = 4) -> None:
    """Both balancers, and the one in the machine's own nginx, reach every instance."""
    time.sleep(0.1)
    for where in (url(project), url(project, "right"), url(project, "left", 8082)):
        answers = load(where, 6 * instances)
        assert not answers.failed, where
        assert len(answers.served) == instances, f"{where}: {answers.served}\n{kept_away(project)}"


def kept_away(project: Project) -> str:
    """What the balancers have down, and why."""
    script = (
        "cat /run/ogen/leases.json; curl -s --unix-socket /run/ogen-balancer-api/release.sock http://x/down;"
        "journalctl -u ogen-leases -u ogen-balancer-api -o short-precise --no-pager | tail -20"
    )
    return "\n".join(f"{box}: {project.lab.sh(box, script, check=False)}" for box in ("left", "right"))


def meanwhile(project: Project, work: Callable[[], object]) -> Answers:
    """At least 100 requests while `work` is done, and some after it."""
    done = threading.Event()
    parts: list[Answers] = []

    def send() -> None:
        while not done.is_set() or len(parts) < 4:
            parts.append(load(url(project), 25, width=4))
        parts.append(load(url(project), 25, width=4))

    sender = threading.Thread(target=send)
    sender.start()
    try:
        work()
    finally:
        done.set()
        sender.join(120)
    return Answers(
        sum((p.served for p in parts), start=parts[0].served.__class__()),
        [why for p in parts for why in p.failed],
    )


def wait_for(project: Project, where: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            ask(where, timeout=5)
            return
        except OSError:
            assert time.monotonic() < end, f"{where} does not come back"
            time.sleep(0.5)


def test_boxes_that_list_each_other_start_together(pair: Project) -> None:
    serves(pair)
    pair.ogen("diff", code=0)


def test_keys_are_asked_for_and_shown_nowhere(pair: Project) -> None:
    def status(**headers: str) -> int:
        request = urllib.request.Request(url(pair, "right", 8081) + "/api/tags", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert (status(), status(Authorization="Bearer wrong")) == (401, 401)
    assert status(Authorization=f"Bearer {KEY}") == 200
    rendered = pair.folder / "rendered"
    pair.ogen("render", "-o", str(rendered))
    assert not [p for p in rendered.rglob("*") if p.is_file() and KEY in p.read_text()]


def test_a_card_goes_out_and_comes_back_without_a_failed_request(pair: Project) -> None:
    change(pair, gpus="[{model: RTX 3090}, {model: RTX 3090, state: out, reason: fan}]")
    answers = meanwhile(pair, lambda: pair.ogen("apply", "--yes"))
    assert not answers.failed
    serves(pair, 3)
    listed = "systemctl list-units --all --plain --no-legend 'ogen*gpu1*'; systemctl --failed --no-legend"
    assert pair.lab.sh("right", listed).strip() == ""
    change(pair)
    assert not meanwhile(pair, lambda: pair.ogen("apply", "--yes")).failed
    serves(pair)


def test_two_cards_become_one_instance_and_two_again(pair: Project) -> None:
    """The host can't wait for the balancers that wait for it, and its new instance needs both cards."""
    model = '  big: {from: "llama3.1:70b-instruct-q4_K_M", context: 4096, replicas: 1, on: right}'
    change(pair, models=model)
    answers = meanwhile(pair, lambda: pair.ogen("apply", "--yes"))
    assert not answers.failed
    who, _ = ask(url(pair), "big")
    assert who.count("GPU-") == 2
    change(pair)
    pair.ogen("apply", "--yes")
    serves(pair)


def test_edits_on_the_host_are_shown_and_put_right(pair: Project) -> None:
    unit = "/etc/systemd/system/ogen-ollama-gpu0.service"
    pair.lab.sh(
        "right",
        f"sed -i s/RestartSec=3/RestartSec=77/ {unit};"  # makes a file of the link
        "sed -i s/least_conn/ip_hash/ /etc/ogen/current/balancers/api/nginx.conf;"
        "rm -r /etc/ogen/current/instances/gpu1/manifests/*",
    )
    shown = pair.ogen("diff", code=2).stdout
    assert f"changed {unit} (edited on the host; apply puts it back; a file stands in place" in shown
    assert "-RestartSec=77" in shown
    assert "-        ip_hash;" in shown
    pair.ogen("apply", "--yes")
    pair.ogen("diff", code=0)
    serves(pair)
    assert "RestartSec=3\n" in pair.lab.sh("right", f"systemctl cat {unit.rsplit('/', 1)[1]}")
    assert "RestartSec=77\n" in pair.lab.sh("right", f"cat /etc/ogen/edited{unit}")


def test_all_of_ogens_folder_is_removed(pair: Project) -> None:
    """What runs has bound folders that are gone: it must not pass for what is wanted."""
    pair.lab.sh("right", "rm -rf /etc/ogen")
    pair.ogen("diff", code=2)
    pair.ogen("apply", "--yes")
    pair.ogen("diff", code=0)
    serves(pair)


def test_another_version_of_ollama_is_said(pair: Project) -> None:
    said = "Ollama {} runs here, and the inventory is for ollama.version {}"
    pair.lab.write("right", "/etc/testbed/ollama-version", "0.31.0\n")
    change(pair, context=4096)
    try:
        assert said.format("0.31.0", "0.32.15") in pair.ogen("apply", "--yes").stdout
    finally:
        pair.lab.sh("right", "rm -f /etc/testbed/ollama-version; systemctl restart 'ogen-ollama-*'")
    change(pair, gpus=f"{AS_USUAL['gpus']}, ollama: {{version: 0.9.6}}")
    refused = pair.ogen("apply", "--yes", code=6).stderr
    assert said.format("0.32.15", "0.9.6") in refused  # the cause, beside what came of it
    change(pair)
    pair.ogen("apply", "--yes")
    serves(pair)


def test_a_reboot_needs_nobody(pair: Project) -> None:
    pair.lab.sh("left", "systemctl --no-block reboot", check=False)
    time.sleep(3)
    wait_for(pair, url(pair))
    wait_for(pair, url(pair, "left", 8082))
    time.sleep(12)  # nginx on the right tries the left one again
    assert pair.lab.sh("left", "systemctl --failed --no-legend").strip() == ""
    assert '"name":"chat:latest"' in pair.lab.sh("left", "curl -s http://127.0.0.1:11434/api/ps")
    serves(pair)
    pair.ogen("diff", code=0)


def test_rollback_of_both_and_back_again(pair: Project) -> None:
    def in_force() -> list[str]:
        return [pair.lab.sh(box, "readlink /etc/ogen/current") for box in ("left", "right")]

    change(pair)
    pair.ogen("apply", "--yes")
    first = in_force()
    change(pair, replicas=1)
    pair.ogen("apply", "--yes")
    second = in_force()
    pair.ogen("rollback", "--yes")
    assert in_force() == first
    serves(pair)
    pair.ogen("rollback", "--yes")
    assert in_force() == second
    assert "rollback" in pair.ogen("history").stdout
