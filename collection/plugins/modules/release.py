#!/usr/bin/python
"""ogen.fleet.release: the part on the host; plugins/action/release.py is the part on the control machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Put a release of ogen in force on a host, go back to an earlier one, or take all away
description:
  - Stages a release that C(ogen export ansible) wrote, checks it by the host's own tools, puts it in force by one
    rename and proves it. If it can't be proven, the release before is put back and proven, and the task fails.
  - The work is that of ogen's own agent, with its transaction, journal, locks and recovery at boot. Release ids are
    those of C(ogen apply), and C(ogen history) shows what was done by this module.
  - Only files that the host lacks are sent.
version_added: "0.1.0"
options:
  src:
    description:
      - The folder of the host's release on the control machine, with C(release.json) in it.
      - The exported inventory has it as C(ogen_release). Must be given for I(state=present).
    type: path
  state:
    description:
      - C(present) puts the release of I(src) in force.
      - C(previous) goes back to the release I(id), or to the one that was in force before.
        Without I(id) each run goes back once more.
      - C(absent) takes units, links, releases and the versions of Ollama that ogen put there from the host.
        Models, logs, users and packages stay.
    type: str
    choices: [present, previous, absent]
    default: present
  id:
    description: The release to go back to, or the beginning of its id; for I(state=previous).
    type: str
  told:
    description: What the action plugin tells the module. Not for playbooks.
    type: raw
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows files as unified diffs; of keys, only that they differ.
    support: full
requirements:
  - systemd
  - python >= 3.8
author:
  - The contributors of ogen (@ogen)
"""

EXAMPLES = r"""
- name: Put the release in force
  ogen.fleet.release:
    src: "{{ ogen_release }}"

- name: Go back to the release before
  ogen.fleet.release:
    state: previous

- name: Go back to a release by its id
  ogen.fleet.release:
    state: previous
    id: 3f9c2b71aa04d9e5

- name: Take all that is ogen's from the host
  ogen.fleet.release:
    state: absent
"""

RETURN = r"""
release:
  description: The id of the release that is in force, or would be; empty where there is none.
  returned: success
  type: str
  sample: 3f9c2b71aa04d9e5
before:
  description: The release that was in force before; empty where there was none.
  returned: success
  type: str
restarted:
  description: Units that were started or restarted, or would be.
  returned: when something changes
  type: list
  elements: str
stock:
  description: What became of the stock Ollama service that ogen had held off.
  returned: I(state=absent), when something changed
  type: list
  elements: str
hint:
  description: How to mend a failure.
  returned: failure
  type: str
log:
  description: The last lines of the host's own logs about a failure.
  returned: failure
  type: list
  elements: str
rolled_back:
  description: Whether the release before is in force again, and proven.
  returned: failure
  type: bool
"""

from ansible_collections.ogen.fleet.plugins.module_utils.peer import (
    Failure,
    Module,
    Peer,
    agents,
    changes,
    store,
)


def look(peer: Peer, told: dict) -> dict:
    """What is on the host, and whether there is anything to do; changes nothing."""
    found = {"agents": agents(peer.host.disk)}
    if told["state"] == "previous":
        return {**found, **_back(peer, told["id"])}
    report = peer.ask({"op": "compare", "manifest": told["manifest"], "text": told["diff"]})["report"]
    texts, at = [], 0
    for file in report["files"]:  # in this order they came
        for key in ("text", "base_text"):
            if key in file:
                data, at = peer.data[at : at + file[key]], at + file[key]
                if key == "text":
                    texts.append([file["path"], data.decode("utf-8", "replace")])
    found.update(report=report, texts=texts, changed=not report["unchanged"])
    if told["state"] == "absent":
        found["changed"] = any(
            peer.host.disk.lstat(path) for path in (store.HOME, store.PROGRAMS, store.RECOVER)
        )
    return found


def _back(peer: Peer, wanted: str) -> dict:
    held = peer.host.store
    goal = changes._find(held, wanted or None)
    return {"changed": goal != held.current, "release": goal, "before": held.current or ""}


def change(peer: Peer, told: dict) -> dict:
    """Does what `look` has announced."""
    if told["state"] == "previous":
        done = peer.transact({"op": "rollback", "to": told["to"]})
    elif told["state"] == "present":
        done = _apply(peer, told)
    else:
        done = _apply(peer, told) if told["base"] else {}
        done["stock"] = peer.ask({"op": "remove"})["stock"]
    return {
        "changed": True,
        "release": (done.get("to") or "") if told["state"] != "absent" else "",
        "before": done.get("from") or "",
        **{key: done[key] for key in ("restarted", "skipped", "stock") if key in done},
    }


def _apply(peer: Peer, told: dict) -> dict:
    contents = peer.contents({entry["sha256"] for entry in told["manifest"]["files"]})
    request = {
        "op": "apply",
        "manifest": told["manifest"],
        "contents": [[digest, len(data)] for digest, data in contents.items()],
        "base": told["base"],
        "gated": told["state"] == "absent",  # instances end what they have begun
    }
    return peer.transact(request, b"".join(contents.values()))


def work(told: dict, check: bool) -> dict:
    """The work of one run: `look`, and what follows from it in a second one."""
    peer = Peer(told)
    if told["step"] == "look":
        return look(peer, told)
    if check:
        raise Failure({"message": "a check must not come here"})
    return change(peer, told)


def main() -> None:
    """Called by Ansible, on the host."""
    module = Module(
        argument_spec={
            "src": {"type": "path"},
            "state": {"type": "str", "choices": ["present", "previous", "absent"], "default": "present"},
            "id": {"type": "str"},
            "told": {"type": "raw"},
        },
        required_if=[("state", "present", ["src"])],
        supports_check_mode=True,
    )
    module.work(work)


if __name__ == "__main__":
    main()
