"""Check mode on a box: on generated starting states, `ogen apply --dry-run` predicts just what the apply then
changes: the release's files, units and models, and what tasks do with files, apt and systemd."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster import Commands
from lab import lab

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(1800)]

STATES = 30
INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: key}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: {context}, replicas: 1}}
  coder: {{from: "qwen2.5-coder:7b-instruct-q4_K_M", context: {coder}, replicas: 1}}
hosts:
  one: {{address: {one}, gpus: [{{model: RTX 3090, count: 2}}]}}
balancers:
  api: {{hosts: [one], listen: 8080, max_fails: {fails}}}
"""
PACKAGES, SERVICES = ("jq", "redis-server"), ("demo.service", "redis-server.service")
DEMO = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
SYSTEMD = "/etc/systemd/system/"
UNIT = SYSTEMD + "ogen-ollama-gpu0.service"
TREE = "/etc/ogen/current/"
STORE = "/var/lib/ollama/models/manifests"
#: what may have happened to a box since the last apply
EDITS = (
    f"sed -i s/RestartSec=3/RestartSec=7/ {UNIT}",
    f"sed -i 's/max_fails=./max_fails=8/' {TREE}balancers/api/nginx.conf",
    f"echo '# mine' >>{TREE}models/chat.Modelfile",
    f"chmod 600 {TREE}monitor.json",
    f"chown nobody {TREE}bin/monitor.py",
    f"rm {TREE}bin/preload.py",
    f"rm {SYSTEMD}ogen.target.wants/ogen-balancer-api.service",
    f"rm {SYSTEMD}ogen-ollama-gpu1.service; cp {TREE}root{SYSTEMD}ogen-ollama-gpu1.service {SYSTEMD}",
    "systemctl stop ogen-ollama-gpu1.service",
    "systemctl stop ogen-monitor.service",
    "systemctl stop ogen-balancer-api.service",
    f"rm -r {STORE}/*/ogen",
)

Seen = dict[str, Any]


@dataclass
class Truth:
    """The same words for what was predicted, and for what was measured."""

    files: dict[str, str]
    restart: set[str]
    reload: set[str]
    stop: set[str]
    relink: set[str]
    models: int
    tasks: list[tuple[str, bool]]


# -------------------------------------------------------------------------------------- states and plays
def wish(rng: random.Random) -> dict[str, int]:
    return {
        "context": rng.choice((4096, 8192)),
        "coder": rng.choice((4096, 8192)),
        "fails": rng.choice((1, 2)),
    }


def start(rng: random.Random, *, apt: bool) -> str:
    """A script that brings the box into a state of its own."""
    lines = [
        "rm -rf /srv/check; mkdir /srv/check",
        "systemctl -q unmask demo; systemctl -q disable --now demo",
    ]
    lines += rng.sample(EDITS, rng.choice((0, 0, 1, 2, 4)))
    for command in ("systemctl -q enable demo", "systemctl -q start demo", "systemctl -q mask demo"):
        lines += [command] if rng.random() < 0.4 else []
    files = ("printf one >/srv/check/a", "mkdir -m 700 /srv/check/d", "ln -s /etc/hosts /srv/check/l")
    lines += [command for command in (*files, "chmod 600 /srv/check/a") if rng.random() < 0.6]
    if apt:
        for name in PACKAGES:
            action = rng.choice(("install --no-install-recommends", "remove"))
            lines.append(f"DEBIAN_FRONTEND=noninteractive apt-get -qq -y {action} {name} >/dev/null")
    return "\n".join(line + " || true" for line in lines)


def play(rng: random.Random, *, apt: bool) -> list[dict[str, Any]]:
    """A play of the project: tasks before the release and after it."""
    tasks: list[dict[str, Any]] = []
    if apt:
        for name in PACKAGES:
            state = rng.choice(("present", "absent"))
            tasks.append(task(f"{state} {name}", "apt", name=[name], state=state))
            if name == "redis-server" and state == "present" and rng.random() < 0.7:
                settings = {"state": rng.choice(("started", "stopped")), "enabled": rng.random() < 0.5}
                tasks.append(task("redis", "systemd_service", name=name, **settings))
    masked = rng.random() < 0.5
    tasks.append(task("mask", "systemd_service", name="demo", masked=masked))
    if not masked:
        state, enabled = rng.choice(("started", "stopped")), rng.random() < 0.5
        tasks.append(task("demo", "systemd_service", name="demo", state=state, enabled=enabled))
    tasks.append(task("folder", "file", path="/srv/check/d", state="directory", mode="0755"))
    tasks.append(task("in it", "copy", dest="/srv/check/d/x", content=rng.choice(("one", "two"))))
    release = {"src": "{{ ogen_release }}", "state": "present"}
    tasks.append({"name": "release", "ogen.fleet.release": release})
    tasks.append(task("copy", "copy", dest="/srv/check/a", content="one", mode=rng.choice(("0644", "0600"))))
    tasks.append(task("link", "file", path="/srv/check/l", state="link", src=rng.choice(("/etc/hosts", "a"))))
    tasks.append(task("gone", "file", path="/srv/check/d/x", state=rng.choice(("absent", "file"))))
    return tasks


def task(title: str, module: str, **args: object) -> dict[str, Any]:
    return {"name": title, f"ansible.builtin.{module}": args}


# ----------------------------------------------------------------------------- predicted and measured
def predicted(box: Commands) -> Truth:
    told = json.loads(box.ogen("apply", "--dry-run", "--format", "json", code=None).stdout)
    assert not told["errors"], told["errors"]
    items: dict[str, set[str]] = {}
    for change in told["changes"]:
        if change["what"] != "file":
            items.setdefault(change["what"], set()).add(change["name"])
    return Truth(
        files={c["path"]: c["kind"] for c in told["changes"] if c["what"] == "file"},
        restart=items.get("restart", set()),
        reload=items.get("reload", set()),
        stop=items.get("stop", set()),
        relink=items.get("relink", set()),
        models=len(items.get("model", ())),
        tasks=[(step["name"], step["changed"]) for step in told["tasks"]],
    )


def look(box: Commands) -> Seen:
    script = Path(__file__).with_name("check_box.py").read_text()
    said = box.lab.exec("one", "python3", "-S", "-c", script, ",".join(PACKAGES), ",".join(SERVICES))
    return dict(json.loads(said))


def measured(
    before: dict[str, Any], after: dict[str, Any], done: list[dict[str, Any]], intact: set[str]
) -> Truth:
    """What the machine shows of an apply; `intact`: the links of the release before, when it was applied."""
    files = {}
    for path in {*before["files"], *after["files"]}:
        old, new = before["files"].get(path), after["files"].get(path)
        if old != new:
            files[path] = "added" if old is None else "removed" if new is None else "changed"
    restart, reload = set(), set()
    for name, unit in after["units"].items():
        old = before["units"].get(name, {})
        if unit["ActiveState"] != "active" or unit.get("Type") == "oneshot":
            continue
        if unit["InvocationID"] != old.get("InvocationID") or old.get("ActiveState") != "active":
            restart.add(name)
        elif unit.get("workers") != old.get("workers"):
            reload.add(name)
    was_up = {name for name, unit in before["units"].items() if unit["ActiveState"] == "active"}
    relink = {path for path in intact - {*before["links"]} if path in after["links"]}
    return Truth(
        files,
        restart,
        reload,
        was_up - {*after["units"]},
        relink,
        len({*after["models"]} - {*before["models"]}),
        [(step["name"], step["changed"]) for step in done],
    )


def disagreements(one: Truth, other: Truth) -> list[str]:
    pairs = [(name, getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__]
    return [f"{name}: predicted {told}, measured {seen}" for name, told, seen in pairs if told != seen]


def shown_by_tasks(before: Seen, after: Seen) -> set[str]:
    """Which tasks the machine shows to have changed something."""
    moved = {*before["packages"]} ^ {*after["packages"]}
    return {f"package {name}" for name in moved}


def told_of_packages(tasks: list[tuple[str, bool]]) -> set[str]:
    return {
        f"package {n.split()[1]}" for n, changed in tasks if changed and n.split()[0] in ("present", "absent")
    }


# -------------------------------------------------------------------------------------------- the box
@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with lab("check") as made:
        made.up("one", gpus="24576,24576", ollama=True)
        made.write("one", "/lib/systemd/system/demo.service", DEMO)
        made.write("one", "/etc/testbed/ollama.json", json.dumps({"load_ms": 100, "pull_ms": 100}))
        made.sh("one", "systemctl daemon-reload")
        project = Commands(made, tmp_path_factory.mktemp("project"), boxes=("one",))
        project.write(INVENTORY, context=8192, coder=8192, fails=2)
        project.ogen("provision")
        project.ogen("apply", "--yes")
        yield project


def compare(box: Commands, seed: int, *, apt: bool) -> tuple[Truth, Truth]:
    """One generated state: predicts, applies, measures."""
    rng = random.Random(seed)
    intact = {*look(box)["links"]}
    box.lab.sh("one", start(rng, apt=apt))
    box.write(INVENTORY, **wish(rng))
    path = box.folder / "playbooks/apply.yaml"
    path.parent.mkdir(exist_ok=True)
    tasks = play(rng, apt=apt)
    path.write_text(json.dumps([{"hosts": "all", "become": True, "gather_facts": False, "tasks": tasks}]))
    before = look(box)
    told = predicted(box)
    again = look(box)
    for what in ("files", "srv", "services", "packages", "links", "models"):
        assert again[what] == before[what], "a check changes nothing"
    done = json.loads(box.ogen("apply", "--format", "json").stdout)["hosts"][0]
    after = look(box)
    found = measured(before, after, done["steps"], intact)
    assert told_of_packages(told.tasks) == shown_by_tasks(before, after)
    changed = any(changed for _, changed in told.tasks)
    moved = any(before[key] != after[key] for key in ("packages", "services", "srv"))
    assert changed or not moved, "what no task was to change has changed"
    return told, found


@pytest.mark.parametrize("seed", [1])
def test_predicted_changes_happen(box: Commands, seed: int) -> None:
    told, found = compare(box, seed, apt=False)
    assert disagreements(told, found) == []


def test_a_wrong_prediction_is_caught(box: Commands) -> None:
    """The control: each word of a prediction, left out or made up, disagrees."""
    told, found = compare(box, 4, apt=False)
    assert disagreements(told, found) == []
    for name in ("restart", "reload", "stop", "relink"):
        assert disagreements(Truth(**{**vars(told), name: {*getattr(told, name), "x"}}), found)
    assert disagreements(Truth(**{**vars(told), "files": told.files | {"/x": "added"}}), found)
    assert disagreements(Truth(**{**vars(told), "models": told.models + 1}), found)
    flipped = [(name, not changed) for name, changed in told.tasks]
    assert disagreements(Truth(**{**vars(told), "tasks": flipped}), found)


@pytest.mark.soak
def test_predicted_changes_happen_on_many_states(box: Commands) -> None:
    wrong, seen = [], dict.fromkeys(("files", "restart", "reload", "stop", "relink", "models", "tasks"), 0)
    box.lab.sh("one", "apt-get -qq update")
    for seed in range(100, 100 + STATES):
        told, found = compare(box, seed, apt=True)
        wrong += [f"state {seed}: {one}" for one in disagreements(told, found)]
        print(f"\nstate {seed}: {told}", *wrong[-1:], flush=True)
        for name in seen:
            value = getattr(told, name)
            changed = [one for one in value if one[1]] if name == "tasks" else value
            seen[name] += changed if isinstance(changed, int) else len(changed)
    print(f"\n{STATES} states, predicted and seen: " + ", ".join(f"{n} {word}" for word, n in seen.items()))
    assert wrong == []
