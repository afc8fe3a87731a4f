"""The task `ogen.fleet.drain`: balancers are kept away from a host's instances, as `ogen drain` does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import HostError, PlaybookError
from ..inventory.model import Inventory
from ..playbook import Step
from . import operate
from .edges import BY_HAND, Edge, Member, lease_id
from .pools import Pools
from .results import OnEvent, Options, ignore
from .rollout import each
from .steps import StepResult

SECONDS = 3600  # as `ogen drain` has it: long enough for what comes between, and it ends by itself


@dataclass(frozen=True)
class Drains:
    inventory: Inventory
    pools: Pools
    options: Options
    on_event: OnEvent = ignore
    promised: dict[Member, bool] = field(default_factory=dict)  # what a check has found to be away by then

    def check(self, host: str, step: Step) -> None:
        """Raises PlaybookError where an instance is none of the host's."""
        known = {member[1] for member in self.pools.ports if member[0] == host}
        unknown = [name for name in step.args.get("instances", ()) if name not in known]
        if unknown:
            hint = f"there are {', '.join(sorted(known))}" if known else "no balancer lists an instance of it"
            raise PlaybookError(f"{host} has no instance {', '.join(unknown)}", where=step.where, hint=hint)

    def run(self, host: str, step: Step, *, check: bool) -> StepResult:
        """Drains, or lets requests come again; a check only looks at the leases."""
        away = step.args["state"] == "drained"
        chosen = step.args.get("instances")
        ports = {
            member: port
            for member, port in self.pools.ports.items()
            if member[0] == host and (not chosen or member[1] in chosen)
        }
        try:
            before = self._leased(ports) if ports else frozenset()
            todo = [m for m in ports if self.promised.get(m, m in before) != away]
            self.promised.update(dict.fromkeys(todo if check else (), away))
            bad = [] if check or not todo else self._change({m: ports[m] for m in todo}, step)
        except HostError as error:
            return self._result(step, (), [str(error)])
        return self._result(step, todo, bad)

    def _leased(self, ports: Mapping[Member, int]) -> frozenset[Member]:
        """Those that every balancer host is kept away from already, by `ogen drain` or a task like this."""
        edges = [Edge(host, self.options) for host in self.pools.edges]
        try:
            taken = each(
                edges, lambda edge: {one.id for one in edge.listed(strict=True)}, self.options.parallel
            )
        finally:
            for edge in edges:
                edge.close()
        return frozenset(m for m in ports if taken and all(lease_id(BY_HAND, m) in one for one in taken))

    def _change(self, ports: Mapping[Member, int], step: Step) -> list[str]:
        """What did not go well."""
        if step.args["state"] == "served":
            found = operate.undrain(self.pools, ports, self.options)
            words = "does not answer to"
        else:
            hosts = {host.name: host for host in self.inventory.hosts}
            seconds = step.args.get("seconds", SECONDS)
            found = operate.drain(
                self.pools, hosts, ports, self.options, seconds=seconds, on_event=self.on_event
            )
            words = "is still busy with"
        return [
            str(one.error) if one.error else f"{'/'.join(one.member)} {words} {', '.join(one.busy)}"
            for one in found
            if one.error or one.busy
        ]

    def _result(self, step: Step, changed: Sequence[Member], bad: Sequence[str]) -> StepResult:
        state = str(step.args["state"])
        other = "served" if state == "drained" else "drained"
        names = [member[1] for member in changed]
        return StepResult(
            step.name,
            step.module,
            changed=bool(changed),
            failed=bool(bad),
            msg="\n".join(bad) or ", ".join(f"{name}: {other} → {state}" for name in names),
            before="".join(f"{name}: {other}\n" for name in names),
            after="".join(f"{name}: {state}\n" for name in names),
        )
