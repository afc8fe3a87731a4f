"""OpenSSH's own server on loopback, run as whoever runs the tests: host keys, authorities, jumps, limits.

A "host" is a port and a folder; logins are the test's own account, with the key beside them.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ADDRESS = "127.0.0.1"
SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") or "/usr/sbin/sshd"
CONFIG = """\
Port {port}
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {farm}/key.pub
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
PerSourceMaxStartups none
LogLevel VERBOSE
"""


def keygen(*args: object) -> None:
    subprocess.run(["ssh-keygen", "-q", *map(str, args)], check=True, stdin=subprocess.DEVNULL)


def new_key(path: Path, passphrase: str = "") -> Path:
    keygen("-t", "ed25519", "-N", passphrase, "-C", path.name, "-f", path)
    return path


@dataclass
class Sshd:
    """One server; `more` is added to its configuration."""

    farm: Path
    name: str
    more: str = ""
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.farm / self.name
        self.folder.mkdir()
        new_key(self.folder / "host_key")
        with socket.create_server((ADDRESS, 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        text = CONFIG.format(port=self.port, address=ADDRESS, folder=self.folder, farm=self.farm)
        file = self.folder / "sshd_config"
        # the first word counts, as in ssh_config
        file.write_text(self.more.format(folder=self.folder, farm=self.farm) + text)
        with (self.folder / "log").open("ab") as log:
            command = [SSHD, "-D", "-e", "-f", str(file)]
            self.process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while time.monotonic() < end and self.process.poll() is None:
            try:
                socket.create_connection((ADDRESS, self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError(f"sshd does not start: {self.log}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def logins(self) -> int:
        return self.log.count("Accepted publickey ")

    @property
    def public(self) -> str:
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    @property
    def known(self) -> str:
        return f"[{ADDRESS}]:{self.port} {self.public}\n"


@dataclass
class RealFarm:
    """Servers by name, the client's `key`, and `known_hosts` with all of them."""

    folder: Path
    servers: dict[str, Sshd] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.key = new_key(self.folder / "key")
        self.known_hosts = self.folder / "known_hosts"
        self.user = getpass.getuser()

    def add(self, name: str, more: str = "") -> Sshd:
        self.servers[name] = made = Sshd(self.folder, name, more)
        self.know()
        return made

    def know(self) -> None:
        self.known_hosts.write_text("".join(server.known for server in self.servers.values()))


@contextmanager
def real_farm(folder: Path) -> Iterator[RealFarm]:
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd, as root, shuts itself in
    farm = RealFarm(folder)
    try:
        yield farm
    finally:
        for server in farm.servers.values():
            server.stop()
