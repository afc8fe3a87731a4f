"""`make demo` as an ordinary user: it checks itself, ends in time, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parent / "demo.py"
NOBODY = 65534


def ordinary() -> list[str]:
    """What runs a command as somebody without rights, where we are root."""
    if os.geteuid() != 0:
        return []
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    code = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', 'import ogen.cli.app']))"
    readable = subprocess.run([*drop, sys.executable, "-c", code], capture_output=True)
    return drop if shutil.which("setpriv") and readable.returncode == 0 else []


def test_the_demo(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o711)
    env = {**os.environ, "TMPDIR": str(tmp_path), "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*ordinary(), sys.executable, str(DEMO)],
        capture_output=True,
        text=True,
        timeout=120,
        env=env,
        cwd="/",
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "nothing to do: 3 hosts unchanged" in done.stdout
    assert "3 restored" in done.stdout
    assert list(tmp_path.iterdir()) == []
    if (
        shutil.which("nginx", path="/usr/sbin")
        and Path("/usr/lib/nginx/modules/ngx_http_js_module.so").exists()
    ):
        assert "answered 10" in done.stdout
    elif os.environ.get("CI") == "true":
        pytest.fail("CI has no nginx with its njs module")
