"""What the balancers of a host list, and that host's release without some of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..plan.model import Plan
from ..plan.reduced import Seat, emptied, seats, without
from ..release.model import Release
from ..render import Reveal, render_host
from .uploads import resolve


@dataclass(frozen=True, slots=True)
class Listing:
    """The plan as one host with balancers sees it; `secrets` gives the texts that its files hold."""

    plan: Plan
    host: str
    secrets: Reveal

    @property
    def seats(self) -> tuple[Seat, ...]:
        return seats(self.plan, self.host)

    def release(self, gone: Collection[Seat]) -> Release:
        """The host's release with `gone` in no pool. RenderError as `render` raises it."""
        plan = without(self.plan, gone)
        host = plan.host(self.host)
        return resolve(plan, host, render_host(plan, host, secrets=self.secrets))[0]

    def objection(
        self, gone: Collection[Seat], alive: Mapping[str, Mapping[str, Collection[str]]]
    ) -> str | None:
        """Why the balancers should rather stay as they are than do without `gone`; None: they need not.

        `alive` is what they list now and may still serve, balancer → pool → "host/instance": a pool does not
        lose its last instance while its old ones are there.
        """
        empty = emptied(self.plan, self.host, gone)
        for balancer, pool in empty:
            left = alive.get(balancer, {}).get(pool, ())
            if left:
                return f"{pool} would have no instance, and {', '.join(sorted(left))} may still serve it"
        for entry in self.plan.entries:
            names = {pool.name for pool in entry.pools}
            if self.host in entry.hosts and names <= {p for b, p in empty if b == entry.balancer.name}:
                return f"{entry.balancer.name} would have nothing to list"
        return None
