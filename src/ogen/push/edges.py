"""Leases at a balancer host: their names, and the connection over which they are taken and ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from ..errors import HostError
from ..inventory.model import Host
from .contact import Contact, contact
from .results import Options

LEASE = 60.0  # seconds that a lease lasts
BY_HAND = "drain"  # how the id of a person's lease begins; that of a rollout's begins with its number

Member = tuple[str, str]  # host, instance


@dataclass(frozen=True, slots=True)
class Failing:
    """A server that a balancer host's probes keep its balancers away from."""

    server: str
    why: str


@dataclass(frozen=True, slots=True)
class Lease:
    """One that is in force at a balancer host; `run` is a rollout's number, or BY_HAND."""

    run: str
    name: str  # the member's, as `name_of` makes it
    left: float  # seconds
    who: str

    @property
    def id(self) -> str:
        return f"{self.run}.{self.name}"


def name_of(member: Member) -> str:
    return ".".join(member)


def lease_id(run: str, member: Member) -> str:
    """The same for whoever takes or ends it."""
    return f"{run}.{name_of(member)}"


class Edge:
    """A balancer host, with a connection of its own for leases; opened when the first one is needed."""

    def __init__(self, host: Host, options: Options) -> None:
        self.host = host
        self.options = options
        self.lock = threading.Lock()
        self.stack = ExitStack()
        self.contact: Contact | None = None

    def lease(self, servers: Mapping[str, str], seconds: float = LEASE) -> None:
        """Takes leases: id → server."""
        self.renew(lambda: servers, seconds)

    def renew(self, wanted: Callable[[], Mapping[str, str]], seconds: float = LEASE) -> None:
        """Takes or renews what `wanted` says once nothing else is told to this host: a lease that was ended
        while this waited for its turn is not to come back."""
        with self.lock:
            servers = wanted()
            if servers:
                self._open().lease(servers, seconds)

    def unlease(self, names: Collection[str], wait: float, strict: bool = False) -> set[str]:
        """Ends leases by their ids; the servers that are still down after `wait` seconds.

        A host that is gone has none, since its leases end by themselves; an error if `strict`.
        """
        with self.lock:
            try:
                return set(self._open().unlease(names, wait)) if names else set()
            except HostError:
                if strict:
                    raise
                return set()

    def listed(self, strict: bool = False) -> list[Lease]:
        """The leases that are in force here; as for `unlease`, none on a host that is gone."""
        with self.lock:
            try:
                told = self._open().leases()["leases"]
            except HostError:
                if strict:
                    raise
                return []
        parts = [(str(one["id"]).partition("."), one) for one in told]
        return [Lease(run, name, float(one["left"]), str(one["who"])) for (run, _, name), one in parts]

    def failing(self) -> list[Failing]:
        """Servers that this host's balancers send nothing to since they fail their probes."""
        with self.lock:
            try:
                told = self._open().leases()["failing"]
            except HostError:
                return []
        return [Failing(str(one["server"]), str(one["why"])) for one in told if one["away"]]

    def _open(self) -> Contact:
        if self.contact is None:
            self.contact = self.stack.enter_context(contact(self.host, self.options))
        return self.contact

    def close(self) -> None:
        with self.lock:
            self.contact = None
            self.stack.close()
