"""A program on a host over SSH by paramiko: strict host keys, no Nagle, timeouts on every wait."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paramiko

from ..errors import ConnectError
from ..inventory.model import Host
from . import known
from .access import Access, Keyring, resolve, resolve_jump
from .pipes import CHUNK, Pipe

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # what goes wrong is raised, not logged
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux only


class QuickSocket:
    """A socket that sends at once and acknowledges at once.

    Nagle's algorithm against delayed acknowledgement costs 40 ms twice per connection; QUICKACK is no
    lasting option of the kernel's, so it is renewed around each read.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def recv(self, count: int) -> bytes:
        self._quick()
        data = self._sock.recv(count)
        self._quick()
        return data

    def _quick(self) -> None:
        if _QUICKACK is not None:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def connect(host: Host, keyring: Keyring) -> Connection:
    """Opens the connection; ConnectError says what is wrong and what to do."""
    access = resolve(host, keyring)
    hops: list[paramiko.SSHClient] = []
    try:
        sock = _socket(host, access, keyring, hops)
        hops.append(_client(host.name, access, keyring.files(), sock))
    except BaseException:
        Connection(host.name, hops).close()
        raise
    return Connection(host.name, hops)


class Connection:
    """The clients of the way to a host, the last one being the host's own."""

    def __init__(self, host: str, hops: Sequence[paramiko.SSHClient]) -> None:
        self.host = host
        self.hops = hops

    def run(self, command: str) -> Pipe:
        transport = self.hops[-1].get_transport()
        assert transport
        try:
            channel = transport.open_session(timeout=15)
            channel.settimeout(60)  # a write that does not move for so long
            channel.exec_command(command)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ConnectError(f"no session on the host: {error}", host=self.host) from None
        return ChannelPipe(self.host, channel)

    def close(self) -> None:
        for hop in reversed(self.hops):
            with contextlib.suppress(Exception):
                hop.close()


class ChannelPipe(Pipe):
    def __init__(self, host: str, channel: paramiko.Channel) -> None:
        super().__init__(host)
        self.channel = channel

    def send(self, data: bytes) -> None:
        try:
            self.channel.sendall(data)
        except (OSError, EOFError, paramiko.SSHException):
            raise ConnectError("the connection broke", host=self.host) from None

    def wait(self, seconds: float) -> bool:
        if not (self._ready() or select.select([self.channel.fileno()], [], [], seconds)[0]):
            return False
        if self.channel.recv_stderr_ready():
            self.err += self.channel.recv_stderr(CHUNK)
        if self.channel.recv_ready():
            self.out += self.channel.recv(CHUNK)
        elif self.channel.eof_received or self.channel.closed:
            self._rest()
            self.ended = True
        return True

    def _ready(self) -> bool:
        return self.channel.recv_ready() or self.channel.recv_stderr_ready() or self.channel.closed

    def _rest(self) -> None:
        """Standard error may come a moment after the end of the output."""
        self.channel.settimeout(2)
        with contextlib.suppress(OSError):
            while data := self.channel.recv_stderr(CHUNK):
                self.err += data

    def status(self) -> int | None:
        if self.channel.status_event.wait(5):
            return self.channel.recv_exit_status()
        return None

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.channel.close()


# ------------------------------------------------------------------------------------ the hops
def _socket(host: Host, access: Access, keyring: Keyring, hops: list[paramiko.SSHClient]) -> Any:
    if access.jump is None:
        return _tcp(host.name, access)
    hop = resolve_jump(host, access.jump, keyring)
    if hop.jump:
        raise ConnectError(
            f"{access.jump} is itself behind {hop.jump}", host=host.name, hint="set transport: openssh"
        )
    hops.append(_client(host.name, hop, keyring.files(), _tcp(host.name, hop)))
    transport = hops[-1].get_transport()
    assert transport
    try:
        return transport.open_channel(
            "direct-tcpip", (access.address, access.port), ("127.0.0.1", 0), timeout=access.timeout
        )
    except paramiko.SSHException as error:
        raise ConnectError(
            f"{access.jump} does not reach {access.address}:{access.port}: {error}", host=host.name
        ) from None


def _tcp(host: str, access: Access) -> QuickSocket:
    try:
        return QuickSocket(socket.create_connection((access.address, access.port), access.timeout))
    except OSError as error:
        why = error.strerror or str(error) or "no answer"
        raise ConnectError(
            f"{access.address}:{access.port}: {why.lower()}",
            host=host,
            hint="is the host on, and its address right?",
        ) from None


def _client(host: str, access: Access, files: tuple[Path, ...], sock: Any) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    for key in known.keys_of(access, files, host):
        client.get_host_keys().add(access.known_as, key.get_name(), key)
    try:
        client.connect(
            access.alias,
            port=access.port,
            username=access.user,
            password=access.password,
            key_filename=list(access.keys) or None,  # type: ignore[arg-type]  # a list is fine, the stubs lag
            sock=sock,
            allow_agent=not access.only_keys,
            look_for_keys=False,
            timeout=access.timeout,
            banner_timeout=access.timeout,
            auth_timeout=max(access.timeout, 20.0),
            channel_timeout=access.timeout,
        )
    except (paramiko.SSHException, OSError, EOFError) as error:
        client.close()
        raise _explain(host, access, files, error) from None
    transport = client.get_transport()
    assert transport
    transport.set_keepalive(15)
    return client


def _explain(host: str, access: Access, files: tuple[Path, ...], error: BaseException) -> ConnectError:
    if isinstance(error, paramiko.BadHostKeyException):
        shown = f"{error.key.get_name()} {error.key.fingerprint}"
        return ConnectError(
            f"the host shows another key than {known.place_of(access, files)}: {shown}",
            host=host,
            hint="if it was installed anew, remove that line; if not, somebody stands in between",
        )
    if isinstance(error, paramiko.AuthenticationException):
        offered = ", ".join(access.keys) or "no key file"
        agent = "" if access.only_keys else " and the ssh agent's"
        return ConnectError(
            f"{access.user}@{access.address} does not let us in ({offered}{agent})",
            host=host,
            hint="set ssh.user and ssh.key, or add the public key on the host",
        )
    why = str(error) or type(error).__name__
    if "banner" in why:
        why = "accepts the connection, but does not speak SSH"
    return ConnectError(f"{access.address}:{access.port}: {why}", host=host)
