"""What a static analyser finds in the rendered nginx that `nginx -t` lets pass."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import crossplane
import pytest
from rendering import make_plan, pool, sandbox

from ogen.inventory.model import Balancer, Gate, Limit, Limits, Secret, Tls
from ogen.plan.model import Member
from ogen.render import render

POOLS = (
    pool("chat", [Member("gpu1", f"gpu{n}", "192.0.2.11", 11434 + n, 2) for n in range(2)]),
    pool("coder", [Member("gpu2", "gpu0", "192.0.2.12", 11434, 1, 3, backup=True)]),
)
EVERYTHING = {
    "keys": Secret("env", "KEYS"),
    "admins": ("alice",),
    "limits": Limits(Limit("10/s", 5, 4), {"bob": Limit("30/m")}),
    "tls": Tls("/etc/ssl/cert.pem", "/etc/ssl/key.pem"),
    "allow": ("10.0.0.0/8",),
}
VARIANTS = {
    "plain": {"routing": "per_port"},
    "njs": {},
    "lua": {"gate": Gate()},
    "hash": {"routing": "single", "strategy": "hash", "hash_key": "api_key"},
}
#: findings that are right in general and not here: the check, and what its reason must say
EXPECTED = {
    "missing_resolver": "uses a variable",  # the variable names an upstream{}, whose servers are addresses
    "hsts_header": "Strict-Transport-Security",  # for browsers; these are clients of an API
    "return_bypasses_allow_deny": "do not restrict access",  # only errors are returned, nothing else
    "ssrf": '"$ogen_pool"',  # njs sets it from a table of its own
    "http_splitting": r'"\$(ogen_pool|uri)"',  # in a named location that only exact paths lead to
}


def findings(config: Path) -> list[tuple[str, str]]:
    done = subprocess.run(
        [sys.executable, "-m", "gixy.cli", "-f", "json", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )
    return [(found["plugin"], found["reason"]) for found in json.loads(done.stdout)]


def config_of(tmp_path: Path, **values: object) -> Path:
    balancer = Balancer("api", "edge", **{**EVERYTHING, **values})  # type: ignore[arg-type]
    plan = make_plan(balancers=[(balancer, POOLS)])
    (release,) = render(
        plan, host="edge", secrets=lambda _: "alice: 0123456789abcdef\nbob: fedcba9876543210\n"
    )
    (config,) = sandbox(release, tmp_path)
    return config


@pytest.mark.parametrize("name", VARIANTS)
def test_the_analyser_finds_nothing_new(name: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, **VARIANTS[name])
    unexpected = [
        (check, reason)
        for check, reason in findings(config)
        if not (check in EXPECTED and re.search(EXPECTED[check].replace("$ogen", r"\$ogen"), reason))
        or (check in ("ssrf", "http_splitting") and name != "njs")
    ]
    assert unexpected == []
    assert crossplane.parse(str(config))["status"] == "ok"


def test_nothing_but_errors_is_returned(tmp_path: Path) -> None:
    """`return` answers before `allow` and `deny` are asked."""
    text = config_of(tmp_path).read_text()
    public = text[: text.index("release.sock")]
    assert {int(code) for code in re.findall(r"return (\d+)", public)} >= {401, 403, 404}
    assert all(int(code) >= 400 for code in re.findall(r"return (\d+)", public))


def test_the_analyser_can_find_something(tmp_path: Path) -> None:
    config = config_of(tmp_path, gate=Gate())
    assert "ssrf" not in {check for check, _ in findings(config)}
    config.write_text(
        config.read_text().replace("http://$ogen_pool/api/chat", "http://$http_x_pool/api/chat")
    )
    assert "ssrf" in {check for check, _ in findings(config)}
