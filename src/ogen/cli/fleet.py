"""What every command begins with that contacts hosts: secrets, the rendered wish, who we are, Ctrl-C."""

from __future__ import annotations

import getpass
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from ..inventory.model import Host, Inventory, Secret
from . import console, project, runs
from .exits import Exit
from .vault import Vault

if TYPE_CHECKING:
    from ..plan.model import Plan
    from ..push import Options, Target


@dataclass(frozen=True, slots=True)
class Fleet:
    """An inventory, ready to be taken to its hosts."""

    inventory: Inventory
    vault: Vault
    options: Options

    def hosts(self, limit: str | None) -> tuple[Host, ...]:
        """The hosts to contact: those that are in, as far as --limit leaves them."""
        names = project.limited(self.inventory, limit)
        return tuple(host for host in self.inventory.hosts if host.name in names and host.state == "in")


def fleet(path: Path, parallel: int = 32, *, what: str = "apply") -> Fleet:
    """Loads the inventory and its secrets; from here on none of them is printed.

    A secret that can't be had is told before any host is contacted. `what` stands in the hosts' audit.
    """
    from ..inventory import load

    inventory = load(path)
    vault = Vault(inventory.folder)
    console.hide(vault.redact)
    for secret in _secrets(inventory):
        vault(secret)
    return Fleet(inventory, vault, _options(inventory, vault, parallel, what))


def _secrets(inventory: Inventory) -> Iterator[Secret]:
    """The secrets that a command with hosts needs, in the order of the inventory."""
    for host in inventory.hosts:
        if host.state == "in":
            yield from (secret for secret in (host.ssh.password, host.ssh.become_password) if secret)
    yield from (balancer.keys for balancer in inventory.balancers if balancer.keys)
    for queue in inventory.queues:
        yield from (secret for secret in (queue.redis.secret, queue.redis.url) if secret)


def _options(inventory: Inventory, vault: Vault, parallel: int, what: str) -> Options:
    from ..push import Keyring, Options
    from . import revision, terminal

    return Options(
        keyring=Keyring(folder=inventory.folder, reveal=vault, ask=terminal.asker(vault)),
        parallel=parallel,
        who=runs.label(f"{getpass.getuser()}@{socket.gethostname()}", what, secrets.token_hex(4)),
        git=revision.head(Path(inventory.folder)),
        load=inventory.rollout.prove_timeout,
        drain=inventory.rollout.drain_timeout,
        outage=inventory.rollout.allow_outage,
        batches=inventory.rollout.batches,
        downloads=inventory.rollout.downloads,
        max_fail=inventory.rollout.max_fail,
    )


def planned(ready: Fleet) -> Plan:
    """The plan alone, for commands that render nothing."""
    from ..plan import plan

    return plan(ready.inventory)


def wish(
    ready: Fleet, limit: str | None, names: frozenset[str] | None = None
) -> tuple[Plan, tuple[Target, ...]]:
    """What the hosts are to become: those of --limit, or `names`. Balancers that list one come along."""
    from ..plan import plan
    from ..push import targets
    from ..render import render

    planned = plan(ready.inventory)
    wanted = targets(planned, render(planned, secrets=ready.vault), ready.vault)
    if limit is None and names is None:
        return planned, wanted
    if names is None:
        names = project.limited(ready.inventory, limit)
    return planned, tuple(t for t in wanted if t.host.name in names or any(h in names for h, _ in t.needs))


def _leave() -> None:
    sys.stdout.flush()
    os._exit(Exit.INTERRUPTED)  # threads still watch; each host ends its own transaction


@contextmanager
def interruptible(options: Options, again: Callable[[], None] = _leave) -> Iterator[None]:
    """Ctrl-C once: hosts under way are finished, no other is started. Twice: `again`, stop watching."""

    def handle(_: int, __: FrameType | None) -> None:
        if options.stop.is_set():
            again()
        options.stop.set()
        console.say("finishing the hosts under way, starting no other; Ctrl-C again stops watching")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def agreed(question: str, yes: bool) -> bool:
    """Whether to go on: asked only where a person sits, and --yes was not given."""
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    import click

    return click.confirm(question, default=False, err=True)
