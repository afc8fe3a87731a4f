"""The host against a release: every state of a file, and what never leaves the host."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest
from agents import UNIT, apply, host, release

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
    assert {f["state"] for f in files.values()} == {"pending"}
    assert not report["unchanged"]
    assert set(report["missing"]) == {f.sha256 for f in release("new").files}
    assert list(tmp_path.iterdir()) == []


def test_the_same(one: Host) -> None:
    files, report, texts = seen(one, release("old", "ogen-a.service"))
    assert {f["state"] for f in files.values()} == {"same"}
    assert (report["unchanged"], report["missing"], texts) == (True, [], b"")


def test_not_yet_applied(one: Host) -> None:
    files, report, texts = seen(one, release("new", "ogen-a.service"))
    assert files[A]["state"] == "pending"
    assert texts == b"old"
    assert report["missing"] == [next(f.sha256 for f in release("new").files if f.path == A)]


def test_edited_on_the_host(one: Host) -> None:
    old = release("old", "ogen-a.service")
    place(one, old, "a.txt").write_text("by hand")
    files, report, texts = seen(one, old)
    assert (files[A]["state"], texts, report["unchanged"]) == ("edited", b"by hand", False)
    assert seen(one, release("by hand", "ogen-a.service"))[0][A]["state"] == "converged"


def test_edited_and_not_yet_applied_brings_what_was_there_before(one: Host) -> None:
    place(one, release("old", "ogen-a.service"), "a.txt").write_text("by hand")
    files, _, texts = seen(one, release("new", "ogen-a.service"))
    assert files[A]["state"] == "conflict"
    assert texts[: files[A]["text"]] == b"by hand"
    assert texts[files[A]["text"] :][: files[A]["base_text"]] == b"old"


def test_the_text_before_an_edit_is_told_only_if_it_is_certain(one: Host) -> None:
    old = release("old", "ogen-a.service")
    place(one, old, "a.txt").write_text("by hand")
    kept = Path(one.disk.root, f"etc/ogen/releases/{old.id}/originals")
    kept.write_bytes(kept.read_bytes()[:-9])
    assert "base_text" not in seen(one, release("new", "ogen-a.service"))[0][A]
    kept.unlink()
    assert "base_text" not in seen(one, release("new", "ogen-a.service"))[0][A]


def test_the_kept_texts_hold_no_secret(one: Host) -> None:
    kept = Path(one.disk.root, f"etc/ogen/releases/{release('old', 'ogen-a.service').id}/originals")
    text = zlib.decompress(kept.read_bytes())
    assert b"old" in text
    assert b"s3cret" not in text
    assert kept.stat().st_mode & 0o777 == 0o600


def test_an_edit_is_kept_aside_by_the_apply_that_overwrites_it(one: Host) -> None:
    place(one, release("old", "ogen-a.service"), "a.txt").write_text("by hand")
    assert apply(one, release("new", "ogen-a.service"))["status"] == "applied"
    assert Path(one.disk.root, "etc/ogen/edited" + A).read_text() == "by hand"
    assert seen(one, release("new", "ogen-a.service"))[1]["unchanged"]


def test_removed_on_the_host(one: Host) -> None:
    old = release("old", "ogen-a.service")
    place(one, old, "a.txt").unlink()
    assert seen(one, old)[0][A]["state"] == "edited"
    assert seen(one, release("new", "ogen-a.service"))[0][A]["state"] == "conflict"
    unit = Path(one.disk.root, "etc/systemd/system/ogen-a.service")
    unit.unlink()
    assert seen(one, old)[0]["/etc/systemd/system/ogen-a.service"]["state"] == "edited"
    assert seen(one, release("old"))[0]["/etc/systemd/system/ogen-a.service"]["state"] == "converged"


def test_a_link_to_elsewhere_is_in_the_way(one: Host) -> None:
    """Apply does not replace it, and says so."""
    unit = Path(one.disk.root, "etc/systemd/system/ogen-a.service")
    unit.unlink()
    unit.symlink_to("/dev/null")
    old = release("old", "ogen-a.service")
    files, report, _ = seen(one, old)
    assert files["/etc/systemd/system/ogen-a.service"]["state"] == "in_the_way"
    assert report["why"] == {"/etc/systemd/system/ogen-a.service": "masked"}
    assert "exists and is not ogen's" in apply(one, release("new", "ogen-a.service"))["message"]


def test_a_file_of_others_in_the_place_of_a_new_one(one: Host) -> None:
    Path(one.disk.root, "etc/systemd/system/ogen-b.service").write_text("theirs")
    files, _, _ = seen(one, release("old", "ogen-a.service", "ogen-b.service"))
    assert files["/etc/systemd/system/ogen-b.service"]["state"] == "in_the_way"


def test_drop_ins_of_others_for_units_of_ogen(one: Host) -> None:
    """And none for units of others, nor of what the release itself holds."""
    for path in (
        "etc/systemd/system/ogen-a.service.d/override.conf",
        "etc/systemd/system/ogen-a.service.d/README",
        "etc/systemd/system/ssh.service.d/x.conf",
        "run/systemd/system/ogen-.service.d/y.conf",
        "etc/systemd/system.control/ogen-a.service.d/50-MemoryMax.conf",
    ):
        there = Path(one.disk.root, path)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text("[Service]\nNice=5\n")
    files, report, texts = seen(one, release("old", "ogen-a.service"))
    foreign = [path for path, one in files.items() if one["state"] == "foreign"]
    assert foreign == [
        "/etc/systemd/system/ogen-a.service.d/override.conf",
        "/etc/systemd/system.control/ogen-a.service.d/50-MemoryMax.conf",
        "/run/systemd/system/ogen-.service.d/y.conf",
    ]
    assert texts == b"[Service]\nNice=5\n" * 3
    assert report["unchanged"]  # apply leaves them


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[Service]\n  # ogen: keep\nNice=5\n", False),
        ("[Service]\nNice=5 # ogen: keep\n", True),
        ("[Service]\n# ogen: keeps\n", True),
        ("[Service]\n" + "#\n" * 40_000 + "# ogen: keep\n", True),
    ],
)
def test_a_drop_in_that_is_to_stay_says_so(one: Host, text: str, told: bool) -> None:
    there = Path(one.disk.root, "etc/systemd/system/ogen-a.service.d/mine.conf")
    there.parent.mkdir(parents=True)
    there.write_text(text)
    files, _, _ = seen(one, release("old", "ogen-a.service"))
    assert ("/etc/systemd/system/ogen-a.service.d/mine.conf" in files) is told
    (there.parent / "link.conf").symlink_to(there)
    files, _, _ = seen(one, release("old", "ogen-a.service"))
    assert "/etc/systemd/system/ogen-a.service.d/link.conf" in files, "a link tells nothing of itself"


def test_what_is_the_same_takes_no_room(one: Host) -> None:
    files, _, _ = seen(one, release("old", "ogen-a.service"))
    assert all(set(report) == {"path", "state"} for report in files.values())


def test_a_mode_is_an_edit_too(one: Host) -> None:
    old = release("old", "ogen-a.service")
    place(one, old, "a.txt").chmod(0o666)
    assert seen(one, old)[0][A]["state"] == "edited"


def test_no_longer_wanted(one: Host) -> None:
    unit = "/etc/systemd/system/ogen-a.service"
    found = seen(one, release("old"))[0][unit]
    assert found["state"] == "removed"
    place(one, release("old", "ogen-a.service"), "root" + unit).write_text("by hand")
    assert seen(one, release("old"))[0][unit]["state"] == "removed_edited"


def test_a_link_that_became_a_file_is_an_edit(one: Host) -> None:
    link = Path(one.disk.root, "etc/systemd/system/ogen-a.service")
    link.unlink()
    link.write_text("by hand")
    files, report, texts = seen(one, release("old", "ogen-a.service"))
    assert files["/etc/systemd/system/ogen-a.service"]["state"] == "edited"
    assert texts == b"by hand"
    assert report["links"] == ["/etc/systemd/system/ogen-a.service"]
    assert files["/etc/systemd/system/ogen-a.service"]["replaced"]


def test_a_link_that_became_a_file_of_the_same_text_is_an_edit_too(one: Host) -> None:
    link = Path(one.disk.root, "etc/systemd/system/ogen-a.service")
    text = link.resolve().read_bytes() if link.resolve().exists() else UNIT.encode()
    link.unlink()
    link.write_bytes(text)
    files, report, _ = seen(one, release("old", "ogen-a.service"))
    assert files["/etc/systemd/system/ogen-a.service"]["state"] == "edited"
    assert report["why"] == {"/etc/systemd/system/ogen-a.service": "a file stands in place of the link"}


@pytest.mark.parametrize("later", [False, True])
def test_an_edit_of_the_same_size_is_no_content_that_the_host_holds(one: Host, later: bool) -> None:
    old = release("old", "ogen-a.service")
    if later:  # the edited release is the one before
        apply(one, release("new", "ogen-a.service"))
    place(one, old, "a.txt").write_text("0ld")
    _, report, _ = seen(one, old)
    assert report["missing"] == [next(f.sha256 for f in old.files if f.path == A)]


def test_a_missing_link_is_no_rest(one: Host) -> None:
    Path(one.disk.root, "etc/systemd/system/ogen.target.wants/ogen-a.service").unlink()
    report = seen(one, release("old", "ogen-a.service"))[1]
    assert not report["unchanged"]
    assert set(report["why"].values()) == {"disabled"}


def test_a_missing_view_is_no_rest(one: Host) -> None:
    old = release("old", "ogen-a.service")
    stored = old.views[0].path[len("/etc/ogen/current/") :]
    place(one, old, stored).unlink()
    assert not seen(one, old)[1]["unchanged"]
    assert apply(one, old)["status"] == "applied"
    assert seen(one, old)[1]["unchanged"]


def test_secrets_stay_on_the_host(one: Host) -> None:
    files, report, texts = seen(one, release("old", "ogen-a.service", secret="another"))
    assert files["/etc/ogen/current/keys"]["state"] == "pending"
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
