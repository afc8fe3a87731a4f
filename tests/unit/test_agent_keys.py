"""Whose keys are in force: those of the last apply, whatever release is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from agents import apply, ask, host

from ogen.agent import keys, owner, recovery
from ogen.agent.transaction import Host
from ogen.release.model import BalancerProof, File, Release

CONF = "map $ogen_presented $ogen_key {\n    include keys.conf;\n}\n"


@pytest.fixture(autouse=True)
def _hears_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_deaf", lambda: None)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(os, "fdatasync", lambda handle: None)


@pytest.fixture
def one(tmp_path: Path) -> Host:
    return host(tmp_path / "host")


def release(text: str, conf: str = CONF, **held: str) -> Release:
    """A release with a balancer for each of `held`, which are its keys."""
    folder = "/etc/ogen/current/balancers"
    files = [File("/etc/ogen/current/a.txt", text.encode())]
    for name, said in held.items():
        files.append(File(f"{folder}/{name}/keys.conf", said.encode(), 0o600, secret=True))
        files.append(File(f"{folder}/{name}/nginx.conf", conf.encode()))
    proofs = [
        BalancerProof(f"ogen-balancer-{n}.service", n, f"{folder}/{n}/nginx.conf", "/run/x", "0" * 16)
        for n in held
    ]
    return Release("gpu1", tuple(sorted(files, key=lambda f: f.path)), balancers=tuple(proofs))


def in_force(one: Host, name: str = "api") -> str:
    return one.disk.read_or(keys.place(name)).decode()


def unchanged(one: Host, wanted: Release) -> bool:
    return bool(ask(one, "compare", manifest=wanted.manifest(), text=False)["report"]["unchanged"])


FIRST, SECOND, THIRD = (release(text, api=f"keys of the {text}") for text in ("first", "second", "third"))


def test_an_apply_brings_its_keys_and_a_rollback_leaves_them(one: Host) -> None:
    for each in (FIRST, SECOND):
        assert apply(one, each)["status"] == "applied"
    for wanted in (FIRST, SECOND, FIRST):
        assert ask(one, "rollback")["status"] == "applied"
        assert one.store.current == wanted.id
        assert in_force(one) == "keys of the second"
    assert apply(one, THIRD)["status"] == "applied"
    assert in_force(one) == "keys of the third"


def test_the_release_that_is_in_force_with_the_keys_of_another_is_something_to_apply(one: Host) -> None:
    for each in (FIRST, SECOND):
        apply(one, each)
    assert unchanged(one, SECOND)
    ask(one, "rollback")
    assert not unchanged(one, FIRST)
    assert apply(one, FIRST)["status"] == "applied"
    assert in_force(one) == "keys of the first"
    assert unchanged(one, FIRST)


def test_a_release_whose_keys_are_in_force_is_kept(one: Host) -> None:
    for each in (FIRST, SECOND):
        apply(one, each)
    ask(one, "rollback")
    apply(one, release("without"))
    apply(one, release("without any"))
    assert SECOND.id in one.store.names()
    assert FIRST.id not in one.store.names()
    assert in_force(one) == "keys of the second", "for a rollback to a release that has the balancer"


def test_a_balancer_that_comes_back_by_a_rollback_lets_in_whom_it_did_last(one: Host) -> None:
    for each in (FIRST, SECOND, release("without")):
        apply(one, each)
    assert ask(one, "rollback")["status"] == "applied"
    assert one.store.current == SECOND.id
    assert in_force(one) == "keys of the second"


def test_an_apply_that_fails_restores_the_keys(one: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(one, FIRST)
    real, seen = keys.take, []

    def take(*args: object) -> None:
        real(*args)  # type: ignore[arg-type]
        seen.append(in_force(one))
        raise OSError(5, "input/output error")

    monkeypatch.setattr(keys, "take", take)
    both = release("second", api="keys of the second", other="and another")
    assert apply(one, both)["status"] == "rolled_back"
    assert seen == ["keys of the second"]
    assert in_force(one) == "keys of the first"
    assert one.disk.link(keys.place("other")) is None


def test_what_was_proven_gets_its_keys_though_a_way_back_had_begun(one: Host) -> None:
    """PROVEN could be written after all; the way back that was taken was killed ahead of its flip."""
    for each in (FIRST, SECOND):
        apply(one, each)
    begin = next(record for record in one.journal.records() if record["rec"] == "BEGIN")
    one.journal.begin({key: value for key, value in begin.items() if key != "rec"})
    for record in ("PREPARED", "FLIP", "PROVEN"):
        one.journal.add(record)
    keys.give_back(one.disk, begin)
    assert in_force(one) == "keys of the first"
    recovery.recover(one)
    assert one.store.current == SECOND.id
    assert in_force(one) == "keys of the second"


def test_keys_of_another_form_are_not_read(one: Host) -> None:
    """Those of the plain tiers are texts, those of the router tiers may be digests."""
    apply(one, FIRST)
    apply(one, release("second", CONF.replace("presented", "digest"), api="digests"))
    said = ask(one, "rollback")
    assert "it wants $ogen_presented, and they are for $ogen_digest" in said["message"]
    assert "an apply brings its own keys" in said["hint"]
    assert one.store.current != FIRST.id
    assert apply(one, FIRST)["status"] == "applied"


def test_an_upgrade_finds_no_links_and_reads_the_releases_own(one: Host) -> None:
    for each in (FIRST, SECOND):
        apply(one, each)
    one.disk.remove_tree(keys.KEYS)
    assert unchanged(one, SECOND)
    assert ask(one, "rollback")["status"] == "applied"
    assert in_force(one) == ""


def test_nginx_is_told_when_it_has_other_keys(one: Host) -> None:
    apply(one, FIRST)
    proof = {"balancer": "api", "unit": "ogen-balancer-api.service"}
    taken = one.disk.real(keys.TAKEN % "api")
    Path(taken).parent.mkdir(parents=True)
    Path(taken).write_text("keys of the first")
    assert not keys.untaken(one.disk, proof, {})
    Path(taken).write_text("others")
    assert keys.untaken(one.disk, proof, {})
    inside = {"balancer": "api", "unit": "nginx.service"}
    before = one.disk.link(keys.place("api"))
    apply(one, SECOND)
    assert keys.untaken(one.disk, inside, {"keys": {"api": before}})
    assert not keys.untaken(one.disk, inside, {"keys": {"api": one.disk.link(keys.place("api"))}})
    assert not keys.untaken(one.disk, inside, {"keys": {"api": None}})
