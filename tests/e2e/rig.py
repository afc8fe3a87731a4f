"""A box that serves: an apply with a fault at one step, and then everything is read back."""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cluster import Commands, ask
from faults import STEPS, Cell, Row, before_flip
from holds import Holds
from lab import Lab
from readback import Reading, read_back

INVENTORY = """\
version: 1
ssh: {{user: {user}, become: true, key: key{password}{port}}}
ollama: {{version: 0.32.15}}
models:
  chat: {{from: llama3.1:8b-instruct-q4_K_M, context: {context}, replicas: fill, aliases: ["llama3.1:8b"]}}
hosts:
  {box}: {{address: {address}, gpus: [{{model: RTX 3090, count: 2}}]}}
balancers:
  api: {{hosts: [{box}], listen: {listen}, fail_timeout: {number}s}}
"""
USUAL: dict[str, object] = {"user": "admin", "password": "", "port": "", "listen": 8080}
SIDE = "  side: {{hosts: [{box}], listen: 8088, routing: single, pool: chat}}\n"
BARE = """
apt-get -qq update
apt-get -qq -y install nginx libnginx-mod-http-js libnginx-mod-http-lua lua-cjson >/dev/null
systemctl -q disable --now nginx
useradd --system --create-home --home-dir /usr/share/ollama --shell /bin/false ollama
install -d -o ollama -g ollama /var/lib/ollama /var/lib/ollama/models /var/lib/ollama/models/blobs
"""
SECOND = "/etc/testbed/ollama.d/11435.fault"  # of the second card's instance
KEPT_AWAY = """
cat /run/ogen/leases.json; ls -l /run/ogen/leases
curl -s --unix-socket /run/ogen-balancer-api/release.sock http://x/down
grep 'server 127' /run/ogen-balancer-api/nginx.conf
journalctl -u ogen-leases -u ogen-balancer-api -u ogen-tx -o short-precise --no-pager | tail -40
"""
RECOVERED = 60.0  # seconds: a host that nobody looks at must be whole by then

Session = subprocess.Popen[str]


@dataclass
class Rig:
    """One box with two cards that is its own balancer. Every `change` is a release that it never had."""

    lab: Lab
    box: str
    folder: Path
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.holds = Holds(self.lab, self.box)
        self.address = self.lab.address(self.box)
        self.project = self.controller("first")

    def controller(self, name: str) -> Commands:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return Commands(self.lab, folder, boxes=())

    def prepare(self) -> None:
        self.sh(BARE)
        self.holds.install()
        self.change()
        self.project.ogen("apply", "--yes")

    def sh(self, script: str, check: bool = True) -> str:
        return self.lab.sh(self.box, script, check=check)

    def change(self, project: Commands | None = None, side: bool = False, **values: object) -> None:
        """Writes an inventory whose release is new: another context, so that the instances restart, and
        another line for nginx, so that it reloads. `values`: others than USUAL."""
        number = next(self.numbers)
        own = {
            "box": self.box,
            "address": self.address,
            "number": 10 + number,
            "context": 4096 + 128 * number,
        }
        (project or self.project).write(INVENTORY + (SIDE if side else ""), **{**USUAL, **own, **values})

    def reading(self) -> Reading:
        return read_back(self.lab, self.box)

    def serves(self) -> None:
        """Through nginx, and each instance by itself."""
        assert ask(f"http://{self.address}:8080", "chat")[1]["done"]
        for port in (11434, 11435):
            body = '{"model": "chat", "prompt": "hello", "stream": false}'
            said = self.sh(f"curl -s http://127.0.0.1:{port}/api/generate -d '{body}'")
            assert '"done":true' in said.replace(" ", ""), said

    def sessions(self) -> list[int]:
        """The agents of logins, by their pids in the box."""
        script = """
            cat /sys/fs/cgroup/user.slice/user-*.slice/session-*.scope/cgroup.procs 2>/dev/null |
            while read pid; do
                case $(readlink /proc/$pid/exe) in *python*) echo $pid ;; esac
            done
        """
        return [int(word) for word in self.sh(script).split()]

    # ------------------------------------------------------------------------------ one cell
    def run(self, cell: Cell) -> Row:
        """Everything that a cell must show; AssertionError says what it does not."""
        try:
            return self._run(cell)
        except BaseException:
            print(self.sh(KEPT_AWAY, check=False), flush=True)
            self.holds.go()
            self.change()
            self.project.ogen("apply", "--yes", code=None)  # so that the next cell has a box that serves
            raise

    def _run(self, cell: Cell) -> Row:
        from alone import ALONE
        from strikes import FAULTS, Strike, breaking, mend

        if cell.fault in ALONE:
            return self._alone(cell, ALONE[cell.fault])
        fault = FAULTS[cell.fault]
        if cell.step in ("contract", "collect"):  # something is to go
            self.change(side=True)
            self.project.ogen("apply", "--yes")
        with fault(self) as struck, breaking(self, cell):
            before = self.reading()
            self.holds.arm(STEPS[cell.step])
            self.change()
            running = self.project.start("apply", "--yes")
            spoken = Spoken(running)
            pid = self.holds.held(lambda: running.poll() is not None)
            mend(self, cell)
            began = time.monotonic()
            struck(Strike(self, cell, running, pid))
            code, said = spoken.end(180)
            # what was left of an old release goes when something is applied again, not when nothing is to do
            anew = self.change if cell.step == "collect" else lambda: None
            return self._judge(cell, before, began, code, said, anew)

    def _alone(self, cell: Cell, strike: Callable[[Rig], tuple[int, str]]) -> Row:
        before, began = self.reading(), time.monotonic()
        good = self.project.inventory.read_text()
        code, said = strike(self)

        def anew() -> None:
            if cell.step == "connect":  # who never came in has the same to do as before: nothing
                self.project.inventory.write_text(good)
            else:
                self.change()

        return self._judge(cell, before, began, code, said, anew)

    def _judge(
        self,
        cell: Cell,
        before: Reading,
        began: float,
        code: int,
        said: str,
        anew: Callable[[], None],
    ) -> Row:
        """`anew` writes the inventory of the next apply, where it is not that of the interrupted one."""
        seconds = self.whole(cell, began)
        self.check(cell, before, self.reading())
        assert code == cell.code, f"exit {code}\n{said}"
        for word in (*cell.says, *(["hint:"] if code > 0 else [])):
            assert word in said, f"{word!r} is not in\n{said}"
        anew()
        self.again()
        return Row(cell.fault, cell.step, cell.ends, code, seconds, told(said))

    def whole(self, cell: Cell, began: float) -> float:
        """Waits, without any contact of ogen's, until nothing is under way; seconds since `began`."""
        wait = time.monotonic() + RECOVERED
        quiet = "timeout 50 sh -c 'while systemctl -q is-active ogen-tx; do sleep 0.1; done'"
        now: Reading | None = None
        while True:
            self.sh(quiet, check=False)
            with contextlib.suppress(AssertionError):  # a box that boots
                now = self.reading()
                if not (now.busy or now.wrong or now.failed or self.sessions()):
                    return time.monotonic() - began
            assert time.monotonic() < wait, f"not whole after {RECOVERED} s: {now}"
            time.sleep(0.3)

    def check(self, cell: Cell, before: Reading, now: Reading) -> None:
        """Wholly old or wholly new, and serving."""
        assert not now.wrong, now
        assert not now.failed, now
        same = now.current == before.current
        assert same == (cell.ends == "old"), f"{before.current} → {now.current}"
        if same and before_flip(cell.step) and cell.fault != "power":
            assert now.pids == before.pids, "something was restarted"
        self.serves()

    def again(self) -> None:
        """The next apply needs nobody's hands; then nothing is left over, and nothing to do."""
        self.holds.clear()
        if "nothing to do" not in self.project.ogen("apply", "--yes").stdout:
            self.project.ogen("diff")
        after = self.reading()
        assert after.clean, after
        assert after.last == "END", after
        self.serves()


class Spoken:
    """What a command says, read while it runs so that it never waits for us."""

    def __init__(self, running: Session) -> None:
        self.running = running
        self.parts: list[str] = []
        self.readers = [
            threading.Thread(target=self._read, args=(stream,), daemon=True)
            for stream in (running.stdout, running.stderr)
        ]
        for reader in self.readers:
            reader.start()

    def _read(self, stream: object) -> None:
        for line in stream:  # type: ignore[attr-defined]
            self.parts.append(line)

    def end(self, seconds: float) -> tuple[int, str]:
        try:
            code = self.running.wait(seconds)
        except subprocess.TimeoutExpired:
            self.running.kill()
            raise AssertionError("apply does not end:\n" + "".join(self.parts)) from None
        for reader in self.readers:
            reader.join(5)
        return code, "".join(self.parts)


#: What differs from run to run in what an apply says.
_ANYWHERE = (
    (r"\b[0-9a-f]{16}\b", "ID"),
    (r"SHA256:\S+", "SHA256:…"),
    (r"/\S+/(known_hosts)", r"\1"),
    (r"\b\d+\.\d+\.\d+\.\d+(:\d{4,})?", "ADDRESS"),
    (r"\bpid \d+|, \d{2,7}(?=;|$)", "pid"),
    (r"[\w.-]+@[\w.-]+", "SOMEBODY"),
    (r"\bbox\d\b", "HOST"),
)


def told(said: str) -> str:
    """The error of an apply in one line."""
    lines = [line.strip() for line in said.splitlines()]
    found = [line.removeprefix("error: ") for line in lines if line.startswith("error:")]
    hints = [line for line in lines if line.startswith("hint:")]
    text = "; ".join([*found[:1], *hints[:1]])
    for pattern, word in _ANYWHERE:
        text = re.sub(pattern, word, text)
    return text
