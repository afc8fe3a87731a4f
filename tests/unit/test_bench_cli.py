"""`ogen bench` as it is used: against a URL, a sweep, saved runs, keys, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from known_backend import Backend, Plan
from terminals import Terminal

from ogen.cli import console
from ogen.cli.app import ogen
from ogen.observe.bench_hosts import CardUse, Served, Shares, shares, uses
from ogen.observe.evidence import CardSeen

KEY = "sk-bench-0123456789abcdef"
INVENTORY = """\
version: 1
models:
  chat: {from: "llama3.1:8b-instruct-q4_K_M", context: 8192, replicas: fill, aliases: [gpt-4o-mini]}
  coder: {from: "qwen2.5-coder:7b-instruct-q4_K_M", context: 8192, replicas: 1}
hosts:
  solo: {address: 192.0.2.1, gpus: [{model: RTX 3090, count: 3}]}
balancers:
  api: {hosts: [solo], listen: 8080, keys: !file secrets/keys.yaml}
"""


@pytest.fixture(autouse=True)
def _nothing_hidden() -> Any:
    yield
    console.hide(None)


def bench(*args: str, **env: str) -> Result:
    return CliRunner(env={"OGEN_INVENTORY": None, "OGEN_KEY": None, **env}).invoke(ogen, ["bench", *args])


def document(*args: str, **env: str) -> dict[str, Any]:
    return dict(json.loads(bench(*args, "--format", "json", **env).stdout))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "keys.yaml").write_text(f"ops: {KEY}\n")
    (tmp_path / "secrets" / "keys.yaml").chmod(0o600)
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)
    return path


def test_a_run_is_saved_and_two_are_compared(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a.json", "b.json")]
    for path, service in zip(paths, (0.02, 0.06), strict=True):
        with Backend(Plan([service], 4)) as backend:
            done = bench(
                *("--url", backend.url, "--model", "chat", "--concurrency", "4", "--requests", "120"),
                *("--warmup", "3", "-o", path),
            )
        assert done.exit_code == 0, done.output
        assert len(backend.rows) == 123
        assert "4 at once: 120 answered, 0 failed" in done.stdout
        assert "100 tokens/s (p50)" in done.stdout
    done = bench("--compare", *paths)
    assert done.exit_code == 2, "three times as slow"
    assert "WORSE" in done.stdout
    back = json.loads(bench("--compare", *reversed(paths), "--format", "json").stdout)
    assert back["worse"] is False
    assert {c["verdict"] for c in back["changes"] if c["name"] in ("requests/s", "latency p50")} == {"better"}
    assert bench("--compare", paths[0], paths[0]).exit_code == 0


def test_a_sweep_finds_the_knee(tmp_path: Path) -> None:
    with Backend(Plan([0.2], 4)) as backend:
        found = document("--url", backend.url, "--model", "x", "--sweep", "1,4,12", "--duration", "1500ms")
    assert [step["concurrency"] for step in found["steps"]] == [1, 4, 12]
    rates = {step["concurrency"]: step["tokens_per_second"]["value"] for step in found["steps"]}
    assert found["knee"] == min(n for n, rate in rates.items() if rate >= 0.95 * max(rates.values()))
    assert found["knee"] in (4, 12), "one at once is a quarter of what four slots can do"
    assert found["errors"] == []


def test_failed_requests_are_told_and_counted() -> None:
    with Backend(Plan([0.01], 2, fail=[3])) as backend:
        done = bench("--url", backend.url, "--model", "chat", "--requests", "9")
    assert done.exit_code == 3
    assert "1 × HTTP 500: CUDA out of memory" in done.stdout


def test_the_key_comes_from_the_environment_and_is_shown_nowhere(tmp_path: Path) -> None:
    saved = tmp_path / "a.json"
    args = ("--model", "chat", "--requests", "4", "-o", str(saved))
    with Backend(Plan([0.01], 2, key=KEY)) as backend:
        done = bench("--url", backend.url, *args, OGEN_KEY=KEY)
        refused = bench("--url", backend.url, *args[:-2])
        inside = bench(
            "--url", backend.url, *args[:4], "--prompt", f"repeat {KEY}", "--format", "json", OGEN_KEY=KEY
        )
    assert (done.exit_code, refused.exit_code, inside.exit_code) == (0, 3, 0)
    assert "HTTP 401: no key" in refused.stdout
    for text in (done.output, refused.output, inside.output, saved.read_text()):
        assert KEY not in text
    assert f"Bearer {KEY}" in backend.rows[0]["head"], "and yet it was sent"
    assert "can't be in a header" in bench("--url", "http://x", "--model", "m", OGEN_KEY="a\nb: c").stderr


def test_an_inventory_gives_model_key_and_url(project: Path) -> None:
    """No host is contacted: the URL is another way to the same balancer."""
    inventory = str(project)
    assert "which model?" in bench(inventory, "--no-hosts", "--key", "ops").stderr
    wrong = bench(inventory, "--no-hosts", "--key", "ops", "--model", "chatt")
    assert "no model `chatt`" in wrong.stderr
    assert "did you mean" in wrong.stderr
    assert "asks for a key" in bench(inventory, "--no-hosts", "--model", "chat").stderr
    lost = bench(inventory, "--no-hosts", "--model", "chat", "--key", "nobody")
    assert "there are ops" in lost.stderr
    with Backend(Plan([0.01], 2, key=KEY)) as backend:
        done = bench(
            *(inventory, "--no-hosts", "--url", backend.url, "--model", "gpt-4o-mini", "--key", "ops"),
            *("--requests", "5"),
        )
    assert done.exit_code == 0, done.output
    assert len(backend.rows) == 2 + 5, "a warm-up for each of the two instances"
    assert KEY not in done.output
    assert backend.rows[0]["body"]["model"] == "gpt-4o-mini"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "INVENTORY or --url"),
        (("--url", "http://x"), "--model is missing"),
        (("--url", "http://x", "--model", "m", "--key", "ops"), "parts of an INVENTORY"),
        (("--url", "http://x", "--model", "m", "--sweep", "1,zero"), "no list such as"),
        (("--url", "http://x", "--model", "m", "--sweep", "1,,2"), "no list such as"),
        (("--url", "http://x", "--model", "m", "-o", "/nowhere/at/all.json"), "no such folder"),
        (("--url", "http://x", "--model", "m", "-o", "."), "it is a folder"),
        (("--url", "http://x", "--model", "m", "--against", "pyproject.toml"), "no saved run"),
        (("--url", "http://x", "--model", "m", "--against", "/nowhere.json"), "no such file"),
        (("--url", "http://x", "--model", "m", "--against", "/nowhere.json"), "-o FILE` saves one"),
    ],
)
def test_what_can_t_be_done_is_said_before_anything_is_sent(args: tuple[str, ...], says: str) -> None:
    done = bench(*args)
    assert done.exit_code == 1
    assert says in done.stderr


def test_what_can_t_be_saved_is_said_before_anything_is_sent(tmp_path: Path, monkeypatch: Any) -> None:
    """A folder that takes no file is known by trying: no permission, a full disk, /proc."""

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    with Backend(Plan([0.001], 1)) as backend:
        monkeypatch.setattr(Path, "touch", refused)
        path = tmp_path / "run.json"
        done = bench("--url", backend.url, "--model", "m", "--requests", "1", "-o", str(path))
    assert (done.exit_code, backend.rows) == (1, [])
    assert f"{path} can't be written: read-only file system" in done.stderr
    assert "name another place by -o" in done.stderr


def test_a_run_that_can_t_be_saved_any_more_is_shown(tmp_path: Path, monkeypatch: Any) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with Backend(Plan([0.001], 1)) as backend:
        monkeypatch.setattr(Path, "write_text", full)
        path = tmp_path / "run.json"
        done = bench("--url", backend.url, "--model", "m", "--requests", "1", "-o", str(path))
    assert (done.exit_code, list(tmp_path.iterdir())) == (1, [])
    assert "1 answered, 0 failed" in done.stdout
    assert f"{path} can't be written: no space left on device" in done.stderr


def test_a_saved_run_of_other_concurrencies_is_refused_before_the_load(tmp_path: Path) -> None:
    saved = tmp_path / "a.json"
    saved.write_text(json.dumps({"version": 1, "asked": {}, "steps": [{"concurrency": 3}]}))
    done = bench("--url", "http://x", "--model", "m", "--against", str(saved))
    assert (done.exit_code, "--concurrency or --sweep 3" in done.stderr) == (1, True)


def test_an_inventory_without_balancer_or_keys_says_how_to_go_on(project: Path) -> None:
    project.write_text(INVENTORY.replace(", keys: !file secrets/keys.yaml", ""))
    done = bench(str(project), "--model", "chat", "--key", "ops")
    assert (done.exit_code, "`api` has no keys" in done.stderr) == (1, True)
    assert "hint: leave --key out" in done.stderr
    project.write_text(INVENTORY.partition("balancers:")[0])
    done = bench(str(project), "--model", "chat")
    assert (done.exit_code, "no balancer" in done.stderr) == (1, True)
    assert "hint: `balancers:` makes one" in done.stderr


def test_ctrl_c_at_a_terminal_prints_what_was_measured() -> None:
    with Backend(Plan([0.02], 4)) as backend:
        command = [sys.executable, "-m", "ogen", "bench", "--url", backend.url, "--model", "chat"]
        env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "OGEN_KEY")} | {"TERM": "xterm"}
        terminal = Terminal(*command, "--duration", "10m", env=env)
        terminal.until("answered,")
        terminal.process.send_signal(signal.SIGINT)
        terminal.until("latency")
        assert terminal.end() == 130
    assert "interrupted" in terminal.shown
    assert "Traceback" not in terminal.shown


def test_ctrl_c_in_json_is_one_document_all_the_same() -> None:
    with Backend(Plan([0.02], 4)) as backend:
        command = [sys.executable, "-m", "ogen", "bench", "--url", backend.url, "--model", "chat"]
        process = subprocess.Popen([*command, "--duration", "10m", "--format", "json"], stdout=-1, stderr=-1)
        assert process.stderr
        while b"8 at once" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(told)["interrupted"] is True


# ------------------------------------------------------------------------- shares and cards
def served(instance: str, count: int, client: str = "10.0.0.9", status: str = "200") -> Served:
    return Served("edge", client, "/api/generate", status, instance, count)


def test_shares_are_of_our_own_requests() -> None:
    rows = [
        served("b/gpu10", 4),
        served("b/gpu2", 5),
        served("b/gpu2", 7, "10.0.0.8"),
        served("", 2, status="503"),
    ]
    found = shares(rows, "/api/generate", {"10.0.0.9"}, 9)
    assert list(found.by_instance.items()) == [("b/gpu2", 5), ("b/gpu10", 4)]
    assert (found.others, found.remarks) == (9, ())


def test_shares_behind_another_address_are_of_all_that_came() -> None:
    rows = [served("a/gpu0", 6, "192.0.2.250")]
    assert shares(rows, "/api/generate", {"10.0.0.9"}, 6) == Shares({"a/gpu0": 6})
    more = shares([*rows, served("a/gpu1", 1, "192.0.2.9")], "/api/generate", {"10.0.0.9"}, 6)
    assert sum(more.by_instance.values()) == 7
    assert "can't tell our requests" in more.remarks[0]
    assert "has 6 of 8" in shares(rows, "/api/generate", {"192.0.2.250"}, 8).remarks[0]


def test_the_use_of_cards_is_over_all_looks() -> None:
    def card(busy: float | None, used: int) -> CardSeen:
        return CardSeen(0, "GPU-1", "", "RTX", "", 100, used, busy)

    found = uses({"gpu1": [[card(50, 10)], [card(100, 30)], [card(None, 20)], []], "gpu2": []})
    assert found == (CardUse("gpu1", 0, "RTX", 75, 100, 30, 100, 3),)
