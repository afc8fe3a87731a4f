"""How a host is reached: the inventory over ssh_config as the real `ssh -G` reads it, tokens, the jumps."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from ogen.errors import ConnectError
from ogen.inventory.model import Host, Secret, Ssh
from ogen.push import access, jumps, sshconfig
from ogen.push.access import Keyring


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("OGEN_KNOWN_HOSTS", "SSH_AUTH_SOCK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OGEN_SSH_CONFIG", "none")
    (tmp_path / ".ssh").mkdir()
    return tmp_path


@pytest.fixture
def config(home: Path, monkeypatch: pytest.MonkeyPatch, need):
    """`config(text)`: from here on that is the user's ssh_config, read by the real client."""
    need("ssh")
    file = home / "config"
    monkeypatch.setenv("OGEN_SSH_CONFIG", str(file))
    return lambda text: file.write_text(text)


def names(host: Host, ring: Keyring | None = None) -> list[str]:
    return [f"{a.user}@{a.address}:{a.port}" for a in jumps.way(host, ring or Keyring())]


def test_without_a_configuration(home: Path) -> None:
    (home / ".ssh/id_ed25519").write_text("x")
    one = access.resolve(Host("gpu1", "192.0.2.1", ssh=Ssh(user="ops")), Keyring())
    assert (one.address, one.port, one.user, one.known_as) == ("192.0.2.1", 22, "ops", "192.0.2.1")
    assert one.keys == (str(home / ".ssh/id_ed25519"),)
    assert not one.only_keys


def test_the_inventory_wins_over_ssh_config(config) -> None:
    config("Host gpu1\n HostName 10.0.0.9\n Port 2222\n User other\n ProxyJump jump\n HostKeyAlias gpu\n")
    one = access.resolve(Host("gpu1", "gpu1", ssh=Ssh(user="ops", proxy_jump="none")), Keyring())
    assert (one.address, one.port, one.user, one.alias, one.jump) == ("10.0.0.9", 2222, "ops", "gpu", None)
    two = access.resolve(Host("gpu1", "gpu1"), Keyring())
    assert (two.user, two.jump) == ("other", "jump")


def test_match_include_and_tokens(config, home: Path) -> None:
    (home / ".ssh/ops_10.1.2.3").write_text("key")
    (home / "more").write_text(
        "Match user ops\n IdentityFile ~/.ssh/%r_%h\n UserKnownHostsFile ~/%n.hosts\n IdentitiesOnly yes\n"
    )
    config(f"Include {home}/more\nHost gpu*\n HostName 10.1.2.3\nMatch user root\n Port 99\n")
    one = access.resolve(Host("a", "gpu7", ssh=Ssh(user="ops")), Keyring())
    assert (one.address, one.port, one.only_keys) == ("10.1.2.3", 22, True)
    assert one.keys == (str(home / ".ssh/ops_10.1.2.3"),)
    assert one.files[0].name == "gpu7.hosts"
    two = access.resolve(Host("a", "gpu7", ssh=Ssh(user="root")), Keyring())
    assert (two.port, two.keys) == (99, ())


def test_a_broken_configuration_is_told_as_ssh_tells_it(config) -> None:
    config("Nonsense yes\n")
    with pytest.raises(ConnectError, match="Bad configuration option: nonsense") as caught:
        access.resolve(Host("gpu1", "gpu1"), Keyring())
    assert "ssh -G gpu1" in str(caught.value.hint)


def test_what_paramiko_has_no_counterpart_for(config) -> None:
    config("Host a\n ProxyCommand nc %h %p\nHost b\n KnownHostsCommand /bin/echo x\n")
    assert access.resolve(Host("a", "a"), Keyring()).odd == "ssh_config has a ProxyCommand for it"
    assert "KnownHostsCommand" in str(access.resolve(Host("b", "b"), Keyring()).odd)
    assert access.resolve(Host("a", "a", ssh=Ssh(proxy_jump="j")), Keyring()).odd is None
    assert access.resolve(Host("c", "c"), Keyring()).odd is None


def test_the_agents_socket(config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    monkeypatch.setenv("MINE", "/run/mine")
    config("Host a\n IdentityAgent none\nHost b\n IdentityAgent $MINE\nHost c\n IdentityAgent /run/%n\n")
    sockets = [access.resolve(Host(n, n), Keyring()).agent for n in "abcd"]
    assert sockets == [None, "/run/mine", "/run/c", "/run/agent"]


def test_an_address_is_no_option(home: Path) -> None:
    with pytest.raises(ConnectError, match="is not an address"):
        access.resolve(Host("a", "-oProxyCommand=touch hacked"), Keyring())


def test_passwords_are_revealed_only_then(home: Path) -> None:
    asked: list[Secret] = []

    def reveal(secret: Secret) -> str:
        asked.append(secret)
        return "word"

    ring = Keyring(reveal=reveal)
    secret = Secret("env", "PW")
    host = Host("gpu1", "gpu1", ssh=Ssh(password=secret))
    assert asked == []
    assert access.resolve(host, ring).password == "word"
    assert asked == [secret]


def test_known_hosts_may_be_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Keyring().files()[0] == home / ".ssh/known_hosts"
    monkeypatch.setenv("OGEN_KNOWN_HOSTS", "/a:/b")
    assert Keyring().files() == (Path("/a"), Path("/b"))
    assert Keyring(known_hosts=(Path("/c"),)).files() == (Path("/c"),)


def test_files_with_blanks_in_their_names() -> None:
    said = {"userknownhostsfile": ["/a/b c /d ~/e f"]}
    assert sshconfig.Settings("x", said).files("userknownhostsfile") == ("/a/b c", "/d", "~/e f")


# --------------------------------------------------------------------------------------- jumps
@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("gw", (None, "gw", None)),
        ("ops@gw:2222", ("ops", "gw", 2222)),
        ("[2001:db8::1]:2222", (None, "2001:db8::1", 2222)),
        ("ops@[fe80::1%eth0]", ("ops", "fe80::1%eth0", None)),
        ("2001:db8::1", (None, "2001:db8::1", None)),
        ("ssh://ops@gw:22/", ("ops", "gw", 22)),
        ("me@corp.example@gw", ("me@corp.example", "gw", None)),
    ],
)
def test_how_a_jump_is_written(text: str, parts: tuple[str | None, str, int | None]) -> None:
    assert jumps.parse(text, "h") == parts


@pytest.mark.parametrize("text", ["", "gw:", "gw:70000", "-oX", "a b", "gw:x", "[gw", "-o@gw", "[-o@gw"])
def test_what_is_no_jump(text: str) -> None:
    with pytest.raises(ConnectError, match="is not a jump"):
        jumps.parse(text, "h")


def test_each_hop_has_its_own_settings(config) -> None:
    config(
        "Host gw\n User jumper\n HostName 192.0.2.1\n Port 2201\nHost inner\n HostName 10.0.0.1\n"
        " User two\n ProxyJump elsewhere\nHost target\n ProxyJump gw,root@inner:77\n User three\n"
    )
    assert names(Host("t", "target")) == ["jumper@192.0.2.1:2201", "root@10.0.0.1:77", "three@target:22"]


def test_a_jump_behind_a_jump(config) -> None:
    config("Host b\n ProxyJump a\nHost c\n ProxyJump b\nHost *\n User me\n")
    assert names(Host("t", "c")) == ["me@a:22", "me@b:22", "me@c:22"]
    assert names(Host("t", "x", ssh=Ssh(proxy_jump="b,d"))) == ["me@a:22", "me@b:22", "me@d:22", "me@x:22"]
    assert names(Host("t", "c", ssh=Ssh(proxy_jump="none"))) == ["me@c:22"]


def test_tokens_of_a_jump(config) -> None:
    config("Host gate.*\n ProxyJump none\nHost *.gpu\n ProxyJump %r@gate.%h\n")
    me = getpass.getuser()
    assert names(Host("t", "a.gpu", ssh=Ssh(user="ops", proxy_jump=None)))[0].startswith("ops@gate.a.gpu")
    assert names(Host("t", "plain")) == [f"{me}@plain:22"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Host a\n ProxyJump b\nHost b\n ProxyJump a\n", "go round in circles"),
        ("Host *\n ProxyJump gw\n", "ssh_config: jumphost loop via gw"),
        ("Host *\n ProxyJump g.%h\n", "in circles: a, behind g.a, behind g.g.a, .*…, behind g.g.g.g"),
    ],
)
def test_loops_are_errors(config, text: str, word: str) -> None:
    config(text)
    with pytest.raises(ConnectError, match=word) as caught:
        names(Host("t", "a"))
    assert "ProxyJump none" in str(caught.value.hint)
