"""`ogen trust` at OpenSSH's own servers: behind jumps, under an authority, with ssh_config's files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from realsshd import ADDRESS, RealFarm, new_key, real_farm

from ogen.cli import console
from ogen.cli.app import ogen


@pytest.fixture
def farm(tmp_path: Path, need, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealFarm]:
    """jump, and behind it a and b; nothing is known of them yet."""
    need("sshd")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with real_farm(tmp_path / "farm") as made:
        ends = [made.add("a"), made.add("b")]
        allowed = " ".join(f"{ADDRESS}:{server.port}" for server in ends)
        jump = made.add("jump", f"PermitOpen {allowed}\n")
        made.known_hosts.unlink()
        config = made.folder / "config"
        config.write_text(
            f"Host bastion\n HostName {ADDRESS}\n Port {jump.port}\n User {made.user}\n"
            f" IdentityFile {made.key}\nHost *\n UserKnownHostsFile {made.known_hosts}\n"
        )
        monkeypatch.setenv("OGEN_SSH_CONFIG", str(config))
        monkeypatch.delenv("OGEN_KNOWN_HOSTS", raising=False)
        hosts = "".join(f"  {n}: {{ssh: {{port: {made.servers[n].port}}}}}\n" for n in "ab")
        text = f"version: 1\nssh: {{proxy_jump: bastion}}\nhosts:\n{hosts}"
        (made.folder / "inventory.yaml").write_text(text.replace("{ssh:", f"{{address: {ADDRESS}, ssh:"))
        yield made
    console.hide(None)


def trust(farm: RealFarm, *args: str) -> Result:
    return CliRunner().invoke(ogen, ["trust", str(farm.folder / "inventory.yaml"), *args])


def rows(result: Result) -> list[list[str]]:
    return [line.split("  ") for line in result.stdout.splitlines()]


def test_the_jump_comes_first(farm: RealFarm) -> None:
    shown = trust(farm)
    assert shown.exit_code == 4  # the hosts can't be looked at yet
    assert [(row[0], row[-1]) for row in rows(shown)] == [("bastion (jump)", "new")]
    assert "reached through bastion, whose own key is not pinned yet" in shown.stderr
    assert not farm.known_hosts.exists()


def test_with_yes_everything_on_the_way_is_pinned(farm: RealFarm) -> None:
    done = trust(farm, "--yes")
    assert done.exit_code == 0, done.output
    assert [(row[0], row[-1]) for row in rows(done)] == [
        ("bastion (jump)", "new"),
        ("a", "new"),
        ("b", "new"),
    ]
    servers = [farm.servers[name] for name in ("jump", "a", "b")]
    assert farm.known_hosts.read_text() == "".join(server.known for server in servers)
    again = json.loads(trust(farm, "--format", "json").stdout)
    assert [(row["host"], row["jump"], row["state"]) for row in again["hosts"]] == [
        ("bastion", True, "known"),
        ("a", False, "known"),
        ("b", False, "known"),
    ]


def test_a_changed_key_behind_a_jump(farm: RealFarm) -> None:
    trust(farm, "--yes")
    a, b = farm.servers["a"], farm.servers["b"]
    text = farm.known_hosts.read_text().replace(a.public, b.public)
    farm.known_hosts.write_text(text)
    refused = trust(farm, "--yes")
    assert refused.exit_code == 4
    assert f"a: the host shows another key than {farm.known_hosts}:2" in refused.stderr
    assert farm.known_hosts.read_text() == text


def test_a_host_under_an_authority_needs_no_pin(farm: RealFarm) -> None:
    public = new_key(farm.folder / "ca").with_suffix(".pub").read_text()
    farm.known_hosts.write_text(f"{farm.servers['jump'].known}@cert-authority * {public}")
    done = trust(farm, "--yes")
    assert done.exit_code == 0, done.output
    assert [row[-1] for row in rows(done)] == ["known", "authority", "authority"]
