"""Looks at hosts: one exec each, nothing is locked or written there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from ..errors import HostError, UsageError
from ..inventory.model import Host
from ..plan.model import Plan
from ..push import Contact, Options, Target, contact
from ..push.rollout import each
from .evidence import HostSeen
from .hearing import host_seen

LOOPBACK = "127.0.0.1"
DAY = 86400.0
REST = 10.0  # seconds that a host which failed is not asked for its journal
AGAIN = (2.0, 60.0)  # seconds until a host that failed is looked at again: at first, and at most


def look(
    plan: Plan, targets: Sequence[Target], options: Options, *, deep: bool = False, since: float = DAY
) -> dict[str, HostSeen | HostError]:
    """Each host, or the error that kept us from it; `deep` brings the evidence of `since` seconds."""

    def one(target: Target) -> HostSeen | HostError:
        try:
            with contact(target.host, options) as opened:
                return _look(opened, target, _request(plan, target, deep=deep, since=since))
        except HostError as error:
            return error

    return dict(zip((t.host.name for t in targets), each(targets, one, options.parallel), strict=True))


def _request(plan: Plan, target: Target, **more: Any) -> dict[str, Any]:
    reach = [list(place) for place in members(plan, target.host.name)]
    return {"op": "look", "reach": reach, **more}


class Links:
    """One connection to each host, made when it is first asked; one that broke is made anew."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._open: dict[str, tuple[Contact, ExitStack]] = {}

    def close(self) -> None:
        for name in tuple(self._open):
            self.drop(name)

    def to(self, host: Host) -> Contact:
        """Raises HostError."""
        if host.name not in self._open:
            stack = ExitStack()
            self._open[host.name] = stack.enter_context(contact(host, self.options)), stack
        return self._open[host.name][0]

    def drop(self, name: str) -> None:
        if (lost := self._open.pop(name, None)) is not None:
            lost[1].close()


class Looks:
    """Looks at the same hosts again and again, over one connection to each; one that broke is made anew.

    A host that fails is left alone for a while, longer each time; until then its error is what is seen.
    """

    def __init__(self, plan: Plan, targets: Sequence[Target], options: Options) -> None:
        self.plan, self.targets, self.options = plan, targets, options
        self._links = Links(options)
        self._failed: dict[str, tuple[HostError, float, float]] = {}  # until when, and after which pause

    def __enter__(self) -> Looks:
        return self

    def __exit__(self, *_: object) -> None:
        self._links.close()

    def look(self) -> dict[str, HostSeen | HostError]:
        seen = each(self.targets, self._one, self.options.parallel)
        return dict(zip((target.host.name for target in self.targets), seen, strict=True))

    def _one(self, target: Target) -> HostSeen | HostError:
        name = target.host.name
        error, until, pause = self._failed.get(name, (None, 0.0, 0.0))
        if error is not None and time.monotonic() < until:
            return error
        try:
            seen = _look(self._links.to(target.host), target, _request(self.plan, target))
        except HostError as failure:
            self._links.drop(name)
            pause = min(AGAIN[1], 2 * pause or AGAIN[0])
            self._failed[name] = failure, time.monotonic() + pause, pause
            return failure
        self._failed.pop(name, None)
        return seen


def _look(opened: Contact, target: Target, request: Mapping[str, Any]) -> HostSeen:
    opened.ask({"op": "look", "clock": True})  # the first one waits for the agent's start
    before = time.time()
    clock = opened.ask({"op": "look", "clock": True})[0]["seen"]["time"]
    after = time.time()
    comparison = opened.compare(target.release, text=False)
    said = opened.ask(request)[0]["seen"]
    offset = float(clock) - (before + after) / 2
    return host_seen(target.host.name, said, comparison, offset, (after - before) / 2)


def members(plan: Plan, host: str) -> dict[tuple[str, int], str]:
    """Where the balancers of a host reach instances: (address, port) → "host/instance"."""
    return {
        (LOOPBACK if member.host == host else member.address, member.port): f"{member.host}/{member.instance}"
        for entry in plan.entries
        if host in entry.hosts
        for pool in entry.pools
        for member in pool.members
    }


# ------------------------------------------------------------------------------------------ journals
Lines = list[tuple[float, str, str]]  # seconds, "host/instance", text


class Journals:
    """Hosts' journals, read as often as one likes over one connection to each."""

    def __init__(self, hosts: Sequence[Host], name: str | None, options: Options) -> None:
        if not hosts:
            raise UsageError("no host is left to be asked")
        self.hosts, self.name, self.options = hosts, name, options
        self._links = Links(options)
        self._cursors: dict[str, str] = {}
        self._asked: dict[str, float] = {}  # when a host that had no line yet was asked first
        self._rest: dict[str, float] = {}  # until when a host that failed is left alone

    def __enter__(self) -> Journals:
        return self

    def __exit__(self, *_: object) -> None:
        self._links.close()

    def read(self, lines: int, since: float | None = None) -> tuple[Lines, list[HostError]]:
        """The last `lines` since the last read, merged by time. A host that failed rests a while."""
        now = time.monotonic()
        asked = [host for host in self.hosts if self._rest.get(host.name, 0.0) <= now]
        answers = each(asked, lambda host: self._one(host, lines, since), self.options.parallel)
        found = [line for answer in answers if not isinstance(answer, HostError) for line in answer]
        errors = [answer for answer in answers if isinstance(answer, HostError)]
        return sorted(found, key=lambda line: line[0])[-lines:], errors

    def _one(self, host: Host, lines: int, since: float | None) -> Lines | HostError:
        name, now = host.name, time.monotonic()
        after = self._cursors.get(name)
        if after is None and name in self._asked:
            since = now - self._asked[name] + 1.0
        request = {"op": "logs", "name": self.name, "lines": lines, "since": None if after else since}
        try:
            said = self._links.to(host).ask({**request, "after": after})[0]
        except HostError as error:
            self._links.drop(name)
            self._rest[name] = now + REST
            return error
        self._asked.setdefault(name, now)
        if said.get("cursor"):
            self._cursors[name] = str(said["cursor"])
        return [(float(stamp), f"{name}/{who}", str(text)) for stamp, who, text in said["lines"]]
