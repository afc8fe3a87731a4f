"""Headers from files, and from hosts through the system's ssh (here a program that runs words locally)."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from ogen.cli.headers import header
from ogen.errors import CatalogError

HEADERS = Path(__file__).parents[1] / "data" / "headers.zip"
SSH = """\
#!/bin/sh
echo "$@" >>"$SSH_LOG"
while [ "$1" != -- ]; do shift; done
exec sh -c "$3"
"""


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(SSH)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("SSH_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def test_a_blob_on_a_host_has_the_header_of_the_file(ssh: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(HEADERS) as kept:
        file = kept.extract(kept.namelist()[0], tmp_path)
    assert header(f"ssh://ops@gpu01:2222{file}").shape() == header(file).shape()
    assert "-p 2222 -l ops -- gpu01" in ssh.read_text()


def test_what_the_host_says_is_the_error(ssh: Path) -> None:
    with pytest.raises(CatalogError, match="No such file"):
        header("ssh://gpu01/nowhere/blob")


@pytest.mark.parametrize(
    "ref", ["ssh://gpu01", "ssh://-oProxyCommand=x/blob", "ssh://a b/x", "ssh://gpu01:x/y"]
)
def test_addresses_that_are_none(ref: str) -> None:
    with pytest.raises(CatalogError):
        header(ref)
