"""Every kind of edit on a box that serves and balances: told by its word, adopted or put back, then none."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from cluster import Project, load
from lab import lab

pytestmark = [pytest.mark.boxes, pytest.mark.timeout(300)]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: key}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: {context}}}   # everybody's
hosts:
  one: {{address: {one}, gpus: [{{model: RTX 3090}}]}}
balancers:
  api: {{hosts: [one], listen: 8080, max_fails: 2}}
  locked: {{hosts: [one], listen: 8081, keys: !file secrets/keys.yaml}}
"""
KEY = "sk-drift-0123456789abcdef"
SYSTEMD = "/etc/systemd/system/"
UNIT = SYSTEMD + "ogen-ollama-gpu0.service"
TREE = "/etc/ogen/current/"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with lab("drift") as made:
        made.up("one", gpus="24576", ollama=True)
        project = Project(made, tmp_path_factory.mktemp("project"), boxes=("one",))
        secrets = project.folder / "secrets"
        secrets.mkdir()
        (secrets / "keys.yaml").write_text(f"operator: {KEY}\n")
        (secrets / "keys.yaml").chmod(0o600)
        project.write(INVENTORY, context=8192)
        project.ogen("provision")
        project.ogen("apply", "--yes")
        yield project


def told(box: Project, *args: str) -> dict[str, Any]:
    """What `ogen diff` says: the state of each file, and the rest by name with its detail."""
    done = box.ogen("diff", "--format", "json", *args, code=2)
    assert KEY not in done.stdout + done.stderr
    found = json.loads(done.stdout)["changes"]
    return {c["path"]: c["state"] for c in found if c["what"] == "file"} | {
        f"{c['what']} {c['name']}": c["detail"] for c in found if c["what"] != "file"
    }


def test_an_untouched_box_has_none(box: Project) -> None:
    box.ogen("diff", code=0)
    # what the host itself writes is no drift
    box.lab.sh(
        "one", "mkdir -p /run/ogen /var/lib/ogen/gpu0; date >/run/ogen/leases; date >/var/lib/ogen/gpu0/rung"
    )
    box.ogen("diff", code=0)
    box.ogen("diff", "--drift", code=0)


EDITS = f"""
sed -i s/RestartSec=3/RestartSec=7/ {UNIT}
sed -i 's/max_fails=2/max_fails=5/' {TREE}balancers/api/nginx.conf
echo '# mine' >>{TREE}balancers/locked/keys.conf
sed -i 's/num_ctx 8192/num_ctx 4096/' {TREE}models/chat.Modelfile
chmod 600 {TREE}monitor.json
chown nobody {TREE}bin/monitor.py
rm {TREE}bin/preload.py
mkdir -p {UNIT}.d; printf '[Service]\\nEnvironment=OLLAMA_DEBUG=1\\n' >{UNIT}.d/override.conf
systemctl -q stop ogen-monitor.service
rm {SYSTEMD}ogen.target.wants/ogen-balancer-api.service
"""


def test_each_edit_is_told_by_its_word(box: Project) -> None:
    box.lab.sh("one", EDITS)
    edited = told(box)
    assert edited == {
        UNIT: "edited",
        TREE + "balancers/api/nginx.conf": "edited",
        TREE + "balancers/locked/keys.conf": "edited",
        TREE + "models/chat.Modelfile": "edited",
        TREE + "monitor.json": "edited",
        TREE + "bin/monitor.py": "edited",
        TREE + "bin/preload.py": "edited",
        UNIT + ".d/override.conf": "foreign",
        "restart ogen-monitor.service": "not running: inactive",
        f"relink {SYSTEMD}ogen.target.wants/ogen-balancer-api.service": "disabled",
    }
    shown = box.ogen("diff", code=2).stdout
    assert f"--- a/one{UNIT}\ton the host\n+++ b/one{UNIT}\tinventory\n" in shown
    assert "a file stands in place of ogen's link" in shown
    assert "0600 root:root → 0644 root:root" in shown
    assert "removed on the host" in shown
    assert "secret, not shown: <secret:" in shown


def test_with_a_pending_change_both_are_told(box: Project) -> None:
    box.write(INVENTORY, context=6144)
    edited = told(box, "--drift")
    assert edited[TREE + "models/chat.Modelfile"] == "conflict"
    assert edited[TREE + "balancers/api/nginx.conf"] == "edited"
    assert edited[UNIT] == "conflict"
    shown = box.ogen("diff", code=2).stdout
    assert "-PARAMETER num_ctx 8192\n+PARAMETER num_ctx 4096\n" in shown
    assert "-PARAMETER num_ctx 8192\n+PARAMETER num_ctx 6144\n" in shown
    box.write(INVENTORY, context=8192)


def test_edits_are_adopted_or_refused_and_then_applied(box: Project) -> None:
    refused = box.ogen("adopt", "one", "ogen-ollama-gpu0.service", code=1).stderr
    assert "--templates would take it" in refused
    assert "+RestartSec=7" in refused
    done = box.ogen("adopt", "one", "chat.Modelfile", "api/nginx.conf", "override.conf")
    text = box.inventory.read_text()
    assert "context: 4096}   # everybody's" in text
    assert "max_fails: 5" in text
    assert 'env: {OLLAMA_DEBUG: "1"}' in text
    assert "remove it on the host" in done.stderr
    edited = told(box)
    assert edited[TREE + "models/chat.Modelfile"] == "converged"
    assert edited[TREE + "balancers/api/nginx.conf"] == "converged"
    box.lab.sh("one", f"rm -r {UNIT}.d")
    box.ogen("apply", "--yes")
    box.ogen("diff", code=0)
    kept = "/etc/ogen/edited"
    assert "RestartSec=7" in box.lab.sh("one", f"cat {kept}{UNIT}")
    assert "# mine" in box.lab.sh("one", f"cat {kept}{TREE}balancers/locked/keys.conf")
    assert "600 root" in box.lab.sh("one", f"stat -c '%a %U' {kept}{TREE}balancers/locked/keys.conf")
    running = box.lab.sh(
        "one", "cat /proc/$(systemctl show -p MainPID --value ogen-ollama-gpu0)/environ | tr '\\0' '\\n'"
    )
    assert "OLLAMA_CONTEXT_LENGTH=4096" in running
    assert "OLLAMA_DEBUG=1" in running
    assert not load(f"http://{box.lab.address('one')}:8080", 8).failed


def test_a_masked_unit_is_named_and_not_trampled_on(box: Project) -> None:
    box.lab.sh(
        "one",
        f"ln -sf /dev/null {SYSTEMD}ogen-monitor.service; systemctl daemon-reload",
    )
    shown = box.ogen("diff", code=2).stdout
    assert "does not replace it; masked: `systemctl unmask` it" in shown
    assert "exists and is not ogen's" in box.ogen("apply", "--yes", code=3).stderr
    box.lab.sh("one", "systemctl unmask ogen-monitor.service")
    box.ogen("apply", "--yes")
    box.ogen("diff", code=0)


# ---------------------------------------------------------------------------------------- keys
INSIDE = (
    "  inside: {{hosts: [one], listen: 8083, routing: single, into: conf.d, keys: !file secrets/keys.yaml}}\n"
)
ALICE, ROTATED, BOB = "sk-alice-0123456789", "sk-alice-rotated-012", "sk-bob-0123456789abc"


def let_in(box: Project) -> dict[int, list[int]]:
    """By balancer: what alice's first key, bob's, and alice's next one are answered."""

    def status(port: int, key: str) -> int:
        where = f"http://{box.lab.address('one')}:{port}/api/tags"
        request = urllib.request.Request(where, headers={"Authorization": f"Bearer {key}"})
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    return {port: [status(port, key) for key in (ALICE, BOB, ROTATED)] for port in (8081, 8083)}


def both(*statuses: int) -> dict[int, list[int]]:
    return {8081: list(statuses), 8083: list(statuses)}


def test_a_rollback_revives_no_key_and_loses_none(box: Project) -> None:
    def apply(**keys: str) -> None:
        text = "".join(f"{name}: {key}\n" for name, key in keys.items())
        (box.folder / "secrets/keys.yaml").write_text(text)
        box.ogen("apply", "--yes")

    box.lab.sh("one", "systemctl start nginx")
    box.write(INVENTORY + INSIDE, context=8192)
    apply(alice=ALICE, bob=BOB)
    assert let_in(box) == both(200, 200, 401)
    apply(alice=ROTATED)
    assert let_in(box) == both(401, 401, 200)
    for word in ("back", "and back again", "and back"):
        box.ogen("rollback", "--yes")
        assert let_in(box) == both(401, 401, 200), word
    box.lab.sh("one", "systemctl restart ogen-balancer-locked nginx")
    assert let_in(box) == both(401, 401, 200), "as after a reboot"
    text = "".join(f"{name}: {key}\n" for name, key in (("alice", ALICE), ("bob", BOB)))
    (box.folder / "secrets/keys.yaml").write_text(text)
    assert "ogen-balancer-locked" in box.ogen("diff", code=2).stdout, "the release is in force, its keys not"
    apply(alice=ALICE, bob=BOB)
    assert let_in(box) == both(200, 200, 401), "who applies says who is let in"
    box.ogen("diff", code=0)
