"""`Plan` to releases: one for each host, rendered on its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..errors import RenderError
from ..inventory.model import Host
from ..plan.model import HostPlan, Plan
from ..release.model import ModelBuild, Release
from .addresses import ip_of
from .draft import Draft
from .engine import Engine, engine
from .host import render_draft
from .keys import Reveal


def render(
    plan: Plan,
    *,
    host: str | None = None,
    secrets: Reveal | None = None,
    templates: Mapping[str, str] | None = None,
) -> tuple[Release, ...]:
    """The releases of all hosts (or of one), sorted by host name; RenderError on the first failure.

    `secrets` gives the text of a secret; without it placeholders stand for them. Nothing else than
    templates is read: those of the inventory's folder before the shipped ones; `templates` (texts by
    file name) stand for both.
    """
    return tuple(releases(plan, host=host, secrets=secrets, templates=templates))


def releases(
    plan: Plan,
    *,
    host: str | None = None,
    secrets: Reveal | None = None,
    templates: Mapping[str, str] | None = None,
) -> Iterator[Release]:
    """As `render`, one after another."""
    fleet = Fleet(plan, secrets, templates)
    for host_plan in sorted(plan.hosts, key=lambda found: found.host.name):
        if host in (None, host_plan.host.name):
            yield fleet.release(host_plan)


def render_host(plan: Plan, host_plan: HostPlan, *, secrets: Reveal | None = None) -> Release:
    """The release of one host."""
    return Fleet(plan, secrets).release(host_plan)


class Fleet:
    """What the release of a host needs to know of the others."""

    def __init__(
        self, plan: Plan, secrets: Reveal | None = None, templates: Mapping[str, str] | None = None
    ) -> None:
        self._plan = plan
        self._secrets = secrets
        self._engine: Engine = engine(plan.inventory.folder, templates)
        self._hosts: Mapping[str, Host] = {host.name: host for host in plan.inventory.hosts}
        self._known: dict[object, ModelBuild] = {}
        self._users: dict[tuple[str, str], set[str]] = {}
        for entry in plan.entries:
            for pool in entry.pools:
                for member in pool.members:
                    self._users.setdefault((member.host, member.instance), set()).update(entry.hosts)

    def release(self, host_plan: HostPlan) -> Release:
        draft = Draft(
            self._engine,
            self._plan.inventory,
            host_plan,
            self._allowed,
            self._secrets,
            self._known,
            lambda: self._peers(host_plan.host),
        )
        try:
            return render_draft(draft)
        except UnicodeEncodeError as error:
            shown = error.object[max(0, error.start - 20) : error.start]
            raise RenderError(f"text that is no UTF-8, after {shown!r}", where=host_plan.host.where) from None

    def _allowed(self, host: str, instance: str) -> tuple[str, ...]:
        """Addresses of the balancers on other hosts that send to an instance, in order."""
        others = self._users.get((host, instance), set()) - {host}
        return tuple(
            sorted({ip_of(self._hosts[name], "instances admit balancers") for name in others} - {""})
        )

    def _peers(self, mirror: Host) -> tuple[str, ...]:
        """Addresses of the other hosts with instances, in order."""
        others = [h.host for h in self._plan.hosts if h.instances and h.host is not mirror]
        known = {ip_of(host, "the mirror admits hosts") for host in others if host.root is None}
        return tuple(sorted(known - {""}))
