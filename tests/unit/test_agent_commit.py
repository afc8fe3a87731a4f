"""The transaction in a folder, and what recovery does; kills and power cuts are in tests/crash."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from agents import apply as apply_to
from agents import ask, host, release

from ogen.agent import owner, recovery, transaction
from ogen.agent.transaction import Host
from ogen.release.model import Release

OLD = release("old", "ogen-a.service", "ogen-b.service")
NEW = release("new", "ogen-b.service", "ogen-c.service")


@pytest.fixture(autouse=True)
def _hears_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_deaf", lambda: None)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a killed process loses nothing by it
    monkeypatch.setattr(os, "fdatasync", lambda handle: None)


def wholly(one: Host, wanted: Release) -> bool:
    """Whether exactly this release is in force, undamaged, with its links and no other."""
    name = one.store.current
    if name is None or name.split("-")[0] != wanted.id or one.store.damage(name):
        return False
    links = one.store.links(name)
    found = {
        "/" + str(p.relative_to(one.disk.root)): str(p.readlink())
        for p in Path(one.disk.root, "etc/systemd").rglob("*")
        if p.is_symlink()
    }
    return found == links


@pytest.mark.parametrize(
    ("seen", "current", "same_boot", "how"),
    [
        ("BEGIN", "old", True, "abort"),
        ("BEGIN PREPARED", "old", True, "abort"),
        ("BEGIN PREPARED", "old", False, "abort"),
        ("BEGIN PREPARED FLIP", "old", True, "abort"),
        ("BEGIN PREPARED FLIP", "new", True, "forward"),
        ("BEGIN PREPARED FLIP RESTARTED RELOADED", "new", True, "forward"),
        ("BEGIN PREPARED FLIP RESTARTED AGAIN", "new", True, "back"),
        ("BEGIN PREPARED FLIP RESTARTED", "new", False, "back"),
        ("BEGIN PREPARED FLIP PROVEN", "new", True, "finish"),
        ("BEGIN PREPARED FLIP PROVEN", "old", True, "back"),
        ("BEGIN PREPARED FLIP PROVEN", "new", False, "finish"),
        ("BEGIN PREPARED FLIP REVERTING", "new", True, "back"),
        ("BEGIN PREPARED FLIP REVERTING", "old", False, "back"),
    ],
)
def test_recovery(seen: str, current: str, same_boot: bool, how: str) -> None:
    records = [{"rec": rec, "to": "new", "from": "old", "boot": "1"} for rec in seen.split()]
    assert recovery.outcome(records, current, "1" if same_boot else "2") == how


def test_applied_then_rolled_back_then_back_again(tmp_path: Path) -> None:
    one = host(tmp_path)
    apply_to(one, OLD)
    apply_to(one, NEW)
    assert ask(one, "rollback")["status"] == "applied"
    assert wholly(one, OLD)
    assert ask(one, "rollback", to=NEW.id)["status"] == "applied"
    assert wholly(one, NEW)
    assert [e["status"] for e in transaction.history(one)] == ["applied"] * 4


def test_rollback_without_an_earlier_release(tmp_path: Path) -> None:
    one = host(tmp_path)
    apply_to(one, OLD)
    assert "no earlier release" in ask(one, "rollback")["message"]
    assert "not on this host" in ask(one, "rollback", to="ffff")["message"]


def test_a_damaged_release_is_not_rolled_back_to(tmp_path: Path) -> None:
    one = host(tmp_path)
    apply_to(one, OLD)
    apply_to(one, NEW)
    (tmp_path / f"etc/ogen/releases/{OLD.id}/tree/a.txt").write_text("edited")
    assert "damaged" in ask(one, "rollback")["message"]


def test_another_base_than_planned(tmp_path: Path) -> None:
    one = host(tmp_path)
    apply_to(one, OLD)
    said = apply_to(one, NEW, base="somethingelse")
    assert (said["kind"], wholly(one, OLD)) == ("changed", True)
    assert apply_to(one, NEW, base=OLD.id)["status"] == "applied"


def test_somebody_elses_file_is_never_replaced(tmp_path: Path) -> None:
    one = host(tmp_path)
    apply_to(one, OLD)
    foreign = tmp_path / "etc/systemd/system/ogen-c.service"
    foreign.write_text("mine")
    said = apply_to(one, NEW)
    assert "is not ogen's" in said["message"]
    assert foreign.read_text() == "mine"
    assert wholly(one, OLD)
    assert one.store.names() == [OLD.id]


def test_a_link_that_an_editor_made_a_file_of_comes_back_and_the_edit_is_kept(tmp_path: Path) -> None:
    one = host(tmp_path)
    apply_to(one, OLD)
    place = tmp_path / "etc/systemd/system/ogen-b.service"
    place.unlink()
    place.write_text("mine")
    assert apply_to(one, NEW)["status"] == "applied"
    assert wholly(one, NEW)
    assert (tmp_path / "etc/ogen/edited/etc/systemd/system/ogen-b.service").read_text() == "mine"


def test_a_busy_host(tmp_path: Path) -> None:
    one = host(tmp_path)
    apply_to(one, OLD)
    held = transaction.Locks(one)
    held.take({"who": "somebody", "what": "apply"})
    said = apply_to(host(tmp_path), NEW)
    held.drop()
    assert said["kind"] == "locked"
    assert "somebody" in said["message"]
    assert apply_to(one, NEW)["status"] == "applied"


def test_old_releases_are_collected(tmp_path: Path) -> None:
    one = host(tmp_path)
    for number in range(4):
        apply_to(one, release(str(number)))
    assert set(one.store.names()) == {release("3").id, release("2").id}


def of_version(version: str, text: str = "") -> Release:
    program = f"/opt/ogen/ollama/{version}/bin/ollama"
    return replace(release(version + text), librarian={"program": program})


def versions(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "opt/ogen/ollama").iterdir())


def test_versions_of_ollama_go_with_the_last_release_that_names_them(tmp_path: Path) -> None:
    one = host(tmp_path)
    for version in ("1", "2", "3", "4"):
        (tmp_path / f"opt/ogen/ollama/{version}/lib").mkdir(parents=True)
        (tmp_path / f"opt/ogen/ollama/{version}/lib/link").symlink_to("nowhere")
    apply_to(one, of_version("1"))
    assert versions(tmp_path) == ["1"]
    (tmp_path / "opt/ogen/ollama/2").mkdir()
    apply_to(one, of_version("2"))
    assert versions(tmp_path) == ["1", "2"], "a rollback needs the one before"
    assert ask(one, "rollback")["status"] == "applied"
    assert versions(tmp_path) == ["1", "2"]
    for text in "ab":
        apply_to(one, of_version("2", text))
    assert versions(tmp_path) == ["2"]
    for text in "ab":
        apply_to(one, release(text))
    assert versions(tmp_path) == []


def test_an_apply_that_was_refused_leaves_the_version_that_waits_for_it(tmp_path: Path) -> None:
    one = host(tmp_path)
    (tmp_path / "opt/ogen/ollama/1").mkdir(parents=True)
    apply_to(one, of_version("1"))
    (tmp_path / "opt/ogen/ollama/2").mkdir(parents=True)
    assert "error" in apply_to(one, of_version("2"), base="another")["reply"]
    assert "error" not in ask(one, "gc")["reply"]
    assert versions(tmp_path) == ["1", "2"]


def test_what_provision_has_put_there_goes_with_ogen(tmp_path: Path) -> None:
    one = host(tmp_path)
    for folder in ("ollama/1/bin", "queue/0123456789abcdef/saq"):
        (tmp_path / "opt/ogen" / folder).mkdir(parents=True)
    apply_to(one, of_version("1"))
    assert "in force" in str(ask(one, "remove"))
    assert (tmp_path / "opt/ogen/queue").exists()
    apply_to(one, Release("gpu1", ()))
    assert ask(one, "remove")["reply"] == "ok"
    assert not (tmp_path / "opt/ogen").exists()


def test_agents_of_other_versions_are_collected(tmp_path: Path) -> None:
    """But the one that the recovery at boot would start."""
    one = host(tmp_path)._replace(agent="own")
    agents = tmp_path / "etc/ogen/agent"
    agents.mkdir(parents=True)
    for name in ("own.pyz", "old.pyz", "boot.pyz"):
        (agents / name).write_bytes(b"")
    unit = Path(one.disk.real(owner.RECOVER))
    unit.parent.mkdir(parents=True)
    unit.write_text(f"ExecStart=python3 -I {owner.AGENTS}/boot.pyz recover\n")
    apply_to(one, NEW)
    assert {path.name for path in agents.iterdir()} == {"own.pyz", "boot.pyz"}


def test_a_damaged_journal_is_an_alarm_and_no_dead_end(tmp_path: Path) -> None:
    one = host(tmp_path)
    apply_to(one, OLD)
    (tmp_path / "etc/ogen/journal").write_bytes(b"00000000 {}\n00000000 {}\n")
    result = recovery.recover(one)
    assert result is not None
    assert result["status"] == "stuck"
    assert apply_to(one, NEW)["status"] == "applied"


def test_the_audit_holds_no_secret(tmp_path: Path) -> None:
    apply_to(host(tmp_path), release("x", secret="canary-0815"))
    held = [p for p in tmp_path.rglob("*") if p.is_file() and b"canary-0815" in p.read_bytes()]
    assert [p.name for p in held] == ["keys"]
    assert held[0].stat().st_mode & 0o777 == 0o600
