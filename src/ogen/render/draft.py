"""A release under construction: files, units with their hashes, models, proofs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import RenderError, Where
from ..inventory.model import Host, Inventory
from ..plan.model import HostPlan, Placement
from ..release.model import BalancerProof, File, InstanceProof, ModelBuild, ModelView, Release, Unit
from .engine import Engine
from .keys import Reveal
from .models import build

SYSTEMD = "/etc/systemd/system"
CURRENT = "/etc/ogen/current"
Kind = Literal["instance", "balancer", "service", "timer", "oneshot", "target"]


@dataclass(slots=True)
class Draft:
    """A release under construction."""

    engine: Engine
    inventory: Inventory
    plan: HostPlan
    allowed: Callable[[str, str], tuple[str, ...]]  # (host, instance) → balancers' addresses elsewhere
    reveal: Reveal | None
    known: dict[object, ModelBuild]  # of the whole fleet: most hosts have the same models
    peers: Callable[[], tuple[str, ...]] = tuple  # addresses of the hosts that the mirror gives models to
    files: dict[str, File] = field(default_factory=dict)
    units: list[Unit] = field(default_factory=list)
    builds: dict[str, ModelBuild] = field(default_factory=dict)
    views: list[ModelView] = field(default_factory=list)
    instances: list[InstanceProof] = field(default_factory=list)
    balancers: list[BalancerProof] = field(default_factory=list)

    @property
    def host(self) -> Host:
        return self.plan.host

    @property
    def name(self) -> str:
        return self.plan.host.name

    def build(self, placement: Placement) -> ModelBuild:
        weights = placement.account.weights_bytes + placement.account.host_weights_bytes
        key = (placement.model.name, placement.source.ref, placement.settings, weights)
        if key not in self.known:
            self.known[key] = build(placement, self.inventory)
        return self.known[key]

    def add(self, path: str, text: str | bytes, where: Where | None = None, mode: int = 0o644) -> None:
        content = text.encode() if isinstance(text, str) else text
        self.files[path] = File(path, content, mode, where=where)

    def secret(self, path: str, text: str, where: Where | None = None) -> None:
        """A file that root alone reads, and that no diff shows."""
        self.files[path] = File(path, text.encode(), 0o600, secret=True, where=where)

    def unit(self, name: str, kind: Kind, text: str, where: Where | None = None) -> None:
        """A unit file that carries its own hash in its environment where it has a [Service] section."""
        digest = hashlib.sha256(_restarting(text).encode()).hexdigest()[:16]
        self.add(
            f"{SYSTEMD}/{name}",
            _with_hash(text, digest) if kind in ("instance", "balancer", "service") else text,
            where,
        )
        self.units.append(Unit(name, kind, digest))

    def release(self, librarian: dict[str, Any]) -> Release:
        return Release(
            self.name,
            files=tuple(self.files[path] for path in sorted(self.files)),
            units=tuple(sorted(self.units, key=lambda unit: unit.name)),
            models=tuple(self.builds[name] for name in sorted(self.builds)),
            views=tuple(sorted(self.views, key=lambda view: view.path)),
            instances=tuple(self.instances),
            balancers=tuple(self.balancers),
            librarian=librarian,
        )


def _restarting(text: str) -> str:
    """What a unit must restart for: not for who may talk to it, which systemd changes at daemon-reload."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("IPAddressAllow="))


def _with_hash(text: str, digest: str) -> str:
    """`text` with the hash as the last line of its [Service] section."""
    lines = text.rstrip("\n").split("\n")
    try:
        start = lines.index("[Service]")
    except ValueError:
        raise RenderError("a unit needs a [Service] section") from None
    end = next((i for i, line in enumerate(lines) if i > start and line.startswith("[")), len(lines))
    lines.insert(end, f"Environment=OGEN_UNIT_HASH={digest}")
    return "\n".join(lines) + "\n"
