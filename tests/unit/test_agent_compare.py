"""The host against a release: every state of a file, and what never leaves the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agents import apply, host, release

from ogen.agent import compare, owner
from ogen.agent.transaction import Host
from ogen.release.model import Release

A = "/etc/ogen/current/a.txt"


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(owner, "_deaf", lambda: None)
    made = host(tmp_path)
    apply(made, release("old", "ogen-a.service"))
    return made


def seen(one: Host, wish: Release) -> tuple[dict[str, dict[str, Any]], dict[str, Any], bytes]:
    report, texts = compare.compare(one.disk, one.machine, wish.manifest(), want_text=True)
    return {f["path"]: f for f in report["files"]}, report, texts


def place(one: Host, release: Release, stored: str) -> Path:
    return Path(one.disk.root, f"etc/ogen/releases/{release.id}/tree/{stored}")


def test_a_host_without_anything(tmp_path: Path) -> None:
    files, report, _ = seen(host(tmp_path), release("new"))
    assert {f["state"] for f in files.values()} == {"missing"}
    assert not report["unchanged"]
    assert set(report["missing"]) == {f.sha256 for f in release("new").files}
    assert list(tmp_path.iterdir()) == []


def test_the_same(one: Host) -> None:
    files, report, texts = seen(one, release("old", "ogen-a.service"))
    assert {f["state"] for f in files.values()} == {"same"}
    assert (report["unchanged"], report["missing"], texts) == (True, [], b"")


def test_not_yet_applied(one: Host) -> None:
    files, report, texts = seen(one, release("new", "ogen-a.service"))
    assert files[A]["state"] == "differs"
    assert texts == b"old"
    assert report["missing"] == [next(f.sha256 for f in release("new").files if f.path == A)]


def test_edited_on_the_host(one: Host) -> None:
    old = release("old", "ogen-a.service")
    place(one, old, "a.txt").write_text("by hand")
    files, report, texts = seen(one, old)
    assert (files[A]["state"], texts, report["unchanged"]) == ("edited", b"by hand", False)
    assert seen(one, release("new", "ogen-a.service"))[0][A]["state"] == "edited"
    assert seen(one, release("by hand", "ogen-a.service"))[0][A]["state"] == "same"


def test_a_mode_is_an_edit_too(one: Host) -> None:
    old = release("old", "ogen-a.service")
    place(one, old, "a.txt").chmod(0o666)
    assert seen(one, old)[0][A]["state"] == "edited"


def test_no_longer_wanted(one: Host) -> None:
    unit = "/etc/systemd/system/ogen-a.service"
    found = seen(one, release("old"))[0][unit]
    assert (found["state"], found["edited"]) == ("removed", False)
    place(one, release("old", "ogen-a.service"), "root" + unit).write_text("by hand")
    assert seen(one, release("old"))[0][unit]["edited"]


def test_a_link_that_became_a_file_is_an_edit(one: Host) -> None:
    link = Path(one.disk.root, "etc/systemd/system/ogen-a.service")
    link.unlink()
    link.write_text("by hand")
    files, report, texts = seen(one, release("old", "ogen-a.service"))
    assert files["/etc/systemd/system/ogen-a.service"]["state"] == "edited"
    assert texts == b"by hand"
    assert report["links"] == ["/etc/systemd/system/ogen-a.service"]


def test_a_missing_link_is_no_rest(one: Host) -> None:
    Path(one.disk.root, "etc/systemd/system/ogen.target.wants/ogen-a.service").unlink()
    assert not seen(one, release("old", "ogen-a.service"))[1]["unchanged"]


def test_a_missing_view_is_no_rest(one: Host) -> None:
    old = release("old", "ogen-a.service")
    stored = old.views[0].path[len("/etc/ogen/current/") :]
    place(one, old, stored).unlink()
    assert not seen(one, old)[1]["unchanged"]
    assert apply(one, old)["status"] == "applied"
    assert seen(one, old)[1]["unchanged"]


def test_secrets_stay_on_the_host(one: Host) -> None:
    files, report, texts = seen(one, release("old", "ogen-a.service", secret="another"))
    assert files["/etc/ogen/current/keys"]["state"] == "differs"
    assert b"s3cret" not in texts
    assert "s3cret" not in str(report)


def test_large_files_stay_on_the_host(one: Host) -> None:
    old = release("old", "ogen-a.service")
    place(one, old, "a.txt").write_bytes(b"x" * (compare.MAX_TEXT + 1))
    files, _, texts = seen(one, old)
    assert (files[A]["state"], texts, "text" in files[A]) == ("edited", b"", False)


def test_looking_changes_nothing(one: Host) -> None:
    def stamp() -> list[tuple[str, int, int]]:
        return sorted(
            (str(p), p.lstat().st_ino, p.lstat().st_mtime_ns) for p in Path(one.disk.root).rglob("*")
        )

    before = stamp()
    seen(one, release("new"))
    seen(one, release("old", "ogen-a.service"))
    assert stamp() == before


def test_what_recovery_will_remove_does_not_count_as_there(one: Host) -> None:
    """A release that was staged and never committed goes at the next apply: its contents must be sent."""
    wish = release("new", "ogen-a.service")

    class Killed(BaseException):
        pass

    def before(operation: str, path: str) -> None:
        if (operation, path) == ("append", "/etc/ogen/journal"):
            raise Killed

    with pytest.raises(Killed):
        apply(host(Path(one.disk.root), before), wish)
    assert wish.id in one.store.names()
    there = {f.sha256 for f in release("old", "ogen-a.service").files}
    _, report, _ = seen(one, wish)
    assert set(report["missing"]) == {f.sha256 for f in wish.files} - there
    assert report["missing"]
