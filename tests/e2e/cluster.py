"""What the end-to-end tests share: an inventory for boxes, the `ogen` command, load through a balancer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from lab import Lab

OGEN = [sys.executable, "-m", "ogen"]
QUICK = [sys.executable, str(Path(__file__).with_name("quick_ogen.py"))]

INVENTORY = """\
version: 1
ssh: {{user: admin, become: true, key: {key}}}
ollama: {{version: 0.32.15}}
models:
  chat:
    from: llama3.1:8b-instruct-q4_K_M
    context: {context}
    replicas: fill
    on: boxes
    aliases: [gpt-4o-mini, "llama3.1:8b"]
  coder:
    from: qwen2.5-coder:7b-instruct-q4_K_M
    context: 8192
    replicas: 1
    on: boxes
groups:
  boxes:
    hosts: [gpu1, gpu2]
    gpus: [{{model: RTX 3090, count: 2}}]
hosts:
  gpu1: {{address: {gpu1}}}
  gpu2: {{address: {gpu2}}}
  edge: {{address: {edge}}}
balancers:
  api: {{hosts: [edge], listen: 8080, gate: true}}
"""


@dataclass
class Project:
    """A folder with an inventory for the lab's boxes."""

    lab: Lab
    folder: Path
    boxes: tuple[str, ...] = ("gpu1", "gpu2", "edge")
    values: dict[str, object] = field(default_factory=dict)

    @property
    def inventory(self) -> Path:
        return self.folder / "inventory.yaml"

    def write(self, text: str = INVENTORY, **values: object) -> None:
        self.values |= values
        names = {name: self.lab.address(name) for name in self.boxes}
        key = self.folder / "key"
        if not key.exists():
            key.write_bytes(self.lab.key.read_bytes())
            key.chmod(0o600)
        self.inventory.write_text(text.format(key="key", **names, **self.values))

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "OGEN_KNOWN_HOSTS": str(self.lab.known_hosts), "NO_COLOR": "1"}

    def command(self, *args: str) -> list[str]:
        return [*OGEN, args[0], str(self.inventory), *args[1:]]

    def start(self, *args: str) -> subprocess.Popen[str]:
        """`ogen` that goes on while the test does something else."""
        return subprocess.Popen(
            self.command(*args),
            env=self.env,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ogen(
        self, *args: str, code: int | None = 0, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Runs `ogen COMMAND INVENTORY ARGS`; `code` is the exit status that it must have."""
        done = subprocess.run(
            self.command(*args),
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if code is not None and done.returncode != code:
            said = f"{done.stdout}\n{done.stderr}"
            raise AssertionError(f"ogen {' '.join(args)}: exit {done.returncode}, expected {code}\n{said}")
        return done


@dataclass
class Commands(Project):
    """`ogen` with less patience; `variables` go into its environment."""

    variables: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        return {**super().env, **self.variables}

    def command(self, *args: str) -> list[str]:
        return [*QUICK, args[0], str(self.inventory), *args[1:]]


@dataclass
class Answers:
    """What a number of requests brought."""

    served: Counter[str]
    failed: list[str]


def ask(url: str, model: str = "chat", timeout: float = 60, **extra: object) -> tuple[str, dict[str, object]]:
    """One generation; returns who served it and the answer."""
    body = json.dumps({"model": model, "prompt": "hello", "stream": False, **extra}).encode()
    request = urllib.request.Request(url + "/api/generate", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        answer = json.load(response)
    return str(answer["response"]).split("]")[0].lstrip("["), answer


def load(url: str, count: int, *, models: tuple[str, ...] = ("chat",), width: int = 8) -> Answers:
    """`count` generations, `width` at once."""

    def one(number: int) -> tuple[str, str]:
        try:
            return ask(url, models[number % len(models)])[0], ""
        except (urllib.error.URLError, OSError, ValueError, KeyError) as error:
            body = (
                error.read().decode("utf-8", "replace") if isinstance(error, urllib.error.HTTPError) else ""
            )
            return "", f"request {number}: {error} {body[:200]}"

    with ThreadPoolExecutor(width) as pool:
        results = list(pool.map(one, range(count)))
    return Answers(Counter(who for who, _ in results if who), [why for _, why in results if why])


SNAPSHOT = (
    "find /etc/ogen /etc/systemd/system /etc/nginx /etc/logrotate.d /var/lib/ollama "
    "-printf '%p %i %T@ %y %m %U:%G\\n' 2>/dev/null | sort"
)


def snapshot(lab: Lab, box: str) -> str:
    """Path, inode, mtime, type, mode, owner of everything that an apply may write."""
    return lab.sh(box, SNAPSHOT)


def processes(lab: Lab, box: str) -> str:
    """ogen's running services with their main processes."""
    script = (
        "systemctl list-units 'ogen-*.service' --state=running --plain --no-legend | cut -d' ' -f1 | "
        'while read u; do echo "$u $(systemctl show -p MainPID --value $u)"; done'
    )
    return lab.sh(box, script)
