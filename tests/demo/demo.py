"""`make demo`: the true commands against three hosts that are folders, behind an SSH server of our own.

Needs no root, no GPU, no sshd and no network but loopback; leaves nothing behind. What it shows it
also checks: the exit status is not 0 if anything is not as it should be.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import balancer  # noqa: E402 — beside this file
from sshd import Farm  # noqa: E402 — one folder up

EXAMPLE = HERE.parents[1] / "inventories" / "demo.yaml"
HOSTS = ("gpu1", "gpu2", "edge")
MACHINE = "machine"  # the folder, in each login's home, that stands for the machine: `root:` of demo.yaml


class Demo:
    """The project folder, and the commands run in it."""

    def __init__(self, folder: Path, farm: Farm) -> None:
        self.folder = folder
        self.farm = farm
        self.inventory = folder / "demo.yaml"
        home = {"HOME": str(folder)}  # the ssh_config of whoever runs this is none of the demo's business
        self.env = {**os.environ, **home, "OGEN_KNOWN_HOSTS": str(farm.known_hosts), "COLUMNS": "100"}
        self.inventory.write_text(self._example())
        for name in HOSTS:
            (farm.root(name) / MACHINE).mkdir()

    def _example(self) -> str:
        """The shipped example; only the ports are those that were free, and the key is where we made it."""
        text = EXAMPLE.read_text()
        for name in HOSTS:
            pattern = rf"(^  {name}:.*?port: )\d+"
            text, found = re.subn(
                pattern, rf"\g<1>{self.farm.port(name)}", text, flags=re.DOTALL | re.MULTILINE
            )
            assert found == 1, f"{EXAMPLE}: no port of {name}"
        return text

    def ogen(self, *args: str, code: int = 0) -> str:
        """Runs and shows a command; it must end with `code`."""
        print(
            f"\n\x1b[1m$ ogen {' '.join(args)}\x1b[0m"
            if sys.stdout.isatty()
            else f"\n$ ogen {' '.join(args)}"
        )
        done = subprocess.run(
            [sys.executable, "-m", "ogen", *args],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        print(done.stdout, end="", flush=True)
        assert done.returncode == code, f"ogen {args[0]} ended with {done.returncode}, not {code}"
        return done.stdout

    def machine(self, name: str) -> Path:
        return self.farm.root(name) / MACHINE

    def edit(self, old: str, new: str) -> None:
        """Changes the inventory and shows how."""
        before = self.inventory.read_text()
        assert before.count(old) == 1, f"{EXAMPLE}: `{old}` is not there once"
        after = before.replace(old, new)
        self.inventory.write_text(after)
        tell("the inventory is edited:")
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=1, lineterm="")
        print("\n".join(list(lines)[2:]))

    def hashes(self) -> dict[str, str]:
        """What is in force on all hosts, by content."""
        found = {}
        for name in HOSTS:
            tree = (self.machine(name) / "etc" / "ogen" / "current").resolve()
            for path in sorted(p for p in tree.rglob("*") if p.is_file()):
                found[f"{name}/{path.relative_to(tree)}"] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def inodes(self) -> list[tuple[str, int, int]]:
        """Every path below the hosts: an apply that has nothing to do leaves all of them alone."""
        return [
            (str(path), stat.st_ino, stat.st_mtime_ns)
            for name in HOSTS
            for path in sorted(self.machine(name).rglob("*"))
            for stat in [path.lstat()]
        ]


def tell(text: str) -> None:
    print(f"\n# {text}", flush=True)


def show(demo: Demo) -> None:
    demo.ogen("validate", "demo.yaml")
    demo.ogen("plan", "demo.yaml")
    demo.ogen("diff", "demo.yaml", "--stat", code=2)
    demo.ogen("apply", "demo.yaml")
    first = demo.hashes()
    assert any(name.startswith("edge/balancers/") for name in first), "no balancer was written"

    tell("again: there is nothing to do, and nothing is touched")
    before = demo.inodes()
    assert "nothing to do" in demo.ogen("apply", "demo.yaml")
    assert demo.inodes() == before, "the second apply touched files"
    requests(demo)

    demo.edit("context: 8192", "context: 4096")
    changes = demo.ogen("diff", "demo.yaml", code=2)
    assert "-PARAMETER num_ctx 8192\n+PARAMETER num_ctx 4096\n" in changes
    demo.ogen("apply", "demo.yaml")
    assert demo.hashes() != first
    tell("and back: the first release is in force again, to the last byte")
    demo.ogen("rollback", "demo.yaml")
    assert demo.hashes() == first, "the rollback did not restore the first release"
    demo.ogen("history", "demo.yaml")


def requests(demo: Demo) -> None:
    """Requests through the rendered balancer, where there is an nginx."""
    rendered = demo.machine("edge") / "etc" / "ogen" / "current" / "balancers" / "api"
    why = balancer.missing(rendered / "nginx.conf")
    if why:
        tell(f"the balancer is not started: {why}")
        return
    tell(f"the rendered balancer before two stand-ins for Ollama, {balancer.REQUESTS} requests for `chat`:")
    listen = re.findall(r"^\s+listen (?:[\d.]+:)?(\d+);", (rendered / "nginx.conf").read_text(), re.MULTILINE)
    counts = balancer.served(rendered, demo.folder / "nginx", "chat", int(listen[0]))
    for name, count in counts.items():
        print(f"{name} answered {count}")
    assert sum(counts.values()) == balancer.REQUESTS
    assert len(counts) == 2
    assert all(counts.values()), "one instance was never asked"


def main() -> int:
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ogen-demo-") as made:
        folder = Path(made).resolve()
        with Farm(folder, *HOSTS) as farm:
            try:
                show(Demo(folder, farm))
            except (AssertionError, subprocess.TimeoutExpired, OSError) as error:
                print(f"\nthe demo failed: {error}", file=sys.stderr)
                return 1
    tell(f"all of this took {time.monotonic() - begun:.0f} s, and is cleaned up")
    return 0


if __name__ == "__main__":
    sys.exit(main())
