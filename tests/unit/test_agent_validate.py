"""What nginx -t says of a release of its own: notices are no objections, everything else is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ogen.agent import validate
from ogen.agent.disk import Disk
from ogen.agent.errors import Refused
from ogen.agent.machine import Done, Machine

FINE = "nginx: the configuration file /x syntax is ok\nnginx: configuration file /x test is successful\n"
#: njs 0.8.9 in Debian 13 says this before any error_log of the configuration counts
NOTICE = "2026/11/26 09:36:49 [notice] 899#899: js vm init njs: 0000557F8B348F80\n"


class Nginx(Machine):
    def __init__(self, said: str, code: int = 0) -> None:
        self.done = Done(code, said)

    def run(self, command: Sequence[str], timeout: float = 60.0, stdin: str = "") -> Done:
        assert command[-1] == "-t"
        return self.done


def objection(folder: Path, said: str, code: int = 0) -> str:
    manifest: dict[str, Any] = {"files": [], "units": []}
    proof = {"config": "/etc/ogen/current/balancers/api/nginx.conf", "unit": "ogen-balancer-api.service"}
    try:
        validate.nginx(Disk(str(folder)), Nginx(said, code), manifest, "/etc/ogen/releases/x/tree", proof)
    except Refused as error:
        return error.message
    return ""


@pytest.mark.parametrize("said", [FINE, NOTICE + FINE, NOTICE * 4 + FINE])
def test_notices_are_no_objection(tmp_path: Path, said: str) -> None:
    assert objection(tmp_path, said) == ""


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (NOTICE.replace("[notice]", "[warn]") + FINE, 0),
        (NOTICE + 'nginx: [warn] conflicting server name "a"\n' + FINE, 0),
        (NOTICE + "nginx: [emerg] unknown directive\n", 1),
        (NOTICE, 1),
        ("something else with [notice] in it\n" + FINE, 0),
    ],
)
def test_everything_else_is_one(tmp_path: Path, said: str, code: int) -> None:
    assert "nginx does not take" in objection(tmp_path, said, code)


def test_a_file_of_the_hosts_own_that_a_unit_needs_is_missed_before_anything_changes(tmp_path: Path) -> None:
    stored, tree = "root/etc/systemd/system/a.service", "/etc/ogen/releases/x/tree"
    unit = tmp_path / tree[1:] / stored
    unit.parent.mkdir(parents=True)
    unit.write_text("[Unit]\nAssertPathExists=/etc/ssl/a%%b.pem\n[Service]\nExecStart=/bin/true\n")
    manifest: dict[str, Any] = {
        "files": [{"path": "/etc/systemd/system/a.service", "stored": stored}],
        "units": [{"name": "a.service"}, {"name": "b.timer"}],
    }
    with pytest.raises(Refused, match=r"a\.service needs /etc/ssl/a%b\.pem, which is not there"):
        validate.needs(Disk(str(tmp_path)), manifest, tree)
    (tmp_path / "etc/ssl").mkdir()
    (tmp_path / "etc/ssl/a%b.pem").touch()
    validate.needs(Disk(str(tmp_path)), manifest, tree)
