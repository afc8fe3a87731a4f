"""Hosts for the push benchmark: one OpenSSH server each, on an address of its own in 127.0.2.0/24.

Every host has its own HOME under the work folder. Keys are made anew; client and servers check strictly.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
TICK = os.sysconf("SC_CLK_TCK")
_CONFIG = """\
ListenAddress {address}:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxStartups 500
LogLevel ERROR
SetEnv HOME={home}
Subsystem sftp internal-sftp
"""
_CLIENT = """\
Host *
  User {user}
  Port {port}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  StrictHostKeyChecking yes
  BatchMode yes
  LogLevel ERROR
"""
#: what OpenSSH 9 does by default costs it 70 ms of CPU per connection; the floor is to be the fastest ssh
QUICK_KEX = "KexAlgorithms curve25519-sha256\n"


@dataclass(frozen=True, slots=True)
class Box:
    """One host; `address` is where clients reach it: its server, or the delay in front of it."""

    name: str
    server: str
    address: str
    port: int
    home: Path


class Farm:
    """Servers that run until the `with` ends. `delayed`: clients are sent to 127.0.3.n instead."""

    def __init__(self, folder: Path, count: int, *, delayed: bool = False) -> None:
        if SSHD is None:
            raise SystemExit("sshd is not installed (Debian: openssh-server)")
        self.folder = folder
        self.port = _free_port()
        self.user = _user()
        net = 3 if delayed else 2
        self.boxes = [
            Box(f"h{n:03}", f"127.0.2.{n}", f"127.0.{net}.{n}", self.port, folder / "homes" / f"h{n:03}")
            for n in range(1, count + 1)
        ]
        self.servers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Farm:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("key", "host_key"):
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)]
            subprocess.run(make, check=True)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        key = (self.folder / "host_key.pub").read_text().split()
        lines = [f"[{a}]:{self.port} {key[0]} {key[1]}\n" for b in self.boxes for a in (b.server, b.address)]
        (self.folder / "known_hosts").write_text("".join(dict.fromkeys(lines)))
        client = _CLIENT.format(user=self.user, port=self.port, folder=self.folder)
        (self.folder / "ssh_config").write_text(client + "  " + QUICK_KEX)
        (self.folder / "ssh_config.default").write_text(client)
        for box in self.boxes:
            self.servers.append(self._serve(box))
        for box in self.boxes:
            _await(box.server, self.port)
        return self

    def _serve(self, box: Box) -> subprocess.Popen[bytes]:
        box.home.mkdir(parents=True)
        config = self.folder / f"sshd.{box.name}"
        config.write_text(
            _CONFIG.format(address=box.server, port=self.port, folder=self.folder, home=box.home)
        )
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
        return subprocess.Popen([str(SSHD), "-D", "-f", str(config)], env=env)

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.terminate()
        for server in self.servers:
            server.wait(10)

    def cpu(self) -> float:
        """Seconds of CPU of all servers and of what they ran and waited for."""
        self._settle()
        return sum(_cpu(server.pid) for server in self.servers)

    def _settle(self) -> None:
        """Waits until no session is left: only then has its time been added to its server's."""
        end = time.monotonic() + 10
        while any(children(s.pid) for s in self.servers) and time.monotonic() < end:
            time.sleep(0.005)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(f) for f in fields[11:15]) / TICK


def children(pid: int) -> list[int]:
    """The processes that `pid` started or adopted, as the kernel tells now."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(p) for p in (task / "children").read_text().split()]
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.2.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def _await(address: str, port: int) -> None:
    end = time.monotonic() + 20
    while True:
        with suppress(OSError), socket.create_connection((address, port), 1):
            return
        if time.monotonic() > end:
            raise SystemExit(f"sshd does not answer on {address}:{port}")
        time.sleep(0.02)


def end(pid: int) -> None:
    """Ends a process that we adopted, and waits for it."""
    with suppress(OSError):
        os.kill(pid, signal.SIGTERM)
    with suppress(OSError):
        os.waitpid(pid, 0)
