"""An exported Ansible project, and the real ansible-playbook in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from cluster import Project

BIN = Path(sys.executable).parent
_RECAP = re.compile(r"^(\S+) +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.M)


@dataclass
class Exported:
    """What `ogen export ansible` made of a project."""

    project: Project
    folder: Path
    more: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        known = f"-o UserKnownHostsFile={self.project.lab.known_hosts} -o StrictHostKeyChecking=yes"
        return {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(self.folder.parent),
            "ANSIBLE_SSH_ARGS": f"-o ControlMaster=auto -o ControlPersist=60s {known}",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": "/tmp/ogen-cp",
            "ANSIBLE_NOCOLOR": "1",
            "LC_ALL": "C.UTF-8",
            **self.more,
        }

    def export(self, *args: str) -> None:
        command = [sys.executable, "-m", "ogen", "export", "ansible", str(self.project.inventory)]
        subprocess.run([*command, "-o", str(self.folder), *args], env=self.project.env, check=True)

    def run(self, program: str, *args: str, code: int | None = 0) -> str:
        """A program of Ansible's in the project; what it prints."""
        done = subprocess.run(
            [str(BIN / program), *args],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        said = done.stdout + done.stderr
        assert code is None or done.returncode == code, said
        return said

    def play(self, name: str, *args: str) -> dict[str, int]:
        """How many tasks of a playbook changed something, by host; none may fail."""
        said = self.run("ansible-playbook", f"playbooks/{name}.yaml", *args)
        recap = {
            host: (int(changed), int(lost), int(bad)) for host, changed, lost, bad in _RECAP.findall(said)
        }
        assert recap, said
        assert all((lost, bad) == (0, 0) for _, lost, bad in recap.values()), said
        return {host: changed for host, (changed, _, _) in recap.items()}
