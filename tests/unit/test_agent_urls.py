"""get_url: a download that breaks off goes on where it was, and nothing begins that the disk can't hold."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ogen.agent import tasks, tasks_urls
from ogen.agent.machine import Machine
from ogen.agent.tasks_host import Host

DATA = os.urandom(300_000)
CHECKSUM = "sha256:" + hashlib.sha256(DATA).hexdigest()


class Origin:
    """A web server for one file. Each answer is cut after the next number of `cuts`, or comes whole."""

    def __init__(self) -> None:
        self.data = DATA
        self.cuts: list[int] = []
        self.ranges = True
        self.asked: list[str | None] = []
        self.url = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.asked.append(asked)
        begin = int(asked[6:-1]) if asked and self.ranges else 0
        if begin and begin >= len(self.data):
            return request.send_error(416)
        request.send_response(206 if begin else 200)
        rest = self.data[begin:]
        if begin:
            request.send_header("Content-Range", f"bytes {begin}-{len(self.data) - 1}/{len(self.data)}")
        request.send_header("Content-Length", str(len(rest)))
        request.end_headers()
        request.wfile.write(rest[: self.cuts.pop(0)] if self.cuts else rest)
        request.close_connection = True
        return None


@pytest.fixture
def origin() -> Iterator[Origin]:
    made = Origin()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.answer(self)

        def log_message(self, *args: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        made.url = f"http://127.0.0.1:{server.server_address[1]}/x"
        yield made
        server.shutdown()
        thread.join()


class Hasty(Machine):
    def wait(self, seconds: float) -> None:
        """Does not."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "srv").mkdir()
    return tmp_path


def get(origin: Origin, root: Path, **more: Any) -> dict[str, Any]:
    args = {"url": origin.url, "dest": "/srv/x", "checksum": CHECKSUM, **more}
    step = {"module": "get_url", "args": args, "name": "x", "notify": [], "handler": False}
    host = Host(False, str(root), Hasty())
    return dict(tasks.run({"steps": [step]}, lambda *told: None, host)["results"][0])


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "srv").iterdir())


def test_a_download_that_breaks_off_goes_on_where_it_was(origin: Origin, root: Path) -> None:
    origin.cuts = [100_000, 50_000]
    assert get(origin, root)["changed"]
    assert (root / "srv/x").read_bytes() == DATA
    assert origin.asked == [None, "bytes=100000-", "bytes=150000-"]
    assert names(root) == ["x"]


def test_the_next_run_goes_on_where_a_broken_one_was(origin: Origin, root: Path) -> None:
    origin.cuts = [100_000] + [0] * 10
    failed = get(origin, root)
    assert failed["failed"]
    assert "broke off after 100000 of 300000 bytes" in failed["msg"]
    assert "the next run goes on there" in failed["msg"]
    (part,) = names(root)
    assert (root / "srv" / part).stat().st_mode & 0o777 == 0o600
    origin.cuts, origin.asked = [], []
    assert get(origin, root)["changed"]
    assert origin.asked == ["bytes=100000-"]
    assert (root / "srv/x").read_bytes() == DATA
    assert names(root) == ["x"]


def test_an_origin_without_ranges_sends_it_anew(origin: Origin, root: Path) -> None:
    origin.cuts, origin.ranges = [100_000], False
    assert get(origin, root)["changed"]
    assert origin.asked == [None, "bytes=100000-"]
    assert (root / "srv/x").read_bytes() == DATA


def test_a_part_of_something_else_is_thrown_away(origin: Origin, root: Path) -> None:
    origin.cuts = [100_000] + [0] * 10
    get(origin, root)
    (part,) = names(root)
    for planted in (b"y" * 100_000, b"y" * len(DATA), b"y" * (len(DATA) + 7)):
        (root / "srv" / part).write_bytes(planted)
        origin.cuts, origin.asked = [], []
        assert get(origin, root)["changed"], planted[:1]
        assert origin.asked[-1] is None
        assert (root / "srv/x").read_bytes() == DATA
        (root / "srv/x").unlink()


def test_the_part_of_another_version_goes(origin: Origin, root: Path) -> None:
    origin.cuts = [100_000] + [0] * 10
    get(origin, root)
    origin.data, origin.cuts, origin.asked = DATA[::-1], [], []
    assert get(origin, root, checksum="sha256:" + hashlib.sha256(DATA[::-1]).hexdigest())["changed"]
    assert origin.asked == [None]
    assert names(root) == ["x"]


def test_a_whole_part_needs_no_origin(origin: Origin, root: Path) -> None:
    origin.cuts = [100_000] + [0] * 10
    get(origin, root)
    (part,) = names(root)
    (root / "srv" / part).write_bytes(DATA)  # the run before died before its rename
    origin.asked = []
    assert get(origin, root, url="http://127.0.0.1:1/x")["changed"]
    assert (root / "srv/x").read_bytes() == DATA


def test_what_can_t_be_on_the_disk_is_not_begun(
    origin: Origin, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks_urls, "free", lambda folder: tasks_urls.MARGIN + len(DATA) - 1)
    failed = get(origin, root)
    assert failed["failed"]
    assert "x needs 0.3 MiB in /srv, and 256.3 MiB are free (256 MiB of them stay free)" in failed["msg"]
    assert names(root) == []
    monkeypatch.setattr(tasks_urls, "free", lambda folder: tasks_urls.MARGIN + len(DATA))
    assert get(origin, root)["changed"]


def test_what_is_there_already_counts(origin: Origin, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin.cuts = [100_000] + [0] * 10
    get(origin, root)
    origin.cuts = []
    monkeypatch.setattr(tasks_urls, "free", lambda folder: tasks_urls.MARGIN + 200_000)
    assert get(origin, root)["changed"]


def test_a_disk_that_fills_up_meanwhile(origin: Origin, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tasks_urls, "write", full)
    failed = get(origin, root)
    assert failed["failed"]
    assert "No space left on device" in failed["msg"]
    assert len(origin.asked) == 1, "no further try brings room"


def test_two_runs_do_not_write_one_part(origin: Origin, root: Path) -> None:
    origin.cuts = [100_000] + [0] * 10
    get(origin, root)
    (part,) = names(root)
    with (root / "srv" / part).open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another run fetches it" in get(origin, root)["msg"]
    origin.cuts = []
    assert get(origin, root)["changed"]


@pytest.mark.parametrize("how", [os.symlink, os.link])
def test_a_link_in_the_part_s_place_is_not_followed(how: Any, origin: Origin, root: Path) -> None:
    origin.cuts = [100_000] + [0] * 10
    get(origin, root)
    (part,) = names(root)
    (root / "precious").write_bytes(b"precious")
    (root / "srv" / part).unlink()
    how(root / "precious", root / "srv" / part)
    origin.cuts = []
    assert get(origin, root)["changed"]
    assert (root / "srv/x").read_bytes() == DATA
    assert (root / "precious").read_bytes() == b"precious"


def test_an_origin_that_sends_nothing_is_asked_once(origin: Origin, root: Path) -> None:
    origin.cuts = [0]
    assert "the connection ended" in get(origin, root)["msg"]
    assert (origin.asked, names(root)) == ([None], [])
