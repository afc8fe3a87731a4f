"""Crash tests run in folders: a killed process loses nothing by a skipped fsync; the replay has its own."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from ogen.agent import owner


@pytest.fixture(autouse=True)
def _in_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_deaf", lambda: None)
    monkeypatch.setattr(owner, "DISK", 0.0)
    monkeypatch.setattr(owner, "QUIET", 0.0)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(os, "fdatasync", lambda handle: None)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of small trees come and go."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="ogen-crash-") as folder:
        yield Path(folder)
