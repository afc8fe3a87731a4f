"""templates/probe.py, which tells what is not well, and what templates/leases.py makes of it."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TEMPLATES = Path(__file__).parents[2] / "templates"
GIB = 1 << 30
CHAT = {
    "name": "chat",
    "verdict": "full",
    "resident": True,
    "stays": True,
    "embedding": False,
    "context": 8192,
    "keep_alive": "-1",
}
TURNS = {**CHAT, "name": "turns", "resident": False, "stays": False}


def loaded(name: str = "chat:latest", vram: int = 6 * GIB, **more: object) -> dict[str, object]:
    return {
        "name": name,
        "size": 6 * GIB,
        "size_vram": vram,
        "context_length": 8192,
        "digest": "d1",
        **more,
    }


class Instance(ThreadingHTTPServer):
    """An Ollama of which a test says what is wrong: status by path, models in memory, paths that hang."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status: dict[str, int] = {}
        self.running = [loaded()]
        self.tags = [{"name": "chat:latest", "digest": "d1"}]
        self.hanging: set[str] = set()
        self.end = threading.Event()
        self.seen: list[tuple[str, Any]] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def asked(self, path: str) -> list[Any]:
        return [body for at, body in self.seen if at == path]


class Handler(BaseHTTPRequestHandler):
    server: Instance

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.server.seen.append((self.path, json.loads(self.rfile.read(length) or b"null")))
        if self.path in self.server.hanging:
            self.server.end.wait(30)
        said = {"/api/ps": {"models": self.server.running}, "/api/tags": {"models": self.server.tags}}
        body = json.dumps(said.get(self.path, {})).encode()
        self.send_response(self.server.status.get(self.path, 200))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


def script(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_script", TEMPLATES / f"{name}.py")
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    monkeypatch.setattr(found, "RUN", str(folder))
    monkeypatch.setattr(found, "RELEASE", str(folder.parent / "release"))
    monkeypatch.setattr(found, "PROBES", str(folder / "ogen/probes.json"))
    monkeypatch.setattr(found, "STATE", str(folder / "ogen/leases.json"))
    return found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run/ogen/leases").mkdir(parents=True)
    return tmp_path / "run"


@pytest.fixture
def prober(run: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = script("probe", run, monkeypatch)
    monkeypatch.setattr(found, "WAIT", 0.5)
    return found


@pytest.fixture
def watch(run: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    found = script("leases", run, monkeypatch)
    monkeypatch.setattr(found, "LEASES", str(run / "ogen/leases"))
    monkeypatch.setattr(found, "PACE", 0.0)
    made = found.Watch()
    made.script = found
    return made


@pytest.fixture
def instances() -> Iterator[list[Instance]]:
    with ExitStack() as stack:
        made = [stack.enter_context(Instance()) for _ in range(2)]
        yield made
        for each in made:
            each.end.set()
            each.shutdown()


@pytest.fixture
def one(instances: list[Instance]) -> Instance:
    return instances[0]


def members(
    run: Path, *servers: str, models: tuple[dict[str, object], ...] = (CHAT,), name: str = "api"
) -> None:
    folder = run / f"ogen-balancer-{name}"
    folder.mkdir(exist_ok=True)
    (run.parent / "release" / name).mkdir(parents=True, exist_ok=True)
    told = {
        "unit": f"ogen-balancer-{name}.service",
        "servers": {server: ["chat"] for server in servers},
        "probes": {server: list(models) for server in servers},
    }
    (folder / "members.json").write_text(json.dumps(told))


def verdicts(prober: ModuleType) -> dict[str, Any]:
    found: dict[str, Any] = prober.read(prober.PROBES)["servers"]
    return found


def rounds(prober: ModuleType, count: int) -> list[str]:
    return [line for _ in range(count) for line in prober.turn()]


# ------------------------------------------------------------------------------------ the prober
def test_a_balancer_that_was_taken_out_wants_no_probes(prober: ModuleType, run: Path, one: Instance) -> None:
    members(run, one.name)
    assert list(prober.servers()) == [one.name]
    (run.parent / "release/api").rmdir()
    assert prober.servers() == {}
    (run / "ogen-balancer-api/nginx.pid").write_text(str(os.getpid()))
    assert list(prober.servers()) == [one.name], "it still runs"


def test_bad_after_three_rounds_good_after_two(prober: ModuleType, run: Path, one: Instance) -> None:
    members(run, one.name)
    members(run, one.name, name="other")
    assert rounds(prober, 1) == []
    assert len(one.asked("/api/version")) == 1, "two balancers over it, one probe"
    one.status = {"/api/generate": 500}
    assert rounds(prober, 2) == []
    assert not verdicts(prober)[one.name]["bad"]
    assert rounds(prober, 2) == [f"{one.name} is bad: chat: HTTP 500"], "told once"
    assert verdicts(prober)[one.name]["why"] == "chat: HTTP 500"
    one.status = {}
    assert rounds(prober, 1) == []
    assert verdicts(prober)[one.name]["bad"]
    assert rounds(prober, 2) == [f"{one.name} is good again"]


def test_one_bad_answer_means_nothing(prober: ModuleType, run: Path, one: Instance) -> None:
    members(run, one.name)
    for status in ({"/api/ps": 500}, {"/api/ps": 500}, {}, {"/api/ps": 500}, {"/api/ps": 500}, {}):
        one.status = status
        assert prober.turn() == []


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("hangs", {"hanging": {"/api/version"}}, "/api/version: no answer in 0.5 s"),
    ("half of it hangs", {"hanging": {"/api/ps"}}, "/api/ps: no answer in 0.5 s"),
    ("answers 503 to all", {"status": {"/api/version": 503}}, "/api/version: HTTP 503"),
    ("a runner that is broken", {"status": {"/api/generate": 500}}, "chat: HTTP 500"),
    ("has lost its model", {"tags": [], "status": {"/api/generate": 404}}, "chat: HTTP 404"),
    ("does not load it", {"running": []}, "chat is not loaded"),
    (
        "on the CPU",
        {"running": [loaded(vram=0)]},
        "chat has fallen back to the CPU: 0 % of it is on the card",
    ),
    ("half on it", {"running": [loaded(vram=3 * GIB)]}, "chat has fallen back to the CPU: 50 %"),
    ("no list", {"running": "x"}, "chat is not loaded"),
    ("no number", {"running": [loaded(vram="x")]}, "its answers can't be read"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("wrong", "said"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_bad(prober: ModuleType, run: Path, one: Instance, wrong: dict[str, Any], said: str) -> None:
    members(run, one.name)
    vars(one).update(wrong)
    prober.turn()
    assert verdicts(prober)[one.name]["why"].startswith(said)


FINE: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("nearly all of it", {"running": [loaded(vram=int(5.8 * GIB))]}, CHAT),
    ("with another context", {"running": [loaded(vram=GIB, context_length=65536)]}, CHAT),
    ("of a server that does not tell", {"running": [loaded(context_length=None)]}, CHAT),
    ("planned for both", {"running": [loaded(vram=GIB)]}, {**CHAT, "verdict": "partial"}),
    ("planned for the CPU", {"running": [loaded(vram=0)]}, {**CHAT, "verdict": "cpu"}),
    ("under an alias", {"running": [loaded("gpt-4o-mini:latest")]}, CHAT),
    ("out of memory for now", {"running": []}, {**CHAT, "keep_alive": "5m", "stays": False}),
    ("its queue is full", {"status": {"/api/generate": 503}}, CHAT),
    ("waits for a load", {"hanging": {"/api/generate"}}, CHAT),
    ("waits behind others", {"hanging": {"/api/embed"}}, {**CHAT, "embedding": True}),
]


@pytest.mark.parametrize(("fine", "model"), [row[1:] for row in FINE], ids=[row[0] for row in FINE])
def test_what_is_not_bad(
    prober: ModuleType, run: Path, one: Instance, fine: dict[str, Any], model: dict[str, Any]
) -> None:
    members(run, one.name, models=(model,))
    vars(one).update(fine)
    prober.turn()
    assert not verdicts(prober)[one.name].get("failed")


def test_what_tells_nothing_changes_no_verdict(prober: ModuleType, run: Path, one: Instance) -> None:
    members(run, one.name)
    one.status = {"/api/generate": 500}
    rounds(prober, 3)
    one.status, one.hanging = {}, {"/api/generate"}
    assert rounds(prober, 3) == []
    assert verdicts(prober)[one.name]["bad"]


def test_a_refused_connection_is_bad_and_a_hanging_one_holds_up_nobody(
    prober: ModuleType, run: Path, instances: list[Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prober, "ROUND", 0.5)
    monkeypatch.setattr(prober, "WAIT", 30.0)
    one, two = instances
    one.hanging = {"/api/version"}
    members(run, one.name, two.name, "127.0.0.1:9")
    prober.turn()
    found = verdicts(prober)
    assert found[one.name]["why"] == "no answer in 0.5 s"
    assert "refused" in found["127.0.0.1:9"]["why"]
    assert found[two.name]["failed"] == 0


def test_models_that_take_turns_are_never_loaded(prober: ModuleType, run: Path, one: Instance) -> None:
    members(run, one.name, models=(CHAT, TURNS))
    prober.turn()
    one.running.append(loaded("turns:latest", vram=0, digest="d2"))
    prober.turn()
    assert [body["model"] for body in one.asked("/api/generate")] == ["chat", "chat"]
    assert one.asked("/api/generate")[0] == {"model": "chat", "keep_alive": -1, "stream": False}
    assert "turns has fallen back" in verdicts(prober)[one.name]["why"], "but on the CPU it is seen"


def test_what_is_not_in_memory_as_planned_is_left_to_the_preload(
    prober: ModuleType, run: Path, one: Instance
) -> None:
    """A load that ends with the probe's patience would never come to an end; nor is it thrown about with
    clients that want another context."""
    members(run, one.name)
    for running in ([], [loaded(context_length=4096)]):
        one.running = running
        prober.turn()
    assert one.asked("/api/generate") == []


def test_what_is_leased_is_judged_anew(prober: ModuleType, run: Path, one: Instance) -> None:
    members(run, one.name)
    one.status = {"/api/ps": 500}
    rounds(prober, 3)
    prober.write(prober.STATE, json.dumps({"leased": [one.name]}).encode())
    assert rounds(prober, 1) == []
    assert verdicts(prober) == {}
    prober.write(prober.STATE, b"{}")
    rounds(prober, 3)
    assert verdicts(prober)[one.name]["bad"]
    freed = {"freed": {one.name: time.monotonic()}}  # a lease that was over before a round came
    prober.write(prober.STATE, json.dumps(freed).encode())
    assert rounds(prober, 1) == [f"{one.name} is good again"]
    assert verdicts(prober)[one.name]["failed"] == 1
    assert rounds(prober, 2) == [f"{one.name} is bad: /api/ps: HTTP 500"]


def test_rounds_before_a_long_pause_are_of_no_row(prober: ModuleType, run: Path, one: Instance) -> None:
    members(run, one.name)
    one.status = {"/api/ps": 500}
    rounds(prober, 2)
    old = prober.read(prober.PROBES)
    prober.write(prober.PROBES, json.dumps({**old, "at": old["at"] - 100}).encode())
    assert rounds(prober, 1) == []
    assert verdicts(prober)[one.name]["failed"] == 1


# ---------------------------------------------------------------------- what keeps balancers away
def bad(began: float | None = None, **more: object) -> dict[str, object]:
    at = time.monotonic() if began is None else began
    return {"bad": True, "began": at, "since": at, "why": "HTTP 500", **more}


def probed(watch: Any, at: float | None = None, **servers: dict[str, object]) -> None:
    told = {"at": time.monotonic() if at is None else at, "servers": servers}
    watch.script.write(watch.script.PROBES, json.dumps(told).encode())
    watch.step()


def state(watch: Any) -> dict[str, Any]:
    found: dict[str, Any] = watch.script.read(watch.script.STATE)
    return found


def test_down_while_the_probes_say_so(watch: Any, run: Path) -> None:
    members(run, "a:1", "b:1")
    probed(watch, **{"a:1": bad(), "b:1": {"bad": False}})
    assert watch.down == {"a:1"}
    assert state(watch)["failing"] == {"a:1": "HTTP 500"}
    assert state(watch)["leased"] == []
    assert state(watch)["taken"] == {"api": ["a:1"]}
    probed(watch, **{"a:1": {"bad": False}, "b:1": {"bad": False}})
    assert watch.down == set(), "nobody asks it again: the prober just did"


@pytest.mark.parametrize("age", [61.0, -5.0])
def test_verdicts_of_a_dead_prober_count_for_nothing(watch: Any, run: Path, age: float) -> None:
    members(run, "a:1", "b:1")
    probed(watch, **{"a:1": bad()})
    assert watch.down == {"a:1"}
    probed(watch, at=time.monotonic() - age, **{"a:1": bad()})
    assert watch.down == set()


def test_damaged_verdicts_are_none(watch: Any, run: Path) -> None:
    members(run, "a:1", "b:1")
    Path(watch.script.PROBES).write_text("{")
    watch.step()
    assert watch.down == set()


def test_the_last_of_a_pool_stays(watch: Any, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members(run, "a:1", "b:1")
    members(run, "b:1", "c:1", name="other")
    now = time.monotonic()
    probed(watch, **{"a:1": bad(now - 2), "b:1": bad(now - 1), "c:1": {"bad": False}})
    assert watch.down == {"a:1"}, "b began later"
    assert "the last of its pool, stays up: b:1 (HTTP 500)" in capsys.readouterr().out
    assert state(watch)["kept"] == {"b:1": "HTTP 500"}
    probed(watch, **{"a:1": {"bad": False}, "b:1": bad(now - 1), "c:1": {"bad": False}})
    assert watch.down == {"b:1"}
    probed(watch, **{"a:1": {"bad": False}, "b:1": bad(now - 1), "c:1": bad(now)})
    assert watch.down == {"b:1"}
    assert state(watch)["kept"] == {"c:1": "HTTP 500"}


def lease(watch: Any, *servers: str, seconds: float = 60.0) -> Path:
    path = Path(watch.script.LEASES) / "a.json"
    path.write_text(json.dumps({"servers": servers, "until": time.monotonic() + seconds}))
    return path


def test_a_lease_always_counts_and_probes_then_leave_the_other(watch: Any, run: Path) -> None:
    members(run, "a:1", "b:1")
    probed(watch, **{"a:1": bad()})
    lease(watch, "b:1")
    watch.step()
    assert watch.down == {"b:1"}, "a is the only one that is not leased"
    lease(watch, "a:1", "b:1")
    watch.step()
    assert watch.down == {"a:1", "b:1"}


def test_after_a_lease_it_comes_back_whatever_was_seen_before(
    watch: Any, prober: ModuleType, run: Path, instances: list[Instance]
) -> None:
    """A restart that was proven: the next rounds are of the new process."""
    one, two = instances
    members(run, one.name, two.name)
    one.status = {"/api/ps": 500}
    rounds(prober, 3)
    watch.step()
    assert watch.down == {one.name}
    path = lease(watch, one.name)
    watch.step()
    assert state(watch)["leased"] == [one.name]
    path.unlink()
    watch.step()
    assert watch.down == set()
    assert list(state(watch)["freed"]) == [one.name]
    again = watch.script.Watch()  # started anew, it still knows
    again.step()
    assert again.down == set()
    rounds(prober, 2)
    watch.step()
    assert watch.down == set()
    rounds(prober, 1)
    watch.step()
    assert watch.down == {one.name}, "it is bad still"


def test_what_was_seen_while_it_was_coming_back_counts_no_more(watch: Any, run: Path, one: Instance) -> None:
    members(run, one.name, "b:1")
    path = lease(watch, one.name)
    watch.step()
    path.unlink()
    one.status = {"/api/tags": 500}
    watch.step()
    probed(watch, **{one.name: bad()})
    assert state(watch)["returning"] == [one.name]
    one.status = {}
    watch.step()
    assert watch.down == set()


def test_a_watch_that_starts_again_does_not_ask_what_probes_alone_kept_down(watch: Any, run: Path) -> None:
    members(run, "a:1", "b:1")
    probed(watch, **{"a:1": bad()})
    assert watch.down == {"a:1"}
    again = watch.script.Watch()
    Path(watch.script.PROBES).unlink()
    again.step()
    assert again.down == set()
    assert again.returning == set()
