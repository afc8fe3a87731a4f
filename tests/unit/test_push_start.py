"""What push imports: a command that contacts hosts does not pay for planning and templates."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "jinja2",
    "cerberus",
    "ruamel",
    "rich",
    "invoke",
    "asyncio",
    "email",
    "ogen.render",
    "ogen.plan",
    "ogen.fit",
)


def test_contacting_hosts_needs_no_planner_and_no_templates() -> None:
    program = "import sys, ogen.push, ogen.push.ssh; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "paramiko" in loaded
    assert not [name for name in HEAVY if name in loaded]


def test_push_alone_does_not_import_paramiko() -> None:
    program = "import sys, ogen.push; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "paramiko" not in set(done.stdout.split())


def test_paramiko_still_knows_its_version() -> None:
    """And whoever asks importlib.metadata later gets the real one."""
    program = (
        "from ogen.push.lean import paramiko; from importlib import metadata\n"
        "assert paramiko.__version__ == metadata.version('paramiko')\n"
        "assert metadata.version('click')"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
