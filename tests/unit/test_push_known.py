"""Known hosts as OpenSSH reads them, and how a host is reached."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

import pytest

from ogen.errors import ConnectError
from ogen.inventory.model import Host, Secret, Ssh
from ogen.push import access, known, openssh
from ogen.push.access import Access, Keyring

KEY = base64.b64encode(b"key one").decode()
OTHER = base64.b64encode(b"key two").decode()


def reach(address: str = "gpu1", port: int = 22, host_key: str | None = None) -> Access:
    return Access(address, port, "me", (), False, None, address, host_key, None, 5.0)


def found(tmp_path: Path, text: str, one: Access) -> list[bytes]:
    file = tmp_path / "known_hosts"
    file.write_text(text)
    return [line.key for line in known.lines(one, (file,), "gpu1")]


@pytest.mark.parametrize(
    ("line", "one"),
    [
        (f"gpu1 ssh-ed25519 {KEY}", reach()),
        (f"other,GPU1 ssh-ed25519 {KEY} comment", reach()),
        (f"[gpu1]:2222 ssh-ed25519 {KEY}", reach(port=2222)),
        (f"*.example.net ssh-ed25519 {KEY}", reach("gpu1.example.net")),
        (f"gpu? ssh-ed25519 {KEY}", reach()),
        (f"[192.0.2.*]:2222 ssh-ed25519 {KEY}", reach("192.0.2.7", 2222)),
    ],
)
def test_a_known_host(tmp_path: Path, line: str, one: Access) -> None:
    noise = f"# gpu1\n\nnonsense\ngpu1 ssh-ed25519 !!!\n@cert-authority * ssh-ed25519 {OTHER}\n"
    assert found(tmp_path, f"{noise}{line}\n", one) == [b"key one"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "is not known"),
        (f"gpu2 ssh-ed25519 {KEY}\n", "ogen trust"),
        (f"[gpu1]:2222 ssh-ed25519 {KEY}\n", "is not known"),
        (f"*,!gpu1 ssh-ed25519 {KEY}\n", "is not known"),
        (f"gpu1 ssh-ed25519 {KEY}\n@revoked * ssh-ed25519 {KEY}\n", "known_hosts:1 revokes|is not known"),
        (f"@cert-authority *.net,gpu1 ssh-ed25519 {KEY}\n", "transport: openssh"),
    ],
)
def test_an_unknown_host(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(ConnectError, match=word):
        found(tmp_path, text, reach())


def test_hashed_names(tmp_path: Path) -> None:
    salt = b"saltsaltsaltsaltsalt"
    digest = hmac.new(salt, b"gpu1", hashlib.sha1).digest()
    name = f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"
    assert found(tmp_path, f"{name} ssh-ed25519 {KEY}\n", reach()) == [b"key one"]
    with pytest.raises(ConnectError):
        found(tmp_path, f"{name} ssh-ed25519 {KEY}\n", reach("gpu2"))


def test_a_pin_counts_alone(tmp_path: Path) -> None:
    one = reach(host_key=f"ssh-ed25519 {OTHER}")
    assert found(tmp_path, f"gpu1 ssh-ed25519 {KEY}\n", one) == [b"key two"]


# -------------------------------------------------------------------------------------- access
@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OGEN_KNOWN_HOSTS", raising=False)
    (tmp_path / ".ssh").mkdir()
    return tmp_path


def test_without_a_configuration(home: Path) -> None:
    (home / ".ssh/id_ed25519").write_text("x")
    one = access.resolve(Host("gpu1", "192.0.2.1", ssh=Ssh(user="ops")), Keyring())
    assert (one.address, one.port, one.user, one.known_as) == ("192.0.2.1", 22, "ops", "192.0.2.1")
    assert one.keys == (str(home / ".ssh/id_ed25519"),)
    assert not one.only_keys


def test_the_inventory_wins_over_ssh_config(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "hostname": ["10.0.0.9"],
        "port": ["2222"],
        "user": ["other"],
        "proxyjump": ["jump"],
        "hostkeyalias": ["gpu"],
        "identityfile": [],
    }
    monkeypatch.setattr(access, "ssh_config", lambda address: config)
    one = access.resolve(Host("gpu1", "gpu1", ssh=Ssh(user="ops", proxy_jump="none")), Keyring())
    assert (one.address, one.port, one.user, one.alias, one.jump) == ("10.0.0.9", 2222, "ops", "gpu", None)
    two = access.resolve(Host("gpu1", "gpu1"), Keyring())
    assert (two.user, two.jump) == ("other", "jump")


def test_an_address_is_no_option(home: Path) -> None:
    (home / ".ssh/config").write_text("Host *\n  User x\n")
    assert access.ssh_config("-oProxyCommand=touch hacked").keys() == {"identityfile"}


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


def test_the_systems_client_asks_nothing_and_checks_keys() -> None:
    host = Host("gpu1", "-evil", ssh=Ssh(user="ops", port=2222, key="k", proxy_jump="j"))
    command = openssh.command(host, "true", Keyring("/inv", (Path("/known"),)))
    assert command[-3:] == ["--", "-evil", "true"]
    text = " ".join(command)
    for part in (
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        '"/known"',
        "-p 2222",
        "-l ops",
        "-i /inv/k",
        "-J j",
    ):
        assert part in text
