"""How many handshakes go on at once at one sshd, and what is known of a jump that lets nobody in.

sshd drops connections at random when ten of them are not logged in yet (MaxStartups 10:30:100). The
limit counts per sshd, jumps included, for the whole process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ConnectError
from .access import Access

LIMIT = 8  # below ten: sshd learns of a login a moment after the client does
PATIENCE = 600.0  # seconds in the queue; each handshake before ours has timeouts of its own

_lock = threading.Lock()
_doors: dict[tuple[str, int], Door] = {}


class Door:
    """One sshd."""

    def __init__(self) -> None:
        self.turns = threading.BoundedSemaphore(LIMIT)
        self.entered: dict[Access, int] = {}  # how often somebody got in this way
        self.failures: dict[Access, list[ConnectError]] = {}


def door(access: Access) -> Door:
    with _lock:
        return _doors.setdefault((access.address, access.port), Door())


@contextmanager
def turn(access: Access, host: str) -> Iterator[None]:
    """A place among the handshakes at this sshd, held until the login is through.

    Whoever had to queue while others failed there, and nobody got in, gets their error at once: a dead
    jump costs one timeout, not one for each eight hosts behind it.
    """
    found = door(access)
    failures = found.failures.setdefault(access, [])
    entered, failed = found.entered.get(access, 0), len(failures)
    if not found.turns.acquire(timeout=PATIENCE):
        raise ConnectError(f"no turn at {access.address}:{access.port} in time", host=host)
    try:
        if len(failures) > failed and found.entered.get(access, 0) == entered:
            last = failures[-1]
            raise type(last)(last.message, host=host, hint=last.hint)
        yield
        found.entered[access] = found.entered.get(access, 0) + 1
    except ConnectError as wrong:
        failures.append(wrong)
        raise
    finally:
        found.turns.release()
