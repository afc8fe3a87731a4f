"""Models before the flip, with a running stand-in and a registry that breaks off: what comes, how often."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from registry import Blob, Registry, serving

from ogen.agent import librarian, modelstore, parts, pulling, supply
from ogen.agent.errors import AgentError, Refused
from ogen.agent.machine import Done, Machine

STANDIN = Path(__file__).parents[1] / "testbed" / "ollama"
SOURCE = "llama3:8b"
SIZE = 3_000_000
Told = list[tuple[str, float | None]]


class Bench(Machine):
    """A machine whose systemd-run starts the stand-in as a process."""

    def __init__(self, folder: Path, registry: str) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.env = {
            "PATH": f"{Path(sys.executable).resolve().parent}:/usr/bin:/bin",
            "HOME": str(folder),
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_MODELS": str(folder / "models"),
            "OLLAMA_NOPRUNE": "1",
            "FAKE_OLLAMA_ETC": str(folder / "etc"),
            "FAKE_OLLAMA_REGISTRY": registry,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self.waited: list[float] = []
        self.between: Callable[[], None] = lambda: None  # what happens while it waits

    def run(self, command: Sequence[str], timeout: float = 60.0, stdin: str = "") -> Done:
        if command[:2] == ["systemctl", "stop"]:
            self.end()
        elif command[0] == "systemd-run" and command[-1] == "serve":
            self.starts += 1
            log = (self.folder / "log").open("ab")
            self.process = subprocess.Popen([STANDIN, "serve"], env=self.env, stderr=log)
        return Done(0, "")

    def end(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(5)
            self.process = None

    def wait(self, seconds: float) -> None:
        if seconds < 1:
            time.sleep(seconds)
            return
        self.waited.append(seconds)
        self.between()


class Given(supply.Supply):
    """A supply without a session: files of the controller lie in a folder."""

    def __init__(self, machine: Machine, plan: supply.Plan = supply.Plan(), files: Any = None) -> None:  # noqa: B008
        super().__init__(None, plan, machine)  # type: ignore[arg-type]
        self.turns: list[int] = []
        self.files: dict[str, bytes] = files or {}

    def turn(self, need: int) -> None:
        self.turns.append(need)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as made:
        yield made


@pytest.fixture
def bench(tmp_path: Path, registry: Registry) -> Iterator[Bench]:
    made = Bench(tmp_path, registry.url)
    yield made
    made.end()


def manifest(bench: Bench, *models: dict[str, Any]) -> dict[str, Any]:
    where = {"models_dir": str(bench.folder / "models"), "port": bench.port, "user": "root", "group": "root"}
    return {"models": list(models), "librarian": where}


def model(name: str = "ogen/chat:1", source: str = SOURCE, **more: Any) -> dict[str, Any]:
    request = {"from": source, "parameters": {"num_ctx": 4096}}
    return {"name": name, "source": source, "request": request, "size": SIZE, **more}


UNIT = "[Service]\nExecStart=/usr/local/bin/ollama serve\n"


class Run:
    """One run of the librarian's work."""

    def __init__(self, bench: Bench, wish: dict[str, Any], given: Given | None = None) -> None:
        self.told: Told = []
        self.noted: list[tuple[list[str], set[str]]] = []
        self.given = given or Given(bench)
        self.made = librarian.provide(
            bench, wish, UNIT, self.given, lambda *line: self.told.append(line),
            lambda sources, blobs: self.noted.append((sources, blobs)),
        )  # fmt: skip

    @property
    def texts(self) -> str:
        return "\n".join(text for text, _ in self.told)


# ------------------------------------------------------------------------------------- from a registry
def test_each_source_comes_once_for_all_its_models(bench: Bench, registry: Registry) -> None:
    large = registry.add(SOURCE, SIZE)
    run = Run(bench, manifest(bench, model(), model("ogen/chat:2")))
    assert run.made == ["ogen/chat:1", "ogen/chat:2"]
    assert registry.sent[f"/v2/library/llama3/blobs/{large}"] == SIZE
    assert run.noted == [([SOURCE], set())]
    assert run.given.turns == [SIZE]
    assert max(percent or 0 for _, percent in run.told) == 100.0
    assert all(text.startswith("model ") for text, _ in run.told)
    assert bench.process is None, "the librarian runs only for this"
    assert Run(bench, manifest(bench, model())).made == []


def test_a_pull_that_breaks_off_goes_on_where_it_was(bench: Bench, registry: Registry) -> None:
    large = registry.add(SOURCE, SIZE)
    registry.cut[large] = [1_500_000, 500_000, 500_000]  # Ollama itself tries twice: it gives up once
    run = Run(bench, manifest(bench, model()))
    assert registry.sent[f"/v2/library/llama3/blobs/{large}"] == SIZE
    assert bench.waited == [1.0]
    assert "again in 1 s, from where it broke off" in run.texts


def test_a_librarian_that_died_is_started_again_and_goes_on(bench: Bench, registry: Registry) -> None:
    large = registry.add(SOURCE, SIZE)
    registry.cut[large] = [1_500_000, 1_000]
    bench.between = bench.end
    Run(bench, manifest(bench, model()))
    assert bench.starts == 2
    assert registry.sent[f"/v2/library/llama3/blobs/{large}"] == SIZE


def test_tries_are_bounded_and_what_came_is_kept(bench: Bench, registry: Registry) -> None:
    large = registry.add(SOURCE, SIZE)
    registry.cut[large] = [1_000_000, *[0] * 20]
    noted: list[set[str]] = []
    with pytest.raises(AgentError, match="tried 5 times; apply again, it goes on where it is"):
        librarian.provide(
            bench, manifest(bench, model()), UNIT, Given(bench), lambda *_: None,
            lambda sources, blobs: noted.append(blobs),
        )  # fmt: skip
    assert bench.waited == list(pulling.PAUSES)
    assert len(noted) == 1
    assert large in noted[0], "what is half there is known to be ogen's"
    registry.cut.clear()
    Run(bench, manifest(bench, model()))
    assert registry.sent[f"/v2/library/llama3/blobs/{large}"] == SIZE


@pytest.mark.parametrize("name", ["gone:8b", "library/gone:8b"])
def test_what_is_not_there_is_asked_for_once(bench: Bench, registry: Registry, name: str) -> None:
    with pytest.raises(AgentError, match="does not exist") as caught:
        Run(bench, manifest(bench, model(source=name)))
    assert "inventory" in str(caught.value.hint)
    assert bench.waited == []


@pytest.mark.parametrize(
    ("text", "again"),
    [
        ("max retries exceeded: unexpected EOF", True),
        ("read tcp 192.0.2.1:443: connection reset by peer", True),
        ("dial tcp: lookup registry.ollama.ai: i/o timeout", True),
        ("dial tcp: lookup registry.ollama.ai: no such host", False),
        ("pull model manifest: file does not exist", False),
        ("write /var/lib/ollama/models/blobs/x: no space left on device", False),
    ],
)
def test_only_what_may_pass_is_tried_again(text: str, again: bool) -> None:
    assert pulling.passing(AgentError("pull x: " + text)) == again


def test_room_is_checked_before_anything_starts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    wish = manifest(bench, model(size=40 << 30), model("ogen/chat:2", size=40 << 30))
    monkeypatch.setattr("ogen.agent.machine.free_bytes", lambda path: 30 << 30)
    seen = librarian.room(wish)
    assert (seen["need"], seen["free"], seen["sources"]) == (40 << 30, 30 << 30, [SOURCE])
    with pytest.raises(Refused, match=r"need 40\.0 GiB in .*/models, 30\.0 GiB are free") as caught:
        Run(bench, wish)
    assert "--prune-models" in str(caught.value.hint)
    assert bench.starts == 0
    monkeypatch.setattr("ogen.agent.machine.free_bytes", lambda path: 42 << 30)
    assert librarian.short(librarian.room(wish)) == ""


# ------------------------------------------------------------------------------------- into the store
def sent_from(registry: Registry, cut: int | None = None) -> Callable[..., Any]:
    """As `parts.fetch`: blobs and manifests of a registry, as if they lay with the controller."""
    texts = {"sha256:" + hashlib.sha256(text).hexdigest(): text for text in registry.manifests.values()}
    held = {**registry.blobs, **{digest: Blob(text, len(text)) for digest, text in texts.items()}}

    def fetch(session: object, digest: str, at: int = 0) -> tuple[int, Iterator[bytes]]:
        registry.asked.append(f"{digest} {at}")
        blob = held[digest]

        def content() -> Iterator[bytes]:
            done = at
            for part in blob.parts(at):
                if cut is not None and blob.size > cut and done >= cut:
                    raise AgentError("the file did not come whole")
                done += len(part)
                registry.sent[digest] += len(part)
                yield part

        return blob.size, content()

    return fetch


def kept(registry: Registry) -> supply.Plan:
    (text,) = registry.manifests.values()
    return supply.Plan(folder=((SOURCE, "sha256:" + hashlib.sha256(text).hexdigest()),))


def test_a_folder_of_the_controller_gives_models_without_any_registry(
    bench: Bench, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = registry.add(SOURCE, SIZE)
    monkeypatch.setattr(parts, "fetch", sent_from(registry, cut=2 << 20))
    bench.env["FAKE_OLLAMA_REGISTRY"] = "http://127.0.0.1:9"
    given = Given(bench, kept(registry))
    with pytest.raises(AgentError, match="did not come whole"):
        Run(bench, manifest(bench, model()), given)
    monkeypatch.setattr(parts, "fetch", sent_from(registry))
    run = Run(bench, manifest(bench, model()), given)
    assert registry.sent[large] == SIZE, "it went on where it was"
    assert run.noted == [([SOURCE], set())]
    store = bench.folder / "models"
    assert modelstore.in_store(str(store), SOURCE)
    assert modelstore.in_store(str(store), "ogen/chat:1")
    assert not list((store / "blobs").glob("*partial*"))
    assert (store / "blobs" / large.replace(":", "-")).stat().st_mode & 0o777 == 0o644
    assert not [line for line in registry.asked if line.startswith("GET")]


def test_a_file_for_a_model_goes_on_where_it_broke_off(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    blob = Blob(b"GGUF", SIZE)
    registry.blobs[blob.digest] = blob
    own = {**model(source=blob.digest), "request": {"files": {"own.gguf": blob.digest}}}
    monkeypatch.setattr(parts, "size", lambda session, digest: registry.blobs[digest].size)
    monkeypatch.setattr(parts, "fetch", sent_from(registry, cut=1 << 20))
    with pytest.raises(AgentError, match="did not come whole"):
        Run(bench, manifest(bench, own))
    monkeypatch.setattr(parts, "fetch", sent_from(registry))
    Run(bench, manifest(bench, own))
    assert registry.sent[blob.digest] == SIZE
    assert modelstore.in_store(str(bench.folder / "models"), "ogen/chat:1")


# ------------------------------------------------------------------------------------- from a mirror
def mirrored(registry: Registry, *, origin: bool = False) -> supply.Plan:
    return supply.Plan(registry.url, "gpu1", origin=origin)


def test_a_mirror_is_asked_once_and_in_ranges(bench: Bench, registry: Registry) -> None:
    large = registry.add(SOURCE, SIZE)
    registry.cut[large] = [1_000_000, 500_000]
    run = Run(bench, manifest(bench, model()), Given(bench, mirrored(registry)))
    blobs = [line for line in registry.asked if large in line]
    assert [line.split(" ")[2:] for line in blobs] == [[], ["bytes=1000000-"], ["bytes=1500000-"]]
    assert registry.of_blobs() == sum(blob.size for blob in registry.blobs.values())
    assert modelstore.in_store(str(bench.folder / "models"), SOURCE)
    assert "the mirror gpu1: the answer ended early; again in 1 s" in run.texts
    assert [line for line in registry.asked if "manifests" in line] == ["GET /v2/library/llama3/manifests/8b"]


def test_a_corrupt_blob_is_not_taken(bench: Bench, registry: Registry) -> None:
    large = registry.add(SOURCE, SIZE)
    registry.blobs[large] = Blob(b"rotten", SIZE)
    with pytest.raises(AgentError, match="another content than its name says") as caught:
        Run(bench, manifest(bench, model()), Given(bench, mirrored(registry)))
    assert large.replace(":", "-") in str(caught.value.hint)
    assert not list((bench.folder / "models/blobs").glob("*" + large[7:] + "*"))
    assert not modelstore.in_store(str(bench.folder / "models"), SOURCE)


def test_a_manifest_that_is_not_the_mirrors_own_is_not_taken(bench: Bench, registry: Registry) -> None:
    """Somebody in between: the digest came over SSH."""
    registry.add(SOURCE, SIZE)
    (text,) = registry.manifests.values()
    good = mirrored(registry)._replace(manifests=((SOURCE, modelstore.digest(text)),))
    (path,) = registry.manifests
    registry.manifests[path] = text + b" "
    with pytest.raises(AgentError, match="sent another manifest of llama3:8b than it has"):
        Run(bench, manifest(bench, model()), Given(bench, good))
    assert registry.of_blobs() == 0
    registry.manifests[path] = text
    Run(bench, manifest(bench, model()), Given(bench, good))


def test_a_mirror_that_is_not_there(bench: Bench, registry: Registry) -> None:
    registry.add(SOURCE, SIZE)
    gone = supply.Plan("http://127.0.0.1:9", "gpu1")
    with pytest.raises(AgentError, match=r"the mirror gpu1: .*refused") as caught:
        Run(bench, manifest(bench, model()), Given(bench, gone))
    assert bench.waited == list(supply.PAUSES)
    assert "fallback: origin" in str(caught.value.hint)
    assert registry.asked == []
    run = Run(bench, manifest(bench, model()), Given(bench, gone._replace(origin=True)))
    assert "asking its registry" in run.texts
    assert registry.of_blobs() > SIZE


def test_a_mirror_that_does_not_have_it(bench: Bench, registry: Registry) -> None:
    with pytest.raises(AgentError, match="HTTP 404 for /v2/library/llama3/manifests/8b"):
        Run(bench, manifest(bench, model()), Given(bench, mirrored(registry)))


# ------------------------------------------------------------------------------------- the shelf
def test_a_manifest_comes_after_its_blobs_wherever_it_is_killed(tmp_path: Path) -> None:
    """Killed before any change: a name never stands for what is not whole."""
    registry = Registry()
    large = registry.add(SOURCE, SIZE)
    (text,) = registry.manifests.values()
    blobs = [modelstore.Blob(digest, blob.size) for digest, blob in registry.blobs.items()]
    for at in range(1, 40):
        root = tmp_path / str(at)
        steps: list[str] = []

        def count(step: str, at: int = at, steps: list[str] = steps) -> None:
            steps.append(step)
            if len(steps) == at:
                raise KeyboardInterrupt

        shelf = modelstore.Shelf(str(root), "root", "root", count)
        try:
            for blob in blobs:
                shelf.keep(blob, lambda place, blob=blob: registry.blobs[blob.digest].parts(place))  # type: ignore[misc]
            shelf.name(SOURCE, text)
        except KeyboardInterrupt:
            assert not modelstore.in_store(str(root), SOURCE), steps
            for digest in registry.blobs:
                path = root / "blobs" / digest.replace(":", "-")
                if path.exists():
                    assert "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() == digest
        else:
            assert at > 6
            assert steps[-1] == f"manifest {SOURCE}"
            assert modelstore.in_store(str(root), SOURCE)
            assert modelstore.has(str(root), large.replace(":", "-"), SIZE)
            return
    pytest.fail("it never came to its end")


def test_no_link_in_the_store_leads_out_of_it(tmp_path: Path) -> None:
    blob = Blob(b"x", 10)
    (tmp_path / "blobs").mkdir()
    aim = tmp_path / "aim"
    aim.write_text("precious")
    (tmp_path / "blobs" / (blob.digest.replace(":", "-") + modelstore.PARTIAL)).symlink_to(aim)
    with pytest.raises(OSError, match="symbolic links"):
        modelstore.Shelf(str(tmp_path), "root", "root").keep(modelstore.Blob(blob.digest, 10), blob.parts)
    assert aim.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give away")
def test_what_is_put_there_is_its_owners() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own are closed to others
        Path(folder).chmod(0o755)
        store = Path(folder, "models")
        store.mkdir()
        os.chown(store, 65534, 65534)
        blob = Blob(b"x", 10)
        modelstore.Shelf(str(store), "nobody", "nogroup").keep(modelstore.Blob(blob.digest, 10), blob.parts)
        found = (store / "blobs" / blob.digest.replace(":", "-")).stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65534, 65534, 0o644)
    assert os.geteuid() == 0


@pytest.mark.parametrize("text", [b"", b"[]", b'{"layers": [{"digest": "sha256:../../passwd"}]}', b"\xff"])
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a "):
        modelstore.blobs_of(text)
