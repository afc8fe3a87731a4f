"""Models that no release needs: which they are, in which order they go, what a kill in between leaves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from agents import ask

from ogen.agent import modelstore, pruning
from ogen.agent.disk import Disk
from ogen.agent.errors import AgentError
from ogen.agent.ledger import Ledger
from ogen.agent.machine import Done, Machine
from ogen.agent.modelstore import Shelf
from ogen.agent.transaction import Host

USER = ("root", "root")


class Quiet(Machine):
    """systemd, with nothing running but what a test says."""

    def __init__(self) -> None:
        self.active: set[str] = set()

    def run(self, command: Sequence[str], timeout: float = 60.0, stdin: str = "") -> Done:
        if command[:2] == ["systemctl", "show"] and "--value" not in command:
            names = command[command.index("--") + 1 :]
            states = ("active" if name in self.active else "inactive" for name in names)
            return Done(0, "\n\n".join(f"ActiveState={state}" for state in states))
        return Done(0, "")


class Site:
    """A host with releases and a store of models."""

    def __init__(self, folder: Path, before: Callable[[str], None] | None = None) -> None:
        (folder / "root/etc/ogen").mkdir(parents=True)
        disk = Disk(str(folder / "root"))
        disk.relocated = False  # a live host, but for where it lies
        self.host = Host(disk, Quiet())
        self.models = folder / "models"
        (self.models / "manifests").mkdir(parents=True, exist_ok=True)
        self.shelf = Shelf(str(self.models), *USER, before)

    def blob(self, text: str) -> modelstore.Blob:
        data = text.encode()
        found = modelstore.Blob("sha256:" + hashlib.sha256(data).hexdigest(), len(data))
        Shelf(str(self.models), *USER).keep(found, lambda at: iter([data[at:]]))
        return found

    def model(self, name: str, *texts: str, brought: bool = False) -> bytes:
        layers = [{"digest": b.digest, "size": b.size} for b in map(self.blob, texts)]
        manifest = json.dumps({"layers": layers}).encode()
        Shelf(str(self.models), *USER).name(name, manifest)
        if brought:
            Ledger(self.host.disk, str(self.models)).note([name], [])
        return manifest

    def release(self, name: str, *models: tuple[str, str], view: bytes = b"") -> None:
        """Models by name and source; the last one made is in force, the one before is the previous."""
        tree = Path(self.host.disk.real(f"/etc/ogen/releases/{name}/tree"))
        tree.mkdir(parents=True)
        views = []
        if view:
            (tree / "view").write_bytes(view)
            views = [{"path": "/etc/ogen/current/view", "model": "x"}]
        librarian = {"models_dir": str(self.models), "user": USER[0], "group": USER[1]}
        listed = [{"name": n, "source": s, "request": {}} for n, s in models]
        keys: dict[str, Any] = {"files": [], "units": [], "instances": [], "balancers": []}
        manifest = {**keys, "views": views, "models": listed, "librarian": librarian}
        (tree.parent / "manifest.json").write_text(json.dumps(manifest))
        if self.host.store.current:
            before = f"releases/{self.host.store.current}/tree"
            self.host.disk.symlink(before, "/etc/ogen/previous")
        self.host.disk.symlink(f"releases/{name}/tree", "/etc/ogen/current")

    def there(self) -> set[str]:
        return set(modelstore.manifests(str(self.models)))

    def blobs(self) -> set[str]:
        return {path.name for path in (self.models / "blobs").iterdir()}

    def whole(self) -> None:
        """Every name has its blobs."""
        for path in self.there():
            text = (self.models / "manifests" / path).read_bytes()
            for blob in modelstore.blobs_of(text):
                assert modelstore.has(str(self.models), blob.name, blob.size), path


def names(texts: Iterable[str]) -> set[str]:
    return {"sha256-" + hashlib.sha256(text.encode()).hexdigest() for text in texts}


OGEN, LIBRARY = "registry.ollama.ai/ogen/", "registry.ollama.ai/library/"


def grown(folder: Path, before: Callable[[str], None] | None = None) -> Site:
    """Three releases, of which the first is neither in force nor the one before."""
    site = Site(folder, before)
    site.model("llama3:8b", "old weights", "template", brought=True)
    site.model("ogen/chat:1", "old weights", "template", "params 1")
    site.model("qwen:7b", "weights", "template", brought=True)
    site.model("ogen/chat:2", "weights", "template", "params 2")
    view = site.model("ogen/chat:3", "weights", "template", "params 3")
    site.model("phi:3b", "somebody's own", "template")
    site.model("ogen/gone:1", "somebody's own", "gone")
    site.release("a", ("ogen/chat:1", "llama3:8b"))
    site.release("b", ("ogen/chat:2", "qwen:7b"))
    site.release("c", ("ogen/chat:3", "qwen:7b"), view=view)
    return site


GONE = {OGEN + "chat/1", OGEN + "gone/1", LIBRARY + "llama3/8b"}
KEPT = {OGEN + "chat/2", OGEN + "chat/3", LIBRARY + "qwen/7b", LIBRARY + "phi/3b"}
WEIGHTS = names(["weights", "template", "params 2", "params 3", "somebody's own"])


def test_only_what_ogen_brought_and_no_kept_release_uses_goes(tmp_path: Path) -> None:
    site = grown(tmp_path)
    listed = ask(site.host, "unused")
    assert set(listed["models"]) == {"ogen/chat:1", "ogen/gone:1", "llama3:8b"}
    assert listed["bytes"] == len("old weights" + "params 1" + "gone")
    assert site.there() == GONE | KEPT, "asking changes nothing"
    done = ask(site.host, "prune")
    assert (done["reply"], set(done["models"]), done["bytes"]) == (
        "ok",
        set(listed["models"]),
        listed["bytes"],
    )
    assert site.there() == KEPT
    assert site.blobs() == WEIGHTS
    again = ask(site.host, "prune")
    assert (again["models"], again["bytes"]) == ([], 0)


def test_a_source_that_somebody_pulled_anew_is_theirs(tmp_path: Path) -> None:
    site = grown(tmp_path)
    site.model("llama3:8b", "newer weights")
    assert set(ask(site.host, "prune")["models"]) == {"ogen/chat:1", "ogen/gone:1"}
    assert LIBRARY + "llama3/8b" in site.there()
    site.whole()


def test_what_a_broken_pull_left_goes_unless_it_came_since(tmp_path: Path) -> None:
    site = grown(tmp_path)
    folder = site.models / "blobs"
    half, ours, other = "sha256-" + "1" * 64, "sha256-" + "2" * 64, "sha256-" + "3" * 64
    for name in (half + "-partial", half + "-partial-0", ours + modelstore.PARTIAL, other + "-partial"):
        (folder / name).write_bytes(b"xx")
    Ledger(site.host.disk, str(site.models)).note([], [half.replace("-", ":"), *map(whole_of, ["weights"])])
    ask(site.host, "prune")
    assert site.blobs() == WEIGHTS | {other + "-partial"}, "what is not known to be ogen's stays"


def whole_of(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("unit", ["ogen-librarian-stage.service", "ogen-mirror.service"])
def test_nothing_goes_while_somebody_works(tmp_path: Path, unit: str) -> None:
    site = grown(tmp_path)
    machine = site.host.machine
    assert isinstance(machine, Quiet)
    machine.active.add(unit)
    answer = ask(site.host, "prune")
    assert f"no model is removed: {unit} is at work" in answer["message"]
    assert site.there() == GONE | KEPT


@pytest.mark.parametrize("path", [LIBRARY + "odd/latest", OGEN + "odd/1"])
def test_nothing_goes_where_a_manifest_can_t_be_read(tmp_path: Path, path: str) -> None:
    site = grown(tmp_path)
    odd = site.models / "manifests" / path
    odd.parent.mkdir(parents=True)
    odd.write_text("half a mani")
    answer = ask(site.host, "prune")
    assert "no model is removed" in answer["message"]
    assert str(path) in answer["message"]
    assert site.there() == GONE | KEPT | {path}


def test_nothing_goes_where_a_release_can_t_be_read(tmp_path: Path) -> None:
    site = grown(tmp_path)
    Path(site.host.disk.real("/etc/ogen/releases/b/manifest.json")).write_text("{")
    assert "can't be read" in ask(site.host, "prune")["message"]
    assert site.there() == GONE | KEPT


def test_a_view_keeps_its_blobs_though_the_name_is_gone_from_the_store(tmp_path: Path) -> None:
    site = grown(tmp_path)
    (site.models / "manifests" / OGEN / "chat/3").unlink()
    Ledger(site.host.disk, str(site.models)).note([], [whole_of("params 3")])
    ask(site.host, "prune")
    assert site.blobs() == WEIGHTS


def test_a_kill_at_any_change_leaves_no_name_without_its_blobs(tmp_path: Path) -> None:
    steps: list[str] = []
    last = 0
    for at in range(1, 60):
        steps.clear()

        def kill(step: str, at: int = at) -> None:
            steps.append(step)
            if len(steps) == at:
                raise KeyboardInterrupt

        site = grown(tmp_path / str(at), kill)
        gone = pruning.find(site.host, {"b", "c"})
        try:
            pruning.remove(site.host, gone, site.shelf)
        except KeyboardInterrupt:
            site.whole()
            assert site.there() >= KEPT
            ask(site.host, "prune")  # the next one ends it
            assert site.there() == KEPT, steps
            assert site.blobs() == WEIGHTS, steps
            last = at
        else:
            break
    assert last >= len(GONE) + 3
    kinds = [step.split()[0] for step in steps]
    assert kinds == sorted(kinds, key=["forget", "drop"].index), "names go before blobs"


def test_the_ledger_of_another_store_says_nothing_of_this_one(tmp_path: Path) -> None:
    site = grown(tmp_path)
    assert Ledger(site.host.disk, str(site.models)).sources
    other = Ledger(site.host.disk, "/somewhere/else")
    assert (other.sources, other.blobs) == ({}, set())


def test_what_can_t_be_told_is_not_listed(tmp_path: Path) -> None:
    site = grown(tmp_path)
    odd = site.models / "manifests" / LIBRARY / "odd/latest"
    odd.parent.mkdir(parents=True)
    odd.write_text("{")
    with pytest.raises(AgentError):
        pruning.find(site.host, {"c"})
    assert pruning.listed(site.host) == {"models": [], "bytes": 0}
