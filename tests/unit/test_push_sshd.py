"""Connections against OpenSSH's own server, by paramiko and by OpenSSH's client: keys, authorities, jumps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from realsshd import ADDRESS, RealFarm, keygen, new_key, real_farm
from strangers import stranger

from ogen import push
from ogen.errors import ConnectError, HostError, OfflineError
from ogen.inventory.model import Host, Secret, Ssh
from ogen.push import carrier, handshakes, ssh
from ogen.push.access import Keyring
from ogen.push.jumps import way
from ogen.push.rollout import each

BOTH = pytest.mark.parametrize("transport", ["paramiko", "openssh"])


@pytest.fixture
def farm(tmp_path: Path, need, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealFarm]:
    need("sshd")
    monkeypatch.setenv("OGEN_SSH_CONFIG", "none")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with real_farm(tmp_path / "farm") as made:
        yield made


def host(farm: RealFarm, name: str, transport: str = "paramiko", address: str = ADDRESS, **ssh: Any) -> Host:
    settings = {"user": farm.user, "key": "key", **ssh}
    if address == ADDRESS:
        settings.setdefault("port", farm.servers[name].port)
    root = str(farm.folder / name / "root")
    return Host(name, address, root=root, transport=transport, ssh=Ssh(**settings))  # type: ignore[arg-type]


def hello(farm: RealFarm, one: Host, heard: list[push.Event] | None = None, **keyring: Any) -> Any:
    ring = Keyring(str(farm.folder), **{"known_hosts": (farm.known_hosts,), **keyring})
    events = heard if heard is not None else []
    return push.hello([one], push.Options(ring), events.append)[one.name]


def refused(farm: RealFarm, one: Host, **keyring: Any) -> HostError:
    found = hello(farm, one, **keyring)
    assert isinstance(found, HostError), found
    return found


def works(farm: RealFarm, one: Host, **keyring: Any) -> list[str]:
    """What was told about the connection."""
    heard: list[push.Event] = []
    found = hello(farm, one, heard, **keyring)
    assert not isinstance(found, HostError), f"{found} {found.log}"
    return [e.message for e in heard if e.phase == "connect" and e.message]


# --------------------------------------------------------------------------------------- jumps
@pytest.fixture
def chain(farm: RealFarm, monkeypatch: pytest.MonkeyPatch) -> RealFarm:
    """one → two → three, each allowing its successor only; the names exist in ssh_config alone."""
    three = farm.add("three")
    two = farm.add("two", f"PermitOpen {ADDRESS}:{three.port}\n")
    one = farm.add("one", f"PermitOpen {ADDRESS}:{two.port}\n")
    text = "".join(
        f"Host {name}\n HostName {ADDRESS}\n Port {server.port}\n User {farm.user}\n"
        f" IdentityFile {farm.key}\n{jump}"
        for name, server, jump in (
            ("one", one, " ProxyJump none\n"),
            ("two", two, " ProxyJump one\n"),
            ("three", three, " ProxyJump two\n"),
        )
    )
    (farm.folder / "config").write_text(text)
    monkeypatch.setenv("OGEN_SSH_CONFIG", str(farm.folder / "config"))
    return farm


@BOTH
def test_three_hops_of_ssh_config(chain: RealFarm, transport: str) -> None:
    works(chain, host(chain, "three", transport, "three", user=None, key=None))
    assert [s.logins for s in chain.servers.values()] == [1, 1, 1]


@BOTH
def test_hops_of_the_inventory(chain: RealFarm, transport: str) -> None:
    works(chain, host(chain, "three", transport, "three", proxy_jump="one,two"))
    assert [s.logins for s in chain.servers.values()] == [1, 1, 1]
    straight = host(chain, "three", transport, "three", proxy_jump="none")
    works(chain, straight)
    assert [s.logins for s in chain.servers.values()] == [2, 1, 1]


@BOTH
def test_each_hops_key_is_checked(chain: RealFarm, transport: str) -> None:
    two = chain.servers["two"]
    chain.known_hosts.write_text(chain.known_hosts.read_text().replace(two.known, ""))
    found = refused(chain, host(chain, "three", transport, "three"))
    assert f"the host key of [{ADDRESS}]:{two.port} is not known" in found.message
    assert "ogen trust" in str(found.hint)
    assert chain.servers["three"].logins == 0


@BOTH
def test_a_jump_that_must_not(chain: RealFarm, transport: str) -> None:
    found = refused(chain, host(chain, "three", transport, "three", proxy_jump="one"))
    assert "does not reach 127.0.0.1" in found.message
    assert "AllowTcpForwarding" in str(found.hint)


# ---------------------------------------------------------------------------------------- keys
@BOTH
def test_a_certificate_beside_the_key(farm: RealFarm, transport: str) -> None:
    authority = new_key(farm.folder / "ca")
    more = "TrustedUserCAKeys {farm}/ca.pub\nAuthorizedKeysFile none\n"
    farm.add("a", more)
    own = new_key(farm.folder / "own")
    assert "does not let us in" in refused(farm, host(farm, "a", transport, key="own")).message
    keygen("-s", authority, "-I", "me", "-n", farm.user, "-V", "-2d:-1d", f"{own}.pub")
    assert "does not let us in" in refused(farm, host(farm, "a", transport, key="own")).message
    keygen("-s", authority, "-I", "me", "-n", farm.user, "-V", "-1h:+1h", f"{own}.pub")
    works(farm, host(farm, "a", transport, key="own"))


def test_a_certificate_that_ssh_config_names(farm: RealFarm, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = new_key(farm.folder / "ca")
    farm.add("a", "TrustedUserCAKeys {farm}/ca.pub\nAuthorizedKeysFile none\n")
    own, other = new_key(farm.folder / "own"), new_key(farm.folder / "other")
    for key in (own, other):
        keygen("-s", authority, "-I", "me", "-n", farm.user, f"{key}.pub")
        Path(f"{key}-cert.pub").rename(f"{key}.certificate")
    text = f"IdentityFile {own}\nCertificateFile {other}.certificate\nCertificateFile {own}.certificate\n"
    (farm.folder / "config").write_text(text)
    monkeypatch.setenv("OGEN_SSH_CONFIG", str(farm.folder / "config"))
    works(farm, host(farm, "a", key=None))
    assert "Accepted certificate" in farm.servers["a"].log


def test_a_passphrase_is_asked_once_for_all_hosts(farm: RealFarm) -> None:
    locked = new_key(farm.folder / "locked", "opensesame")
    (farm.folder / "key.pub").write_text(locked.with_suffix(".pub").read_text())
    hosts = [host(farm, farm.add(name).name, key="locked") for name in ("a", "b", "c")]
    questions: list[str] = []

    def ask(question: str) -> str:
        questions.append(question)
        time.sleep(0.2)
        return "opensesame"

    ring = Keyring(str(farm.folder), (farm.known_hosts,), ask=ask)
    found = push.hello(hosts, push.Options(ring))
    assert not [answer for answer in found.values() if isinstance(answer, HostError)], found
    assert questions == [f"passphrase of {locked}: "]
    wrong = refused(farm, hosts[0], ask=lambda question: "closed")
    assert "wrong passphrase" in wrong.message
    alone = refused(farm, hosts[0])
    assert f"{locked} has a passphrase: `ssh-add {locked}` first" in alone.message


@pytest.fixture
def agent(farm: RealFarm) -> Iterator[Path]:
    """The socket of a real agent, without keys."""
    path = farm.folder / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    while not path.exists():
        time.sleep(0.01)
    yield path
    process.terminate()
    process.wait(10)


def add(agent: Path, key: Path, word: str = "") -> None:
    """Puts a key into the agent; one with a passphrase without it, by way of a copy."""
    copy = key.with_name(key.name + ".open")
    copy.write_bytes(key.read_bytes())
    copy.chmod(0o600)
    if word:
        keygen("-p", "-P", word, "-N", "", "-f", copy)
    env = {**os.environ, "SSH_AUTH_SOCK": str(agent)}
    subprocess.run(["ssh-add", "-q", str(copy)], check=True, env=env, stdin=subprocess.DEVNULL)
    copy.unlink()


def test_the_agents_keys(farm: RealFarm, agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the agent holds needs no passphrase; IdentitiesOnly leaves the agent's others alone."""
    farm.add("a")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
    monkeypatch.setenv("HOME", str(farm.folder))
    locked = new_key(farm.folder / "locked", "opensesame")
    add(agent, farm.key)
    works(farm, host(farm, "a", key=None))
    assert "does not let us in" in refused(farm, host(farm, "a", key="locked")).message
    (farm.folder / "key.pub").write_text(locked.with_suffix(".pub").read_text())
    add(agent, locked, "opensesame")
    works(farm, host(farm, "a", key="locked"))


def test_a_server_that_has_enough_of_our_keys(farm: RealFarm, monkeypatch: pytest.MonkeyPatch) -> None:
    farm.add("a", "MaxAuthTries 3\n")
    keys = "".join(f"IdentityFile {new_key(farm.folder / f'k{n}')}\n" for n in range(5))
    (farm.folder / "config").write_text(keys)
    monkeypatch.setenv("OGEN_SSH_CONFIG", str(farm.folder / "config"))
    found = refused(farm, host(farm, "a", key=None))
    assert "too many keys were offered: name the right one in ssh.key" in str(found.hint), found


# --------------------------------------------------------------------------------- host keys
@BOTH
def test_hashed_names(farm: RealFarm, transport: str) -> None:
    farm.add("a")
    keygen("-H", "-f", farm.known_hosts)
    assert ADDRESS not in farm.known_hosts.read_text()
    works(farm, host(farm, "a", transport))


@BOTH
def test_a_pin_of_the_inventory(farm: RealFarm, transport: str) -> None:
    public = farm.add("a").public
    other = farm.add("b").public
    farm.known_hosts.write_text("")
    works(farm, host(farm, "a", transport, host_key=public))
    assert "another key" in refused(farm, host(farm, "a", transport, host_key=other)).message


@BOTH
def test_a_changed_key(farm: RealFarm, transport: str) -> None:
    a, b = farm.add("a"), farm.add("b")
    farm.known_hosts.write_text(f"# comment\n[{ADDRESS}]:{a.port} {b.public}\n")
    found = refused(farm, host(farm, "a", transport))
    assert f"the host shows another key than {farm.known_hosts}:2" in found.message
    assert "remove that line" in str(found.hint)


@BOTH
def test_a_revoked_key(farm: RealFarm, transport: str) -> None:
    a = farm.add("a")
    farm.known_hosts.write_text(f"{a.known}@revoked * {a.public}\n")
    found = refused(farm, host(farm, "a", transport))
    assert "revoke" in found.message
    assert a.logins == 0


def certify(farm: RealFarm, name: str, principal: str, valid: str) -> None:
    server = farm.servers[name]
    keygen(
        "-s",
        farm.folder / "ca",
        "-h",
        "-I",
        name,
        "-n",
        principal,
        "-V",
        valid,
        server.folder / "host_key.pub",
    )
    server.stop()
    server.start()


def test_an_authority_of_host_keys(farm: RealFarm) -> None:
    """OpenSSH's client is taken for such a host, and it is said; principals and time count."""
    public = " ".join(new_key(farm.folder / "ca").with_suffix(".pub").read_text().split()[:2])
    a = farm.add("a", "HostCertificate {folder}/host_key-cert.pub\n")
    farm.known_hosts.write_text(f"@cert-authority [127.0.0.*]:* {public}\n")
    certify(farm, "a", ADDRESS, "-1h:+1h")
    told = works(farm, host(farm, "a"))
    assert told == [
        f"by OpenSSH's client: {farm.known_hosts}:1 leaves the host's key to a certificate authority"
    ]
    certify(farm, "a", "other.example", "-1h:+1h")
    wrong = refused(farm, host(farm, "a"))
    assert "the host's certificate does not count" in wrong.message
    assert "principal" in wrong.message
    certify(farm, "a", ADDRESS, "-2d:-1d")
    assert "expired" in refused(farm, host(farm, "a")).message
    certify(farm, "a", ADDRESS, "-1h:+1h")
    with farm.known_hosts.open("a") as file:
        file.write(f"@revoked * {public}\n")
    assert isinstance(refused(farm, host(farm, "a")), ConnectError)
    farm.known_hosts.write_text(f"@cert-authority * {public}\n{a.known}")
    assert works(farm, host(farm, "a")) == []  # pinned as well: paramiko will do


# ------------------------------------------------------------------------------------- limits
def open_things() -> tuple[int, int]:
    """Threads and file descriptors of this process."""
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


def test_thirty_hosts_behind_a_strict_jump(farm: RealFarm) -> None:
    """The jump's sshd drops every connection above ten that is not logged in yet; nothing is left open."""
    jump = farm.add("jump", "MaxStartups 10:100:10\n")
    end = farm.add("end", "MaxStartups 10:100:10\n")
    via = f"{farm.user}@{ADDRESS}:{jump.port}"
    one = host(farm, "end", proxy_jump=via)
    ring = Keyring(str(farm.folder), (farm.known_hosts,))

    def word(number: int) -> str:
        pipe = ssh.connect(f"h{number}", way(one, ring), ring).run(f"echo {number}")
        try:
            return pipe.take(100, 30).decode()
        finally:
            pipe.close()

    before = open_things()
    assert each(range(30), word, 30) == [f"{number}\n" for number in range(30)]
    assert (jump.logins, end.logins) == (30, 30)
    assert open_things() == before


def test_failures_leave_nothing_open(farm: RealFarm) -> None:
    a, b = farm.add("a"), farm.add("b")
    new_key(farm.folder / "stranger")
    changed = host(farm, "a", host_key=b.public)
    bad = [
        changed,
        host(farm, "a", key="stranger"),
        host(farm, "a", proxy_jump=f"{farm.user}@{ADDRESS}:{b.port},nobody@{ADDRESS}:{b.port}"),
        host(farm, "a", port=1),
        replace(host(farm, "a"), python="no-python"),
        host(farm, "a", transport="openssh", key="stranger"),
        host(farm, "a", transport="openssh", host_key=b.public),
    ]
    hosts = [replace(one, name=f"h{n}-{i}") for n in range(4) for i, one in enumerate(bad)]
    ring = Keyring(str(farm.folder), (farm.known_hosts,))
    before = open_things()
    found = push.hello(hosts, push.Options(ring))
    assert all(isinstance(answer, HostError) for answer in found.values()), found
    assert open_things() == before
    assert a.logins >= 4


def test_a_dead_jump_costs_one_timeout(farm: RealFarm) -> None:
    farm.add("end")
    with stranger("silent") as port:
        farm.known_hosts.write_text(f"[{ADDRESS}]:{port} {farm.servers['end'].public}\n")
        via = f"{farm.user}@{ADDRESS}:{port}"
        one = host(farm, "end", proxy_jump=via, connect_timeout=1.0)
        hosts = [replace(one, name=f"h{n}") for n in range(3 * handshakes.LIMIT)]
        ring = Keyring(str(farm.folder), (farm.known_hosts,))
        found = push.hello(hosts, push.Options(ring, parallel=64))
    assert {type(answer) for answer in found.values()} == {OfflineError}
    assert {answer.message for answer in found.values()} == {  # type: ignore[union-attr]
        f"{ADDRESS}:{port}: it accepts the connection, and says nothing: it does not speak SSH"
    }


# ------------------------------------------------------------------------------------- faults
@BOTH
@pytest.mark.parametrize(
    ("kind", "words", "hint"),
    [
        ("silent", "does not speak SSH", "ssh.connect_timeout|sshd's log"),
        ("closes", "closes the connection at once|closes at once", "sshd's log"),
        ("garbage", "does not speak SSH", "is that port sshd's|another service"),
    ],
)
def test_what_is_no_sshd(farm: RealFarm, transport: str, kind: str, words: str, hint: str) -> None:
    public = farm.add("a").public
    with stranger(kind) as port:
        farm.known_hosts.write_text(f"[{ADDRESS}]:{port} {public}\n")
        found = refused(farm, host(farm, "a", transport, port=port, connect_timeout=1.0))
    assert isinstance(found, ConnectError)
    assert re.search(words, found.message), found.message
    assert re.search(hint, str(found.hint)), found.hint


def test_an_sshd_that_falls_silent(farm: RealFarm) -> None:
    public = farm.add("a").public
    with stranger("greets") as port:
        farm.known_hosts.write_text(f"[{ADDRESS}]:{port} {public}\n")
        found = refused(farm, host(farm, "a", port=port, connect_timeout=0.5))
    assert "begins to speak SSH, and then falls silent" in found.message


@BOTH
def test_a_wrong_user_and_a_closed_port(farm: RealFarm, transport: str) -> None:
    farm.add("a")
    found = refused(farm, host(farm, "a", transport, user="nobody-there"))
    assert "nobody-there@127.0.0.1 does not let us in" in found.message
    assert "authorized_keys" in str(found.hint)
    farm.servers["a"].stop()
    gone = refused(farm, host(farm, "a", transport))
    assert "connection refused" in gone.message.lower()
    assert "sshd running" in str(gone.hint)


def test_openssh_takes_no_password(farm: RealFarm) -> None:
    farm.add("a")
    one = host(farm, "a", "openssh", password=Secret("env", "X"))
    assert "log in with a key" in str(refused(farm, one, reveal=lambda secret: "x").hint)


def test_a_proxy_command_is_left_to_openssh(farm: RealFarm, monkeypatch: pytest.MonkeyPatch) -> None:
    port = farm.add("a").port
    relay = farm.folder / "relay"
    relay.write_text("exec 3<>/dev/tcp/$1/$2; cat <&3 & cat >&3; kill %1\n")
    text = f"Host odd\n HostName {ADDRESS}\n Port {port}\n ProxyCommand bash {relay} %h %p\n"
    (farm.folder / "config").write_text(text)
    monkeypatch.setenv("OGEN_SSH_CONFIG", str(farm.folder / "config"))
    told = works(farm, host(farm, "a", address="odd"))
    assert told == ["by OpenSSH's client: ssh_config has a ProxyCommand for it"]


def test_only_oddities_need_openssh(chain: RealFarm) -> None:
    ring = Keyring(str(chain.folder), (chain.known_hosts,))
    assert carrier.foreign("three", way(host(chain, "three", address="three"), ring)) is None
