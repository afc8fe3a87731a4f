"""Which client carries a host's program: none, paramiko, or OpenSSH's own where only that can."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import ConnectError
from ..inventory.model import Host
from . import known
from .access import Access, Keyring
from .jumps import way
from .pipes import Pipe, ProcessPipe
from .wire import ahead

if TYPE_CHECKING:
    from .become import Start


def carry(host: Host, begun: Start, keyring: Keyring, tell: Callable[[str], None]) -> Pipe:
    """Starts the program; closing the pipe closes all that carries it. `tell` hears of a change of client."""
    if host.connection == "local":
        return ProcessPipe(host.name, begun.command, user=getpass.getuser())
    hops = way(host, keyring)
    why = foreign(host.name, hops)
    if host.transport == "openssh" or why:
        from . import openssh

        if hops[-1].password is not None:
            raise ConnectError(
                f"ssh.password can't be given to OpenSSH's client ({why or 'transport: openssh'})",
                host=host.name,
                hint="log in with a key",
            )
        if why:
            tell(f"by OpenSSH's client: {why}")
        return openssh.Client(host.name, hops, begun.line, keyring)
    with ahead(hops[0]):
        from . import ssh

        connection = ssh.connect(host.name, hops, keyring)
    try:
        return connection.run(begun.line)
    except BaseException:
        connection.close()
        raise


def foreign(host: str, hops: Sequence[Access]) -> str | None:
    """Why paramiko can't go this way: the first reason that a hop gives."""
    for hop in hops:
        if hop.odd:
            return hop.odd
        found = known.look(hop, host)
        if found.authorities and not found.lines:
            return f"{found.authorities[0].place} leaves the host's key to a certificate authority"
    return None
