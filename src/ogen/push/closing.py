"""The last step when balancers change: instances let in those of before until nobody is routed through them.

A host whose release takes balancers away goes on admitting them (agent/admission.py) and says so. When all
balancers have changed, one more message to such a host ends it. What can't be ended yet stays, is told, and
is ended by the next apply.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from ..errors import ConnectError, HostError
from ..inventory.model import Host
from .contact import Contact, contact
from .force import source
from .pools import Pools
from .results import HostResult

Leaving = Mapping[
    str, Sequence[str] | None
]  # host → addresses that are no balancer's any more; None: unknown


def leaving(done: Mapping[str, object]) -> Sequence[str] | None:
    """What a transaction's result tells; nothing, where it was lost and only its end is known."""
    found = done.get("leaving")
    return tuple(map(str, found)) if isinstance(found, list) else None


def balancing(pools: Pools, hosts: Iterable[Host], results: Mapping[str, HostResult]) -> frozenset[str]:
    """Addresses from which balancers may still come: of hosts that did not change, or were not asked to."""
    known = {**pools.addresses, **{host.name: host.reached_at for host in hosts}}
    fine = {name for name, end in results.items() if end.serves or end.status == "skipped"}
    return frozenset({source(address) for name, address in known.items() if name not in fine} - {""})


def close(
    opened: Contact, addresses: Sequence[str] | None, keep: Collection[str], late: Collection[str] = ()
) -> str:
    """What the host still admits, and why; empty when it is the balancers of its release alone.

    `late`: balancers that did not change, so that requests may come through any of the old ones.
    """
    if late:
        return told(addresses or (), f"balancers were not switched ({', '.join(sorted(late))})")
    if addresses and set(addresses) <= set(keep):
        return told(addresses, "its host was not part of this, or did not change")
    opened.tell("close", ", ".join(addresses or ()))
    try:
        left = opened.close(keep)
    except ConnectError:  # it was lost since: once more
        with contact(opened.host, opened.options, opened.on_event) as other:
            left = other.close(keep)
    return told(left, "its host was not part of this, or did not change")


def told(addresses: Sequence[str], why: str) -> str:
    return f"still admits {', '.join(addresses)} until the next apply: {why}" if addresses else ""


def noted(result: HostResult, found: str | HostError) -> HostResult:
    """The result of a host with what its closing brought."""
    if isinstance(found, HostError):
        found.hint = found.hint or "its instances still admit a balancer that is none any more: apply again"
        return replace(result, status="failed", message=found.message, error=found)
    return replace(result, message="; ".join(part for part in (result.message, found) if part))
