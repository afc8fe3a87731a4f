"""A program on a host over SSH by paramiko: strict host keys, no Nagle, timeouts on every wait."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
from collections.abc import Iterator, Sequence
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
    hops: list[paramiko.Transport] = []
    try:
        sock = _socket(host, access, keyring, hops)
        _enter(host.name, access, keyring.files(), sock, hops)
    except BaseException:
        Connection(host.name, hops).close()
        raise
    return Connection(host.name, hops)


class Connection:
    """The transports of the way to a host, the last one being the host's own."""

    def __init__(self, host: str, hops: Sequence[paramiko.Transport]) -> None:
        self.host = host
        self.hops = hops

    def run(self, command: str) -> Pipe:
        try:
            channel = self.hops[-1].open_session(timeout=15)
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
def _socket(host: Host, access: Access, keyring: Keyring, hops: list[paramiko.Transport]) -> Any:
    if access.jump is None:
        return _tcp(host.name, access)
    hop = resolve_jump(host, access.jump, keyring)
    if hop.jump:
        raise ConnectError(
            f"{access.jump} is itself behind {hop.jump}", host=host.name, hint="set transport: openssh"
        )
    _enter(host.name, hop, keyring.files(), _tcp(host.name, hop), hops)
    try:
        return hops[-1].open_channel(
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


def _enter(
    host: str, access: Access, files: tuple[Path, ...], sock: Any, hops: list[paramiko.Transport]
) -> None:
    """Opens one transport over `sock`: key exchange, the host's key, then ours."""
    try:
        allowed = known.lines(access, files, host)
    except ConnectError:
        sock.close()
        raise
    transport = paramiko.Transport(sock)
    hops.append(transport)  # so that it is closed whatever happens
    transport.banner_timeout = access.timeout
    options = transport.get_security_options()
    first = [kind for kind in options.key_types if any(_same_kind(kind, line.kind) for line in allowed)]
    options.key_types = (*first, *(kind for kind in options.key_types if kind not in first))
    try:
        transport.start_client(timeout=access.timeout + 10)
    except (paramiko.SSHException, OSError, EOFError) as error:
        why = "it accepts the connection, but does not speak SSH" if "banner" in str(error) else str(error)
        why = why or "it closed the connection"
        raise ConnectError(
            f"{access.address}:{access.port}: {why}",
            host=host,
            hint="is sshd what listens there, and the host not overloaded?",
        ) from None
    shown = transport.get_remote_server_key()
    if shown.asbytes() not in {line.key for line in allowed}:
        raise ConnectError(
            f"the host shows another key than {allowed[0].place}: {shown.get_name()} {shown.fingerprint}",
            host=host,
            hint="if it was installed anew, remove that line; if not, somebody stands in between",
        )
    transport.auth_timeout = max(access.timeout, 20.0)
    _log_in(host, access, transport)
    transport.set_keepalive(15)


def _same_kind(algorithm: str, kind: str) -> bool:
    """RSA keys sign by several algorithms."""
    return algorithm == kind or (kind == "ssh-rsa" and algorithm.startswith("rsa-sha2-"))


def _log_in(host: str, access: Access, transport: paramiko.Transport) -> None:
    """Key files first, then the agent's keys, then the password."""
    tried: list[str] = []
    try:
        for name, key in _keys(access, tried):
            tried.append(name)
            with contextlib.suppress(paramiko.AuthenticationException):
                if not transport.auth_publickey(access.user, key):
                    return
        if access.password is not None:
            tried.append("password")
            with contextlib.suppress(paramiko.AuthenticationException):
                if not transport.auth_password(access.user, access.password):
                    return
    except (paramiko.SSHException, OSError, EOFError) as error:
        tried.append(str(error) or "the host closed the connection")
    offered = ", ".join(tried) or "there is no key to offer"
    raise ConnectError(
        f"{access.user}@{access.address} does not let us in ({offered})",
        host=host,
        hint="set ssh.user and ssh.key, or add the public key on the host",
    )


def _keys(access: Access, tried: list[str]) -> Iterator[tuple[str, paramiko.PKey]]:
    for path in access.keys:
        try:
            yield path, paramiko.PKey.from_path(path)
        except paramiko.PasswordRequiredException:
            tried.append(f"{path} has a passphrase: load it into the ssh agent")
        except Exception as error:  # a key file can be damaged in many ways
            tried.append(f"{path}: {error}")
    if not access.only_keys:
        for key in paramiko.Agent().get_keys():
            yield "the agent's " + key.get_name(), key
