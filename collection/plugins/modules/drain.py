#!/usr/bin/python
"""ogen.fleet.drain: the part on the host; plugins/action/drain.py is the part on the control machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: drain
short_description: Keep balancers away from instances, and let them come back
description:
  - On a balancer's host it takes leases, so that its nginx sends no new request to a host's instances. It answers when
    nginx has taken them. Delegate the task to each host of C(ogen_edges).
  - On the host of the instances, with I(state=drained), it waits until nobody holds a connection to them any more.
  - On a host that is both it does both.
  - Leases end by themselves after I(seconds), so that a control machine that is lost keeps nobody away for good.
  - A balancer inside of the machine's own nginx (C(into=conf.d)) takes no leases.
version_added: "0.1.0"
options:
  instances:
    description:
      - Names of instances of the play's host, such as C(gpu0).
      - Without it, all of them.
    type: list
    elements: str
  state:
    description: Whether balancers are to be kept away (C(drained)), or to send requests again (C(served)).
    type: str
    choices: [drained, served]
    default: drained
  seconds:
    description: How long leases last, and how long is waited for connections to end.
    type: float
    default: 600
  told:
    description: What the action plugin tells the module. Not for playbooks.
    type: raw
attributes:
  check_mode:
    description: Says whether a lease would be taken or ended.
    support: full
  diff_mode:
    description: Shows the instances that are drained.
    support: full
requirements:
  - systemd
  - python >= 3.8
author:
  - The contributors of ogen (@ogen)
"""

EXAMPLES = r"""
- name: Keep the balancers away from this host's instances
  ogen.fleet.drain:
    state: drained
    seconds: 300
  delegate_to: "{{ item }}"
  loop: "{{ ogen_edges }}"

- name: Wait until they have ended what they do
  ogen.fleet.drain:
    state: drained
    seconds: 300

- name: Let the balancers send to one instance again
  ogen.fleet.drain:
    instances: [gpu0]
    state: served
  delegate_to: "{{ item }}"
  loop: "{{ ogen_edges }}"
"""

RETURN = r"""
drained:
  description: The named instances that balancers of the task's host are kept away from when it ends, or would be.
  returned: success
  type: list
  elements: str
busy:
  description: Addresses that still hold connections to an instance, by its name.
  returned: failure
  type: dict
"""

from ansible_collections.ogen.fleet.plugins.module_utils.peer import Failure, Module, Peer, gate

BACK = 30.0  # seconds in which nginx must send to an instance again


def leased(peer: Peer, told: dict, check: bool) -> dict:
    """`told["leases"]`: instance → id and server of its lease here."""
    wanted, drained = told["leases"], told["state"] == "drained"
    there = {one["id"] for one in peer.ask({"op": "leases"})["leases"]} if wanted else set()
    before = sorted(name for name, one in wanted.items() if one["id"] in there)
    after = sorted(wanted) if drained else []
    if wanted and not check:
        if drained:
            servers = {one["id"]: one["server"] for one in wanted.values()}
            peer.ask({"op": "lease", "leases": servers, "seconds": told["seconds"]})
        else:
            names = [one["id"] for one in wanted.values()]
            down = peer.ask({"op": "unlease", "ids": names, "wait": BACK})["down"]
            if down:
                raise Failure({"message": "balancers here do not send to %s again" % ", ".join(down)})
    lines = ["".join("%s\n" % name for name in some) for some in (before, after)]
    return {
        "changed": before != after,
        "drained": after,
        "diff": {
            "before_header": "drained",
            "after_header": "drained",
            "before": lines[0],
            "after": lines[1],
        },
    }


def wait(peer: Peer, told: dict) -> None:
    """Until the instances of this host are idle; Failure says who still holds connections."""
    proofs = [{"instance": name, "port": port} for name, port in sorted(told["ports"].items())]
    machine = peer.host.machine
    if proofs and not gate.idle(machine, proofs, machine.now() + told["seconds"]):
        held = {proof["instance"]: gate.connections(proof["port"]) for proof in proofs}
        busy = {name: who for name, who in held.items() if who}
        text = ", ".join("%s (%s)" % (name, ", ".join(who)) for name, who in busy.items())
        message = "after %d s there still are connections to %s" % (told["seconds"], text)
        raise Failure({"message": message, "busy": busy})


def work(told: dict, check: bool) -> dict:
    """Leases first, then the wait for what was begun before them."""
    peer = Peer(told)
    found = leased(peer, told, check)
    if told["state"] == "drained" and not check:
        wait(peer, told)
    return found


def main() -> None:
    """Called by Ansible, on the host."""
    module = Module(
        argument_spec={
            "instances": {"type": "list", "elements": "str"},
            "state": {"type": "str", "choices": ["drained", "served"], "default": "drained"},
            "seconds": {"type": "float", "default": 600},
            "told": {"type": "raw"},
        },
        supports_check_mode=True,
    )
    module.work(work)


if __name__ == "__main__":
    main()
