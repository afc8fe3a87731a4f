"""The bundle: the same bytes for the same sources, and nothing of ogen is needed to run it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from ogen.push import bundle as module
from ogen.push import packing
from ogen.push.bundle import BOOTSTRAP, bundle, make, sources


def test_the_same_bytes_each_time_in_any_process() -> None:
    """What a process has loaded, and how it hashes strings, must not show."""
    lines = (
        "import hashlib",
        "%s",
        "from ogen.push.bundle import make, sources",
        "print(hashlib.sha256(make(sources())).hexdigest())",
    )
    program = "\n".join(lines)
    said = {
        subprocess.run(
            [sys.executable, "-c", program % more],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed, more in (
            ("1", ""),
            ("2", "import ogen.agent.commit, ogen.agent.look, ogen.agent.tasks_files"),
        )
    }
    assert said == {hashlib.sha256(make(sources())).hexdigest()}


def test_it_is_kept_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = fresh()
    (kept,) = (tmp_path / "ogen").iterdir()
    assert kept.read_bytes()[32:] == first
    monkeypatch.setattr(module, "make", lambda files: b"made anew")
    assert fresh() == first
    (tmp_path / "ogen" / "agent-of-old").write_bytes(b"")
    kept.write_bytes(kept.read_bytes()[:-1])
    assert fresh() == b"made anew"
    assert list((tmp_path / "ogen").iterdir()) == [kept]


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_cache_that_others_can_write_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fresh()
    (kept,) = (tmp_path / "ogen").iterdir()
    kept.write_bytes(hashlib.sha256(b"evil").digest() + b"evil")
    assert fresh() == b"evil"  # whole, and by its mode ours alone
    kept.chmod(mode)
    assert fresh() != b"evil"


def test_no_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert fresh() == make(sources())


compiled = pytest.mark.skipif(sys.version_info < (3, 11), reason="sources only")


def fresh() -> bytes:
    """As a new process gets it."""
    module._bundle.cache_clear()
    try:
        return bundle().data
    finally:
        module._bundle.cache_clear()


@compiled
def test_another_python_runs_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled file of another version is passed over, not believed and no error."""
    monkeypatch.setattr(importlib.util, "MAGIC_NUMBER", b"\x01\x02\r\n")
    data = make(sources())
    assert data[:2] == b"\x01\x02"
    sent = len(data).to_bytes(8, "big") + data
    done = start(tmp_path, sent, hashlib.sha256(data).hexdigest())
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", b"ogen nonce need\n")


@compiled
def test_the_compiled_files_are_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that can't be compiled is not even looked at, if its compiled file is there."""
    code = packing._compiled(sources())
    monkeypatch.setattr(packing, "_compiled", lambda files: code)
    data = make(dict.fromkeys(sources(), b"no python"))
    sent = len(data).to_bytes(8, "big") + data
    done = start(tmp_path, sent, hashlib.sha256(data).hexdigest())
    assert (done.returncode, done.stderr) == (0, b"")


@compiled
def test_a_stored_one_is_started_by_its_compiled_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the commit's service starts it."""
    code, whole = packing._compiled(sources()), sources()
    monkeypatch.setattr(packing, "_compiled", lambda files: code)
    data = make({n: s if n == "__main__.py" else b"no python" for n, s in whole.items()})
    stored = tmp_path / f"{hashlib.sha256(data).hexdigest()}.pyz"
    stored.write_bytes(data)
    command = [sys.executable, "-I", str(stored)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, "usage: AGENT commit TX | recover\n")


def test_it_holds_the_agent_and_no_times() -> None:
    with zipfile.ZipFile(BytesIO(bundle().data)) as archive:
        names = archive.namelist()
        assert names == sorted(names)
        assert {"__main__.py", "agent/session.py"} <= set(names)
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def start(tmp_path: Path, sent: bytes, sha256: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-I", "-S", "-c", BOOTSTRAP, "nonce", sha256, str(tmp_path)]
    hostile = tmp_path / "home"
    hostile.mkdir(exist_ok=True)
    for name in ("json.py", "hashlib.py", "agent.py"):
        (hostile / name).write_text("raise SystemExit('hostile')")
    env = {"HOME": str(hostile), "PYTHONPATH": str(hostile)}
    return subprocess.run(
        command, input=sent, capture_output=True, timeout=60, check=False, env=env, cwd=hostile
    )


def test_it_starts_by_itself(tmp_path: Path) -> None:
    done = start(tmp_path, bundle().sent, bundle().sha256)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"ogen nonce need\n"


@pytest.mark.parametrize("how", ["cut", "changed"])
def test_a_damaged_one_is_not_run(tmp_path: Path, how: str) -> None:
    sent = bytearray(bundle().sent)
    if how == "cut":
        del sent[-1]
    else:
        sent[-1] ^= 1
    done = start(tmp_path, bytes(sent), bundle().sha256)
    assert done.returncode == 1
    assert b"ogen: the agent came" in done.stderr


def test_a_stored_one_is_found_and_verified(tmp_path: Path) -> None:
    stored = tmp_path / f"etc/ogen/agent/{bundle().sha256}.pyz"
    stored.parent.mkdir(parents=True)
    stored.write_bytes(bundle().data)
    assert start(tmp_path, b"", bundle().sha256).stdout == b"ogen nonce have\n"
    stored.write_bytes(bundle().data[:-1])
    assert start(tmp_path, b"", bundle().sha256).stdout == b"ogen nonce need\n"
