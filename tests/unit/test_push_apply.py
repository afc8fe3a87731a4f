"""Hosts over SSH, against the embedded server: the whole protocol, and every way to be refused."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest
from hosts import Farm, host, options, release

from ogen import push
from ogen.errors import ConnectError, HostError, RemoteError
from ogen.inventory.model import Host, Secret
from ogen.push import handshakes, ssh
from ogen.push.access import Access
from ogen.push.bundle import bundle
from ogen.push.jumps import way
from ogen.push.rollout import each


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with Farm(tmp_path / "farm", "a", "b") as made:
        yield made


def targets(farm: Farm, text: str = "one") -> list[push.Target]:
    return [push.Target(host(farm, n), release(n, text)) for n in farm.servers]


def stamps(farm: Farm) -> list[tuple[str, int, int]]:
    found = (p for n in farm.servers for p in (farm.root(n)).rglob("*"))
    return sorted((str(p), p.lstat().st_ino, p.lstat().st_mtime_ns) for p in found)


def test_apply_then_nothing_to_do_then_a_change_then_back(farm: Farm) -> None:
    events: list[push.Event] = []
    outcome = push.apply(targets(farm), options(farm), events.append)
    assert [r.status for r in outcome.results] == ["applied", "applied"]
    assert {e.host for e in events} == {"a", "b"}
    assert [e.phase for e in events if e.host == "a"][:2] == ["connect", "compare"]
    before, connections = stamps(farm), [s.connections for s in farm.servers.values()]
    again = push.apply(targets(farm), options(farm))
    assert ([r.status for r in again.results], again.exit_code()) == (["unchanged", "unchanged"], 0)
    assert stamps(farm) == before
    assert [s.connections for s in farm.servers.values()] == [c + 1 for c in connections]
    push.apply(targets(farm, "two"), options(farm))
    file = farm.root("a") / "root/etc/ogen/current/0.txt"
    assert file.read_text() == "two\n"
    back = push.rollback([t.host for t in targets(farm)], None, options(farm))
    assert [r.status for r in back.results] == ["applied", "applied"]
    assert file.read_text() == "one\n"


def test_compare_gives_what_a_diff_needs(farm: Farm) -> None:
    push.apply(targets(farm), options(farm))
    wanted = targets(farm, "two")
    found = push.compare(wanted, options(farm))["a"]
    assert isinstance(found, push.Comparison)
    assert [s.path for s in found.files if s.state == "pending"] == ["/etc/ogen/current/0.txt"]
    there = found.on_host(wanted[0].release)
    assert [f.content for f in there.files] == [b"one\n", b"1\n", b"2\n"]


def test_hello_and_history(farm: Farm) -> None:
    push.apply(targets(farm), options(farm, git="abc"))
    one = host(farm, "a")
    facts = push.hello([one], options(farm))["a"]
    assert not isinstance(facts, Exception)
    assert facts["current"] == release("a").id
    entries = push.history([one], options(farm))["a"]
    assert not isinstance(entries, Exception)
    assert (entries[0]["who"], entries[0]["git"], entries[0]["from"]) == ("tester", "abc", None)


def test_an_unreachable_host_does_not_keep_the_others(farm: Farm) -> None:
    farm.servers["b"].close()
    outcome = push.apply(targets(farm), options(farm))
    assert [r.status for r in outcome.results] == ["applied", "unreachable"]
    assert outcome.exit_code() == 4


def test_local_is_the_same_protocol(tmp_path: Path) -> None:
    here = Host("here", "127.0.0.1", connection="local", root=str(tmp_path / "root"))
    outcome = push.apply([push.Target(here, release("here"))])
    assert [r.status for r in outcome.results] == ["applied"]
    assert (tmp_path / "root/etc/ogen/current/0.txt").read_text() == "one\n"


def test_the_agent_is_sent_once(farm: Farm) -> None:
    stored = farm.root("a") / f"root/etc/ogen/agent/{bundle().sha256}.pyz"
    push.apply(targets(farm), options(farm))
    assert stored.read_bytes() == bundle().data
    stored.write_bytes(b"damaged")
    assert push.apply(targets(farm), options(farm)).exit_code() == 0
    push.apply(targets(farm, "two"), options(farm))
    assert stored.read_bytes() == bundle().data


def test_a_file_that_only_another_release_has_is_not_sent_again(farm: Farm) -> None:
    push.apply(targets(farm), options(farm))
    found = push.compare(targets(farm, "two"), options(farm))["a"]
    assert isinstance(found, push.Comparison)
    assert found.missing == {f.sha256 for f in release("a", "two").files} - {
        f.sha256 for f in release("a").files
    }


# ---------------------------------------------------------------------------------- refused
def hello(farm: Farm, one: Host, **keyring: object) -> ConnectError:
    chosen = options(farm)
    chosen = replace(chosen, keyring=replace(chosen.keyring, **keyring))  # type: ignore[arg-type]
    found = push.hello([one], chosen)[one.name]
    assert isinstance(found, ConnectError), found
    return found


def test_an_unknown_host_key(farm: Farm, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("")
    found = hello(farm, host(farm, "a"), known_hosts=(empty,))
    assert "is not known" in found.message
    assert "ogen trust" in str(found.hint)
    assert empty.read_text() == ""


def test_a_changed_host_key(farm: Farm) -> None:
    known = farm.known_hosts.read_text().splitlines()
    name = known[0].split()[0]
    farm.known_hosts.write_text(f"# a comment\n{name} {' '.join(known[1].split()[1:])}\n")
    found = hello(farm, host(farm, "a"))
    assert f"{farm.known_hosts}:2" in found.message


def test_a_pinned_host_key(farm: Farm, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("")
    key = farm.servers["a"].host_key
    one = host(farm, "a", host_key=f"{key.get_name()} {key.get_base64()}")
    chosen = options(farm)
    chosen = replace(chosen, keyring=replace(chosen.keyring, known_hosts=(empty,)))
    assert not isinstance(push.hello([one], chosen)["a"], Exception)
    other = farm.servers["b"].host_key
    wrong = host(farm, "a", host_key=f"{other.get_name()} {other.get_base64()}")
    assert "another key" in hello(farm, wrong).message
    assert "not a public key" in hello(farm, host(farm, "a", host_key="nonsense")).message


def test_a_key_that_the_host_does_not_know(farm: Farm) -> None:
    paramiko.ECDSAKey.generate(bits=256).write_private_key_file(str(farm.folder / "other"))
    found = hello(farm, host(farm, "a", key="other"))
    assert "does not let us in" in found.message
    assert "other" in found.message


def test_a_key_file_that_is_not_there(farm: Farm) -> None:
    assert "is not there" in hello(farm, host(farm, "a", key="nothing")).message


def test_a_host_that_accepts_and_says_nothing(farm: Farm) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        farm.known_hosts.write_text(farm.servers["a"].known.replace(str(farm.port("a")), str(port)))
        found = hello(farm, host(farm, "a", port=port, connect_timeout=0.5))
    assert "does not speak SSH" in found.message


def test_a_host_without_python(farm: Farm) -> None:
    one = replace(host(farm, "a"), python="python3-that-is-not-there")
    found = push.hello([one], options(farm))["a"]
    assert isinstance(found, RemoteError)
    assert "provision" in str(found.hint)


def test_a_jump_host(farm: Farm) -> None:
    one = host(farm, "a", proxy_jump=f"tester@127.0.0.1:{farm.port('b')}")
    assert not isinstance(push.hello([one], options(farm))["a"], Exception)
    assert farm.servers["b"].connections == 1


# ------------------------------------------------------------------------- passwords, and waits
@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Farm]:
    """Four hosts that take the password "right"; the client has no key."""
    monkeypatch.setenv("OGEN_SSH_CONFIG", "none")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with Farm(tmp_path / "farm", *"abcd", password="right") as made:
        yield made


def enter(farm: Farm, word: str | None, **keyring: object) -> dict[str, object]:
    secret = Secret("env", "X") if word else None
    hosts = [host(farm, n, key=None, password=secret) for n in farm.servers]
    ring = push.Keyring(str(farm.folder), (farm.known_hosts,), lambda secret: word or "", **keyring)  # type: ignore[arg-type]
    return dict(push.hello(hosts, push.Options(ring)))


def test_a_wrong_login_password_costs_one_failure(guarded: Farm) -> None:
    assert not [e for e in enter(guarded, "right").values() if isinstance(e, HostError)]
    errors = [e for e in enter(guarded, "wrong").values() if isinstance(e, ConnectError)]
    assert len(errors) == 4
    assert sum(s.passwords.count("wrong") for s in guarded.servers.values()) == 1
    assert sum("the password was not tried" in e.message for e in errors) == 3


def test_a_login_password_is_asked_for_once(guarded: Farm) -> None:
    questions: list[str] = []

    def ask(question: str) -> str:
        questions.append(question)
        return "right"

    assert not [e for e in enter(guarded, None, ask=ask).values() if isinstance(e, HostError)]
    assert len(questions) == 1
    assert questions[0].startswith("password of tester on ")


def test_a_host_that_starts_no_program(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """paramiko would wait for ever for the answer."""
    monkeypatch.setattr(ssh, "ANSWER", 0.5)
    gate = threading.Event()
    monkeypatch.setattr(
        sys.modules[Farm.__module__]._Door, "check_channel_exec_request", lambda *_: gate.wait(20)
    )
    found = hello(farm, host(farm, "a"))
    gate.set()
    assert "no program can be started: no answer in time" in found.message


def test_cheap_algorithms_and_no_nagle(farm: Farm) -> None:
    """Also towards the first hop of a longer way."""
    one = host(farm, "a", proxy_jump=f"tester@127.0.0.1:{farm.port('b')}")
    ring = options(farm).keyring
    made = ssh.connect("a", way(one, ring), ring)
    try:
        for hop in made.hops:
            assert hop.transport.local_cipher == "aes128-gcm@openssh.com"
            offered = hop.transport.get_security_options().kex
            assert offered[:2] == ("curve25519-sha256@libssh.org", "ecdh-sha2-nistp256")
        first = made.hops[0].wire
        assert first.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert first._quick
    finally:
        made.close()


def test_so_many_handshakes_at_once_and_no_more() -> None:
    access = Access("192.0.2.77", 22, "me", (), False, None, None, None, None, 1.0)
    now, most, lock = 0, 0, threading.Lock()

    def one(number: int) -> None:
        nonlocal now, most
        with handshakes.turn(access, f"h{number}"):
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.02)
            with lock:
                now -= 1

    each(range(40), one, 40)
    assert most == handshakes.LIMIT


def test_nothing_is_left_open(farm: Farm) -> None:
    push.apply(targets(farm), options(farm))
    for thread in threading.enumerate():
        if isinstance(thread, paramiko.Transport) and not thread.server_mode:
            thread.join(5)
            assert not thread.is_alive()
