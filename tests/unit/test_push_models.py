"""Where the hosts of a rollout get their models, and how many load at once; told before anything starts."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from registry import Registry

from ogen import push
from ogen.errors import ConnectError, Problems
from ogen.inventory import load
from ogen.inventory.model import Host
from ogen.plan import plan
from ogen.plan.model import Plan
from ogen.push.mirror import Mirror, mirror_of, origins_of, shelf_of
from ogen.push.results import Comparison, Target
from ogen.push.supplies import Origins, for_others
from ogen.push.turns import Turns
from ogen.release.model import ModelBuild, Release
from ogen.render import render

INVENTORY = """\
version: 1
{mirror}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: 8192, on: "gpu*"}}
hosts:
  gpu1: {{address: 192.0.2.11, gpus: [{{model: RTX 3090}}]}}
  gpu2: {{address: 192.0.2.12, gpus: [{{model: RTX 3090}}]}}
  box: {{address: 192.0.2.13}}
"""
SOURCE = "llama3.1:8b-instruct-q4_K_M"


def planned(folder: Path, mirror: str = "mirror: {host: box}") -> Plan:
    (folder / "inventory.yaml").write_text(INVENTORY.format(mirror=mirror))
    return plan(load(folder / "inventory.yaml"))


# ------------------------------------------------------------------------------------- turns
def test_only_so_many_load_at_once_and_who_waits_says_so() -> None:
    turns, said, order = Turns(2), [], threading.Semaphore(0)
    beats: list[int] = []
    for who in ("a", "b"):
        turns.take(who, said.append, lambda: None)
        turns.take(who, said.append, lambda: None)  # it has its turn already
    assert said == []

    def third() -> None:
        turns.take("c", said.append, lambda: beats.append(1))
        order.release()

    thread = threading.Thread(target=third)
    thread.start()
    assert not order.acquire(timeout=0.2)
    assert said == ["waits for its turn: 2 hosts load models at once (rollout.downloads)"]
    turns.end("nobody")
    turns.end("a")
    assert order.acquire(timeout=10)
    thread.join()
    turns.end("a")  # nothing: it has none any more
    assert not turns._free.acquire(blocking=False)


def test_who_waits_long_is_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ogen.push.turns.BEAT", 0.01)
    turns, beats = Turns(1), threading.Semaphore(0)
    turns.take("a", lambda text: None, lambda: None)
    thread = threading.Thread(target=turns.take, args=("b", lambda text: None, beats.release))
    thread.start()
    assert all(beats.acquire(timeout=10) for _ in range(3))
    turns.end("a")
    thread.join(10)
    assert not thread.is_alive()


# ------------------------------------------------------------------------------------- the rollout
class Contact:
    """A host that is asked to apply, and writes down what it was told."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.supplies: list[Mapping[str, Any]] = []

    def apply(self, *args: Any) -> Mapping[str, Any]:
        self.supplies.append(args[4])
        return {"from": None, "to": "new", "restarted": [], "leaving": [], "status": "applied"}


def target(name: str) -> Target:
    build = ModelBuild(f"ogen/chat:{name}", SOURCE, {"from": SOURCE}, 5_000)
    return Target(Host(name, name), Release(name, (), models=(build,)))


def seen(name: str, *sources: str, short: str = "") -> Comparison:
    room = {"need": 5_000, "free": 10, "folder": "/models", "sources": list(sources)} if sources else {}
    return Comparison(name, None, None, False, (), room=room, short=short)


def rollout(
    origins: Origins, found: Mapping[str, Comparison], monkeypatch: pytest.MonkeyPatch
) -> tuple[push.Rollout, dict[str, Contact], list[push.Event]]:
    told: list[push.Event] = []
    run = push.Rollout([target(name) for name in found], push.Options(), told.append, origins=origins)
    contacts = {name: Contact(Host(name, name)) for name in found}

    def look(self: push.Rollout, stack: object) -> None:
        self.seen, self.contacts = dict(found), dict(contacts)  # type: ignore[arg-type]

    monkeypatch.setattr(push.Rollout, "look", look)
    return run, contacts, told


class Ready(Mirror):
    """A mirror that serves at once, or does not."""

    @contextmanager
    def serving(self, sources: Mapping[str, int], *_: Any) -> Iterator[dict[str, Any]]:
        asked.append(dict(sources))
        if broken:
            raise ConnectError("no answer", host="box")
        yield {"mirror": "http://box", "host": "box", "origin": self.origin}
        asked.append({})


asked: list[dict[str, int]] = []
broken: list[bool] = []


@pytest.fixture
def ready() -> Mirror:
    asked.clear()
    broken.clear()
    return Ready(None, Host("box", "box"), 1, origin=False)  # type: ignore[arg-type]


def test_the_mirror_gets_what_others_lack_before_any_of_them_starts(
    ready: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"box": seen("box", SOURCE), "a": seen("a", SOURCE), "b": seen("b", "sha256:aa"), "c": seen("c")}
    run, contacts, _ = rollout(Origins(mirror=ready), found, monkeypatch)
    outcome = run.run()
    assert [r.status for r in outcome.results] == ["applied"] * 4
    assert asked == [{SOURCE: 5_000}, {}], "once, until the end"
    assert contacts["a"].supplies[0]["mirror"] == "http://box"
    assert contacts["box"].supplies == [{}], "it asks the registry"


def test_what_the_mirror_loads_for_others_alone() -> None:
    found = {"box": seen("box", "a"), "one": seen("one", "a", "b", "sha256:cc"), "two": seen("two", "b")}
    targets = [target(name) for name in (*found, "unseen")]
    assert for_others("box", targets, found) == {"b": 0}
    assert for_others("elsewhere", targets, found) == {"a": 0, "b": 0}
    found["two"] = found["one"] = replace(found["two"], unchanged=True)
    assert for_others("box", targets, found) == {}, "nothing is done there"


def test_a_mirror_that_nobody_needs_is_left_alone(ready: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"box": seen("box", SOURCE), "a": seen("a"), "b": seen("b", "sha256:aa")}
    run, _, _ = rollout(Origins(mirror=ready), found, monkeypatch)
    run.run()
    assert asked == []


def test_without_its_mirror_a_host_fails_before_anything_starts(
    ready: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken.append(True)
    run, contacts, _ = rollout(Origins(mirror=ready), {"a": seen("a", SOURCE), "b": seen("b")}, monkeypatch)
    a, b = run.run().results
    assert (a.status, contacts["a"].supplies) == ("failed", [])
    assert "its models come from the mirror: box: no answer" in str(a.error)
    assert "fallback: origin" in str(a.error and a.error.hint)
    assert b.status == "applied", "it lacks nothing"


def test_with_the_registries_to_fall_back_on_it_goes_on(
    ready: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken.append(True)
    origins = Origins(mirror=replace(ready, origin=True))
    run, contacts, told = rollout(origins, {"a": seen("a", SOURCE)}, monkeypatch)
    assert [r.status for r in run.run().results] == ["applied"]
    assert contacts["a"].supplies == [{}]
    assert any("hosts ask the registries" in event.message for event in told)


def test_a_disk_that_is_too_small_is_refused_at_the_first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"a": seen("a", SOURCE, short="its models need 9.0 GiB"), "b": seen("b")}
    run, contacts, _ = rollout(Origins(), found, monkeypatch)
    (a, _) = run.run().results
    assert (a.status, contacts["a"].supplies) == ("rolled_back", [])
    assert "refused before anything changed: its models need 9.0 GiB" in str(a.error)
    assert "--prune-models" in str(a.error and a.error.hint)


# ------------------------------------------------------------------------------------- a folder
def test_a_folder_gives_manifests_and_blobs_by_their_digests(tmp_path: Path) -> None:
    registry = Registry()
    registry.add(SOURCE, 5_000)
    registry.store(tmp_path / "models")
    made = planned(tmp_path, "mirror: {folder: models}")
    first, second, box = push.targets(made, render(made))
    ((source, digest),) = first.supply["folder"]
    assert source == SOURCE
    assert set(first.uploads) == {digest, *registry.blobs}
    assert Path(first.uploads[digest]).read_bytes() in registry.manifests.values()
    assert second.uploads == first.uploads
    assert box.supply["folder"] == []
    shelf = shelf_of(made)
    assert shelf
    assert shelf.lacks("gpu1", {SOURCE: 1}) is None
    blob = next(iter((tmp_path / "models/blobs").iterdir()))
    blob.write_bytes(b"short")
    error = shelf.lacks("gpu1", {SOURCE: 1})
    assert f"models/blobs/{blob.name} is not there, or not whole" in str(error)


def test_what_the_folder_does_not_have_fails_the_hosts_that_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = planned(tmp_path, "mirror: {folder: models}")
    assert push.targets(made, render(made))[0].supply["folder"] == []
    found = {"gpu1": seen("gpu1", SOURCE), "gpu2": seen("gpu2")}
    run, contacts, _ = rollout(origins_of(made), found, monkeypatch)
    one, _ = run.run().results
    assert one.status == "failed"
    assert f"{SOURCE} is not in mirror.folder: models/manifests/registry.ollama.ai" in str(one.error)
    assert "ollama pull" in str(one.error and one.error.hint)
    assert contacts["gpu1"].supplies == []
    falls = planned(tmp_path, "mirror: {folder: models, fallback: origin}")
    run, contacts, _ = rollout(origins_of(falls), found, monkeypatch)
    assert [r.status for r in run.run().results] == ["applied", "applied"]


def test_a_host_that_gives_models_is_in_the_plan(tmp_path: Path) -> None:
    made = planned(tmp_path)
    mirror = mirror_of(made)
    assert mirror
    assert mirror.supply() == {"mirror": "http://192.0.2.13:11432", "host": "box", "origin": False}
    assert shelf_of(made) is None
    assert origins_of(planned(tmp_path, "")) == Origins()


def test_where_a_folder_leads_is_no_matter_of_links(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "project/models").symlink_to(tmp_path / "models")
    with pytest.raises(Problems, match="outside of the project's folder"):
        planned(tmp_path / "project", "mirror: {folder: models}")
