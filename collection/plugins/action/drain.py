"""ogen.fleet.drain on the control machine: which leases on which balancer's host."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.ogen.fleet.plugins.plugin_utils.sending import Sender


class ActionModule(Sender):
    """The play's host has the instances; the task may be delegated to a host of a balancer."""

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            {
                "instances": {"type": "list", "elements": "str"},
                "state": {"type": "str", "choices": ["drained", "served"], "default": "drained"},
                "seconds": {"type": "float", "default": 600},
            }
        )
        known = task_vars or {}
        host = str(known["inventory_hostname"])
        there = str(self._task.delegate_to or host)
        ports = self._templar.template(known.get("ogen_instances", {}))
        leases = self._templar.template(known.get("ogen_leases", {}))
        chosen = ports if args["instances"] is None else _chosen(args["instances"], ports, host)
        if there not in (host, *leases):
            raise AnsibleActionFail(
                f"no balancer of {there} sends to {host}: delegate to the hosts of ogen_edges"
            )
        told = {
            "state": args["state"],
            "seconds": args["seconds"],
            "leases": {name: one for name, one in leases.get(there, {}).items() if name in chosen},
            "ports": {name: ports[name] for name in chosen} if there == host else {},
        }
        return self.ask(args, told, task_vars)


def _chosen(names: list[str], ports: dict[str, int], host: str) -> list[str]:
    for name in names:
        if name not in ports:
            known = ", ".join(sorted(ports)) or "none"
            raise AnsibleActionFail(f"there is no instance {name} on {host}; there are: {known}")
    return names
