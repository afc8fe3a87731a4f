"""A program on a host over SSH by paramiko: channel in channel over the jumps, strict host keys at each."""

from __future__ import annotations

import contextlib
import logging
import random
import select
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import ConnectError, OfflineError
from ..release.plaintext import clean
from . import known, login
from .access import Access, Keyring
from .handshakes import turn
from .lean import Transport, paramiko
from .pipes import AGAIN, CHUNK, MOVE, Pipe
from .wire import Wire, dial

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # what goes wrong is raised, not logged

ANSWER = 20.0  # seconds for each answer of a server that has let us in
#: the cheap ones first: sntrup and the large groups cost 20 to 70 ms of CPU for each host
KEX = ("curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256")
PAUSES = (0.2, 0.5, 1.0)  # seconds before another try where sshd was too busy
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr")


class Dropped(OfflineError):
    """sshd closes at once, as it does when too many connections are not logged in yet."""


@dataclass(slots=True)
class Hop:
    """One transport, and what it reads from."""

    transport: paramiko.Transport
    wire: Wire

    def close(self) -> None:
        """Nothing is left of it afterwards, its thread included."""
        self.wire.wake()
        with contextlib.suppress(Exception):
            self.transport.close()
        with contextlib.suppress(RuntimeError):  # it was never started
            self.transport.join(2)
        self.wire.shut()


class Connection:
    """The hops of the way to a host, the last one being the host's own."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.hops: list[Hop] = []
        self.user = ""  # at the last hop
        self.via = ""  # the last hop's name

    def run(self, command: str) -> Pipe:
        """Starts a program; the pipe owns this connection."""
        hop = self.hops[-1]
        try:
            with hop.wire.limit(ANSWER):
                channel = hop.transport.open_session(timeout=ANSWER)
                channel.settimeout(MOVE)
                channel.exec_command(command)
        except (paramiko.SSHException, OSError, EOFError) as error:
            why = "no answer in time" if hop.wire.late else _plain(error)
            raise ConnectError(
                f"the login works, but no program can be started: {why}",
                host=self.host,
                hint="a ForceCommand, a locked shell or MaxSessions in sshd_config may be the reason",
            ) from None
        return ChannelPipe(self, channel)

    def cut(self, count: int) -> None:
        """Closes all hops but the first `count`."""
        while len(self.hops) > count:
            self.hops.pop().close()

    def close(self) -> None:
        self.cut(0)


class ChannelPipe(Pipe):
    def __init__(self, connection: Connection, channel: paramiko.Channel) -> None:
        super().__init__(connection.host, connection.user)
        self.connection = connection
        self.channel = channel
        self._poll = select.poll()
        self._poll.register(channel.fileno(), select.POLLIN)

    def send(self, data: bytes) -> None:
        try:
            self.channel.sendall(data)
        except (OSError, EOFError, paramiko.SSHException):
            raise ConnectError("the connection broke", host=self.host, hint=AGAIN) from None

    def wait(self, seconds: float) -> bool:
        if not (self._ready() or self._poll.poll(seconds * 1000)):
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
        self.connection.close()


# ------------------------------------------------------------------------------------ the hops
def connect(host: str, hops: Sequence[Access], keyring: Keyring) -> Connection:
    """Opens the connection over all hops; ConnectError says what is wrong and what to do."""
    made = Connection(host)
    try:
        for access in hops:
            enter(made, access, keyring)
    except BaseException:
        made.close()
        raise
    return made


def enter(made: Connection, access: Access, keyring: Keyring) -> None:
    """One hop more: the host's key is checked, then we log in."""
    with turn(access, made.host):
        expected = known.look(access, made.host)
        key = knock(made, access, [line.kind for line in expected.expected(made.host)])
        expected.judge(key.asbytes(), f"{key.get_name()} {key.fingerprint}", made.host)
        transport = made.hops[-1].transport
        login.log_in(made.host, access, transport, keyring)
        transport.set_keepalive(15)
        made.user, made.via = access.user, access.name


def knock(made: Connection, access: Access, kinds: Sequence[str]) -> paramiko.PKey:
    """`shake`, again after a while where sshd drops connections because too many came at once."""
    before = len(made.hops)
    for pause in PAUSES:
        try:
            return shake(made, access, kinds)
        except Dropped:
            made.cut(before)
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - so that not all come again at once
    return shake(made, access, kinds)


def shake(made: Connection, access: Access, kinds: Iterable[str]) -> paramiko.PKey:
    """Connects and exchanges keys; the key that the host shows, one of `kinds` if it has such."""
    wire = _through(made, access) if made.hops else dial(access, made.host)
    try:
        transport = Transport(wire)  # type: ignore[arg-type]
    except BaseException:
        wire.shut()
        raise
    made.hops.append(Hop(transport, wire))  # so that it is closed whatever happens
    transport.banner_timeout = access.timeout
    transport.auth_timeout = max(access.timeout, ANSWER)
    _choose(transport, set(kinds))
    try:
        with wire.limit(2 * access.timeout):
            transport.start_client(timeout=2 * access.timeout)
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise _deaf(made, access, wire, error) from None
    if not transport.initial_kex_done:
        raise _deaf(made, access, wire, TimeoutError("no answer in time"))
    return transport.get_remote_server_key()


def _through(made: Connection, access: Access) -> Wire:
    """A channel of the last hop, joined to the next one's sshd."""
    before = made.hops[-1]
    place = f"{access.address}:{access.port}"
    try:
        goal = (access.address, access.port)
        channel = before.transport.open_channel(
            "direct-tcpip", goal, ("127.0.0.1", 0), timeout=access.timeout
        )
    except (paramiko.SSHException, OSError, EOFError) as error:
        why, hint = _plain(error), "is the host on, and its address right as seen from the jump?"
        if "prohibited" in why.lower():
            hint = "the jump's sshd_config needs AllowTcpForwarding, and PermitOpen for this address"
        raise OfflineError(
            f"the jump {made.via} does not reach {place}: {why}", host=made.host, hint=hint
        ) from None
    return Wire(channel)


def _choose(transport: paramiko.Transport, kinds: set[str]) -> None:
    """The order of what we offer: cheap key exchanges and ciphers, and the types of keys that are known."""
    options = transport.get_security_options()
    options.kex = _first(KEX, options.kex)
    options.ciphers = _first(CIPHERS, options.ciphers)
    options.key_types = _first([k for k in options.key_types if _is(k, kinds)], options.key_types)


def _first(wanted: Sequence[str], there: Sequence[str]) -> tuple[str, ...]:
    return (*(k for k in wanted if k in there), *(k for k in there if k not in wanted))


def _is(algorithm: str, kinds: set[str]) -> bool:
    """RSA keys sign by several algorithms."""
    return algorithm in kinds or ("ssh-rsa" in kinds and algorithm.startswith("rsa-sha2-"))


def _deaf(made: Connection, access: Access, wire: Wire, error: Exception) -> OfflineError:
    """What keeps a host from exchanging keys with us, from what it said or did not say."""
    place, heard, kind = f"{access.address}:{access.port}", wire.heard, OfflineError
    if not heard and not wire.ended:
        why = "it accepts the connection, and says nothing: it does not speak SSH"
        hint = "is that port sshd's, and the host not overloaded? ssh.connect_timeout is the patience"
    elif not heard or heard.startswith(b"Exceeded MaxStartups"):
        kind = Dropped
        why = "it closes the connection at once"
        hint = "sshd's log tells why: MaxStartups, a firewall, hosts.deny? --parallel 4 asks less of it"
    elif not heard.startswith(b"SSH-") and b"\nSSH-" not in heard:
        said = clean(heard.decode("utf-8", "replace").splitlines()[0])[:60]
        why = f"it does not speak SSH, but says {said!r}"
        hint = "another service listens there: check `address` and ssh.port"
    else:
        late = wire.late or isinstance(error, TimeoutError)
        why = "it begins to speak SSH, and then falls silent" if late else _plain(error)
        hint = "sshd's log tells more; if its algorithms are too old or too new, set transport: openssh"
    return kind(f"{place}: {why}", host=made.host, hint=hint)


def _plain(error: BaseException) -> str:
    """paramiko's words without its numbers; never empty."""
    text = error.args[1] if isinstance(error, paramiko.ChannelException) else str(error)
    return clean(str(text)) or "it closed the connection"
