"""Secrets become text only on purpose, only inside of the folder, and never show themselves."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import pytest

from ogen.errors import InventoryError
from ogen.inventory import Secret
from ogen.inventory.secrets import MASK, Redacted, resolve

TEXT = "canary-77"


def test_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OGEN_TEST_SECRET", TEXT)
    assert resolve(Secret("env", "OGEN_TEST_SECRET"), tmp_path).reveal() == TEXT


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set(
    value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OGEN_TEST_SECRET", raising=False)
    if value is not None:
        monkeypatch.setenv("OGEN_TEST_SECRET", value)
    with pytest.raises(InventoryError, match="!env OGEN_TEST_SECRET is not set or empty"):
        resolve(Secret("env", "OGEN_TEST_SECRET"), tmp_path)


@pytest.mark.parametrize(
    ("written", "read"), [(f"{TEXT}\n", TEXT), (f"{TEXT}\r\n", TEXT), (f" {TEXT}\n\n", f" {TEXT}\n")]
)
def test_a_file(written: str, read: str, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_bytes(written.encode())
    assert resolve(Secret("file", "secrets/key"), tmp_path).reveal() == read


def test_a_link_inside_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text(TEXT)
    (tmp_path / "link").symlink_to("real")
    assert resolve(Secret("file", "link"), tmp_path).reveal() == TEXT


def test_nothing_leaves_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (tmp_path / "outside").write_text(TEXT)
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "up").symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    for path in ("../outside", "link", "up/outside", str(tmp_path / "outside"), "a/../../outside"):
        with pytest.raises(InventoryError, match="is outside of the project's folder") as caught:
            resolve(Secret("file", path), folder)
        assert TEXT not in str(caught.value)
    with pytest.raises(InventoryError, match="can't be read"):
        resolve(Secret("file", "loop"), folder)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "can't be read: no such file"),
        (b"", "gives nothing"),
        (b"\xff\xfe", "not UTF-8"),
        (b"a\0b", "zero byte"),
    ],
)
def test_files_that_are_refused(data: bytes | None, words: str, tmp_path: Path) -> None:
    if data is not None:
        (tmp_path / "key").write_bytes(data)
    with pytest.raises(InventoryError, match=words):
        resolve(Secret("file", "key"), tmp_path)


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # is not waited for
    for name in ("folder", "pipe"):
        with pytest.raises(InventoryError, match=r"not a file|is a directory"):
            resolve(Secret("file", name), tmp_path)


def test_a_file_that_is_too_long(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"x" * (1024 * 1024 + 1))
    with pytest.raises(InventoryError, match="is longer than"):
        resolve(Secret("file", "key"), tmp_path)


def test_a_command_runs_without_a_shell_in_the_folder(tmp_path: Path) -> None:
    program = "import os, sys; print(os.getcwd(), sys.argv[1])"
    secret = Secret("command", (sys.executable, "-c", program, "$HOME; id"))
    assert resolve(secret, tmp_path).reveal() == f"{tmp_path.resolve()} $HOME; id"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import sys; print('canary-77'); sys.exit(3)", "ended with status 3"),
        ("pass", "gives nothing"),
        ("print('x' * 2_000_000)", "is longer than"),
    ],
)
def test_commands_that_fail(program: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=words) as caught:
        resolve(Secret("command", (sys.executable, "-c", program)), tmp_path)
    assert TEXT not in str(caught.value)


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="can't be run"):
        resolve(Secret("command", ("ogen-no-such-program",)), tmp_path)


def test_a_secret_masks_itself(caplog: pytest.LogCaptureFixture) -> None:
    secret = Redacted(TEXT)
    with caplog.at_level(logging.INFO):
        logging.info("password %s %r", secret, {"password": secret})
    shown = [
        str(secret),
        repr(secret),
        f"{secret}",
        f"{secret!r:>20}",
        f"{secret:20}",
        format(secret),
        caplog.text,
    ]
    shown += [
        repr([secret]),
        str({"k": secret}),
        str(ValueError(secret)),
        str("a" + secret),
        str(secret + "b"),
    ]
    assert [text for text in shown if TEXT in text] == []
    assert MASK in caplog.text


def test_a_secret_is_its_text_where_it_is_sent() -> None:
    secret = Redacted(TEXT)
    assert secret.encode() == TEXT.encode()
    assert (secret + "\n").encode() == f"{TEXT}\n".encode()
    assert secret.reveal() == TEXT
    assert type(secret.reveal()) is str
    assert json.loads(json.dumps(secret)) == TEXT
    assert secret == TEXT
