"""Known hosts as OpenSSH reads them."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import replace
from pathlib import Path

import pytest

from ogen.errors import ConnectError
from ogen.push import known
from ogen.push.access import Access

KEY = base64.b64encode(b"key one").decode()
OTHER = base64.b64encode(b"key two").decode()


def reach(address: str = "gpu1", port: int = 22, host_key: str | None = None) -> Access:
    return Access(address, port, "me", (), False, None, None, host_key, None, 5.0)


def found(tmp_path: Path, text: str, one: Access) -> list[bytes]:
    file = tmp_path / "known_hosts"
    file.write_text(text)
    return [line.key for line in known.look(replace(one, files=(file,)), "gpu1").expected("gpu1")]


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
        (f"gpu1 ssh-ed25519 {KEY}\n@revoked * ssh-ed25519 {KEY}\n", "known_hosts:2 revokes"),
        (f"@cert-authority *.net,gpu1 ssh-ed25519 {KEY}\n", "is not known"),
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


def test_a_name_without_port_counts_where_the_port_is_not_known(tmp_path: Path) -> None:
    plain, exact = f"gpu1 ssh-ed25519 {KEY}\n", f"[gpu1]:2222 ssh-ed25519 {OTHER}\n"
    assert found(tmp_path, plain, reach(port=2222)) == [b"key one"]
    (tmp_path / "more").mkdir()
    assert found(tmp_path / "more", plain + exact, reach(port=2222)) == [b"key two"]


def test_an_alias_is_looked_up_without_port(tmp_path: Path) -> None:
    one = replace(reach("192.0.2.1", 2222), alias="Box")
    assert found(tmp_path, f"box ssh-ed25519 {KEY}\n", one) == [b"key one"]


def test_a_revoked_key_is_named_even_when_another_is_known(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"gpu1 ssh-ed25519 {OTHER}\n@revoked * ssh-ed25519 {KEY}\n")
    looked = known.look(replace(reach(), files=(file,)), "gpu1")
    looked.judge(b"key two", "ssh-ed25519 SHA256:x", "gpu1")
    with pytest.raises(ConnectError, match="known_hosts:2 revokes"):
        looked.judge(b"key one", "ssh-ed25519 SHA256:x", "gpu1")


def test_another_key_names_the_line_of_its_type(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"gpu1 ssh-rsa {OTHER}\ngpu1 ssh-ed25519 {KEY}\n")
    looked = known.look(replace(reach(), files=(file,)), "gpu1")
    with pytest.raises(ConnectError, match=r"another key than .*known_hosts:2: ssh-ed25519 SHA256:x"):
        looked.judge(b"key three", "ssh-ed25519 SHA256:x", "gpu1")
