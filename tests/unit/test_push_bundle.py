"""The bundle: the same bytes for the same sources, and nothing of ogen is needed to run it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from ogen.push.bundle import BOOTSTRAP, bundle


def test_the_same_bytes_each_time() -> None:
    first = bundle().data
    bundle.cache_clear()
    assert bundle().data == first


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
