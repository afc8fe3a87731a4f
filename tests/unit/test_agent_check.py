"""Check mode is true: on generated starting states, what a check predicts for a play is what then happens,
step by step, and what a step says is what the machine shows."""

from __future__ import annotations

import copy
import random
import stat
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import agents
import pytest
from test_agent_tasks import Box, Fake, Group

from ogen.agent import tasks
from ogen.agent.machine import Done
from ogen.agent.transaction import Locks

STATES = range(30)
NAMES = ("a", "b", "c")
PATHS = tuple(f"/srv/{name}" for name in NAMES) + tuple(f"/srv/{name}/x" for name in NAMES)
MODES = ("0644", "0600", "0755", None)
TEXTS = ("one\n", "two\n")


class Machine(Box):
    """Commands make what they are asked for; units come with packages of their name."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def touch(self, rest: list[str]) -> Done:
        (self.root / rest[0].lstrip("/")).touch()
        return Done(0, "")

    def apt_get(self, rest: list[str]) -> Done:
        done = super().apt_get(rest)
        for name in self.packages - {u.partition(".")[0] for u in self.units}:
            self.units[name + ".service"] = unit("loaded", "active", "enabled")
        for name in set(self.units) - {p + ".service" for p in self.packages}:
            del self.units[name]
        return done

    def run(self, command: Sequence[str], timeout: float = 60.0, stdin: str = "") -> Done:
        if command[:2] == ("dpkg-query", "-L"):
            return Done(0, "".join(f"/lib/systemd/system/{name}.service\n" for name in command[2:]))
        return super().run(command, timeout, stdin)

    def groupdel(self, rest: list[str]) -> Done:
        del self.groups[rest[-1]]
        return Done(0, "")


def unit(load: str, active: str, enabled: str) -> dict[str, str]:
    return {"LoadState": load, "ActiveState": active, "UnitFileState": enabled}


# -------------------------------------------------------------------------------- states and plays
def state(rng: random.Random, root: Path) -> Machine:
    """Files, folders and links below /srv; packages with their units; groups."""
    (root / "usr/sbin").mkdir(parents=True)
    for name in NAMES:
        place = root / "srv" / name
        place.parent.mkdir(exist_ok=True)
        kind = rng.choice(("nothing", "file", "folder", "full", "link"))
        if kind == "file":
            write(place, rng)
        elif kind in ("folder", "full"):
            place.mkdir(int(rng.choice(MODES) or "0700", 8) | 0o700)
            if kind == "full":
                write(place / "x", rng)
        elif kind == "link":
            place.symlink_to(rng.choice(("/srv/a", "b", "/nowhere")))
    box = Machine(root)
    box.packages = set(rng.sample(("web", "cache", "db"), rng.randrange(4)))
    for name in box.packages:
        enabled = rng.choice(("enabled", "disabled", "static", "masked"))
        load = "masked" if enabled == "masked" else "loaded"
        box.units[name + ".service"] = unit(load, rng.choice(("active", "inactive", "failed")), enabled)
    for name in rng.sample(("render", "video"), rng.randrange(3)):
        box.groups[name] = Group(name, 900 + len(box.groups), [])
    return box


def write(place: Path, rng: random.Random) -> None:
    place.write_text(rng.choice(TEXTS))
    place.chmod(int(rng.choice(MODES) or "0640", 8))


def play(rng: random.Random, box: Machine) -> list[tuple[str, dict[str, Any]]]:
    """Steps that often touch what an earlier one has made or taken away."""
    makers = (file, file, copied, packages, service, group, command, loose)
    steps: list[tuple[str, dict[str, Any]]] = []
    there = set(box.packages)
    while len(steps) < 10:
        module, args = rng.choice(makers)(rng)
        if module == "apt":
            there = there | {*args["name"]} if args["state"] == "present" else there - {*args["name"]}
        elif module == "systemd_service" and args["name"] not in there:
            continue  # no check knows which units a package brings that is not there yet
        steps.append((module, args))
    return steps


def file(rng: random.Random) -> tuple[str, dict[str, Any]]:
    args = {"path": rng.choice(PATHS), "state": rng.choice(("directory", "absent", "link", "file", "touch"))}
    if args["state"] == "link":
        return "file", {**args, "src": rng.choice(("/srv/a", "elsewhere"))}
    mode = rng.choice(MODES) if args["state"] != "absent" else None
    return "file", {**args, **({"mode": mode} if mode else {})}


def copied(rng: random.Random) -> tuple[str, dict[str, Any]]:
    args = {"dest": rng.choice(PATHS), "content": rng.choice(TEXTS), "force": rng.random() < 0.8}
    mode = rng.choice(MODES)
    return "copy", {**args, **({"mode": mode} if mode else {})}


def packages(rng: random.Random) -> tuple[str, dict[str, Any]]:
    wanted = rng.sample(("web", "cache", "db"), rng.randrange(1, 3))
    return "apt", {"name": wanted, "state": rng.choice(("present", "present", "absent"))}


def service(rng: random.Random) -> tuple[str, dict[str, Any]]:
    args: dict[str, Any] = {"name": rng.choice(("web", "cache", "db"))}
    for key, values in (("state", ("started", "stopped", "restarted")), ("enabled", (True, False))):
        if rng.random() < 0.7:
            args[key] = rng.choice(values)
    return "systemd_service", args if rng.random() < 0.8 else {**args, "masked": rng.random() < 0.5}


def group(rng: random.Random) -> tuple[str, dict[str, Any]]:
    return "group", {"name": rng.choice(("render", "video")), "state": rng.choice(("present", "absent"))}


def command(rng: random.Random) -> tuple[str, dict[str, Any]]:
    path = rng.choice(("/srv/made", "/usr/made"))
    return "command", {"argv": ["touch", path], "creates": path}


def loose(rng: random.Random) -> tuple[str, dict[str, Any]]:
    return "file", {"path": rng.choice(("/srv/made", "/usr/made")), "state": rng.choice(("file", "absent"))}


# ------------------------------------------------------------------------------------- the two runs
def shown(box: Machine) -> dict[str, Any]:
    """All that a step may change, without the agent's code."""
    found: dict[str, Any] = {}
    for place in sorted(box.root.rglob("*")):
        seen = place.lstat()
        kind = stat.S_IFMT(seen.st_mode)
        content = place.readlink() if place.is_symlink() else place.read_bytes() if place.is_file() else None
        found[str(place)] = (kind, None if place.is_symlink() else stat.S_IMODE(seen.st_mode), content)
    return found | copy.deepcopy({"packages": box.packages, "units": box.units, "groups": [*box.groups]})


def results(steps: list[tuple[str, dict[str, Any]]], host: Fake) -> list[dict[str, Any]]:
    """One by one, the next one after a failure too; each with whether the machine showed a change."""
    found: list[dict[str, Any]] = []
    for module, args in steps:
        before, ran = shown(host.machine), len(host.machine.ran)
        document = {"module": module, "args": args, "name": module, "notify": [], "handler": False}
        done = tasks.run({"steps": [document]}, lambda *_: None, host)["results"][0]
        moved = shown(host.machine) != before or any("restart" in words for words in host.machine.ran[ran:])
        found.append({"step": (module, args), **done, "moved": moved})
    return found


def lies(predicted: list[dict[str, Any]], done: list[dict[str, Any]]) -> list[str]:
    """Where a check said something else than what then happened."""
    found = []
    for one, other in zip(predicted, done, strict=True):
        keys = [key for key in ("changed", "failed", "diff") if one[key] != other[key]]
        told = [(key, one[key], other[key]) for key in keys]
        if told:
            found.append(f"{one['step']}: {told} ({one['msg']} / {other['msg']})")
    return found


def both(seed: int, folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rng = random.Random(seed)
    box = state(rng, folder / "root")
    steps = play(rng, box)
    before, ran = shown(box), len(box.ran)
    predicted = results(steps, Fake(True, str(box.root), box))
    assert (shown(box), len(box.ran)) == (before, ran), "a check changes nothing"
    return predicted, results(steps, Fake(False, str(box.root), box))


@pytest.mark.parametrize("seed", STATES)
def test_what_a_check_predicts_happens(seed: int, tmp_path: Path) -> None:
    predicted, done = both(seed, tmp_path)
    assert lies(predicted, done) == []
    for one in done:
        touched = one["step"][0] == "file" and one["step"][1].get("state") == "touch"
        assert one["failed"] or one["moved"] == one["changed"] or touched, one


@pytest.mark.parametrize("module", ["apt", "copy", "file", "systemd_service"])
def test_a_check_that_lies_is_caught(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a module whose check says that there is nothing to do."""
    real = tasks.MODULES[module]

    def liar(args: Any, host: Any) -> dict[str, Any]:
        done = real(args, host)
        return {**done, "changed": False} if host.check and not done["failed"] else done

    monkeypatch.setitem(tasks.MODULES, module, liar)
    assert any(lies(*both(seed, tmp_path / str(seed))) for seed in STATES)


def test_steps_after_a_commit_wait_until_its_service_lets_go(tmp_path: Path) -> None:
    host = agents.host(tmp_path)
    host.disk.folder("/etc/ogen")
    document = {"check": False, "who": "", "steps": []}
    held = Locks(host)
    held.take({"what": "commit"})
    refused = agents.ask(host, "steps", document=document)
    assert (refused["reply"], refused["kind"]) == ("error", "locked")
    threading.Timer(0.5, held.drop).start()
    assert agents.ask(host, "steps", document={**document, "patience": 10.0})["reply"] == "ok"
