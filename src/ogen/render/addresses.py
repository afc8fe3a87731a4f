"""Where hosts are reached by what knows no names."""

from __future__ import annotations

import ipaddress

from ..errors import RenderError
from ..inventory.model import Host


def ip_of(host: Host, what: str) -> str:
    """A host's IP address for others; empty for loopback. RenderError where it has but a name."""
    try:
        found = ipaddress.ip_address(host.reached_at)
    except ValueError:
        if host.reached_at == "localhost":
            return ""
        raise RenderError(
            f"{what} by IP address, but {host.name} is known by name: {host.reached_at}",
            where=host.where,
            hint="give it a data_address",
        ) from None
    return "" if found.is_loopback else str(found)
