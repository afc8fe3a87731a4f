"""Looks at hosts: one exec each, nothing is locked or written there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
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


def look(
    plan: Plan, targets: Sequence[Target], options: Options, *, deep: bool = False, since: float = DAY
) -> dict[str, HostSeen | HostError]:
    """Each host, or the error that kept us from it; `deep` brings the evidence of `since` seconds."""

    def one(target: Target) -> HostSeen | HostError:
        request = {"op": "look", "deep": deep, "since": since}
        request["reach"] = [list(place) for place in members(plan, target.host.name)]
        try:
            with contact(target.host, options) as opened:
                return _look(opened, target, request)
        except HostError as error:
            return error

    return dict(zip((t.host.name for t in targets), each(targets, one, options.parallel), strict=True))


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
def logs(
    hosts: Sequence[Host], name: str | None, options: Options, *, lines: int, since: float | None = None
) -> tuple[list[tuple[float, str, str]], list[HostError]]:
    """The last `lines` of all journals, merged by time: (seconds, "host/instance", text); and errors."""
    if not hosts:
        raise UsageError("no host is left to be asked")

    def one(host: Host) -> list[tuple[float, str, str]] | HostError:
        request = {"op": "logs", "name": name, "lines": lines, "since": since}
        try:
            with contact(host, options) as opened:
                said = opened.ask(request)[0]["lines"]
            return [(float(stamp), f"{host.name}/{who}", str(text)) for stamp, who, text in said]
        except HostError as error:
            return error

    answers = each(hosts, one, options.parallel)
    found = [line for answer in answers if not isinstance(answer, HostError) for line in answer]
    errors = [answer for answer in answers if isinstance(answer, HostError)]
    return sorted(found, key=lambda line: line[0])[-lines:], errors
