"""An SSH server on loopback whose "hosts" are folders: for tests and the demo, as an ordinary user.

Host keys and the client's key are made anew each time; `known_hosts` is written so that the client
checks strictly. A command runs by `sh -c` in the host's folder, which is its HOME too.

    python tests/sshd.py DIR NAME...     serves until its input ends; prints "NAME ADDRESS PORT" lines
"""

from __future__ import annotations

import logging
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import paramiko

ADDRESS = "127.0.0.1"
logging.getLogger("paramiko").addHandler(logging.NullHandler())  # clients that leave are no news


class _Door(paramiko.ServerInterface):
    """Lets in whoever has the key; runs commands."""

    def __init__(self, key: paramiko.PKey, folder: Path, password: str | None, typed: list[str]) -> None:
        self.key = key
        self.typed = typed
        self.folder = folder
        self.password = password
        self.jumps: dict[int, tuple[str, int]] = {}

    def get_allowed_auths(self, username: str) -> str:
        return "publickey,password" if self.password else "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL if key == self.key else paramiko.AUTH_FAILED

    def check_auth_password(self, username: str, password: str) -> int:
        self.typed.append(password)
        good = self.password is not None and password == self.password
        return paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        if kind == "session":
            return paramiko.OPEN_SUCCEEDED
        return paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_direct_tcpip_request(
        self, chanid: int, origin: tuple[str, int], destination: tuple[str, int]
    ) -> int:
        """A jump: the transport's accept() gets the channel, and joins it to the destination."""
        self.jumps[chanid] = destination
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=_run, args=(channel, command, self.folder), daemon=True).start()
        return True


def _run(channel: paramiko.Channel, command: bytes, folder: Path) -> None:
    env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    process = subprocess.Popen(
        ["sh", "-c", command.decode()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=env,
        bufsize=0,
    )
    assert process.stdout
    assert process.stderr
    threading.Thread(target=_feed, args=(channel, process), daemon=True).start()
    sinks = {process.stdout.fileno(): channel.sendall, process.stderr.fileno(): channel.sendall_stderr}
    with suppress(OSError, EOFError):
        while sinks:
            for number in select.select(list(sinks), [], [])[0]:
                data = os.read(number, 1 << 17)
                if data:
                    sinks[number](data)
                else:
                    del sinks[number]
    with suppress(OSError, EOFError):
        channel.send_exit_status(process.wait())
    process.stdout.close()
    process.stderr.close()
    with suppress(OSError, EOFError):  # the client may be gone
        channel.close()


def _feed(channel: paramiko.Channel, process: subprocess.Popen[bytes]) -> None:
    """From the channel to the command's input, until the client ends it."""
    assert process.stdin
    with suppress(OSError, EOFError):
        while data := channel.recv(1 << 17):
            process.stdin.write(data)
    with suppress(OSError):
        process.stdin.close()


def _join(channel: paramiko.Channel, destination: tuple[str, int]) -> None:
    """Both directions of a jump."""
    other = socket.create_connection(destination, timeout=10)
    other.settimeout(None)

    def copy(read: Callable[[int], bytes], write: Callable[[bytes], object]) -> None:
        with suppress(OSError, EOFError):
            while data := read(1 << 16):
                write(data)
        with suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)
        channel.close()

    for pair in ((channel.recv, other.sendall), (other.recv, channel.sendall)):
        threading.Thread(target=copy, args=pair, daemon=True).start()


@dataclass
class Server:
    """One host: a port and a folder."""

    name: str
    folder: Path
    client_key: paramiko.PKey
    password: str | None = None
    host_key: paramiko.PKey = field(default_factory=lambda: paramiko.ECDSAKey.generate(bits=256))

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.socket = socket.create_server((ADDRESS, 0), backlog=128)
        self.port: int = self.socket.getsockname()[1]
        self.transports: list[paramiko.Transport] = []
        self.connections = 0
        self.passwords: list[str] = []  # those that were tried
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.socket.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = paramiko.Transport(client)
        transport.add_server_key(self.host_key)
        self.transports.append(transport)
        door = _Door(self.client_key, self.folder, self.password, self.passwords)
        with suppress(paramiko.SSHException, OSError, EOFError):
            transport.start_server(server=door)
            while transport.is_active():
                channel = transport.accept(1)
                if channel is not None and channel.get_id() in door.jumps:
                    _join(channel, door.jumps[channel.get_id()])

    def close(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for transport in self.transports:
            transport.close()

    @property
    def known(self) -> str:
        return f"[{ADDRESS}]:{self.port} {self.host_key.get_name()} {self.host_key.get_base64()}\n"


class Farm:
    """Several hosts under `folder`, with the client's `key` and `known_hosts` beside them."""

    def __init__(self, folder: Path, *names: str, password: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.key = folder / "key"
        self.known_hosts = folder / "known_hosts"
        client_key = paramiko.ECDSAKey.generate(bits=256)
        self.key.unlink(missing_ok=True)
        client_key.write_private_key_file(str(self.key))
        self.servers = {n: Server(n, folder / "hosts" / n, client_key, password) for n in names}
        self.known_hosts.write_text("".join(s.known for s in self.servers.values()))

    def __enter__(self) -> Farm:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers.values():
            server.close()

    def port(self, name: str) -> int:
        return self.servers[name].port

    def root(self, name: str) -> Path:
        return self.servers[name].folder


def main(arguments: list[str]) -> int:
    if len(arguments) < 2:
        sys.stderr.write("usage: sshd.py DIR NAME...\n")
        return 1
    with Farm(Path(arguments[0]), *arguments[1:]) as farm:
        for name in farm.servers:
            sys.stdout.write(f"{name} {ADDRESS} {farm.port(name)}\n")
        sys.stdout.flush()
        while sys.stdin.buffer.read1(4096):
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
