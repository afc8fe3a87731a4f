#!/usr/bin/python
"""ogen.fleet.models: the part on the host; plugins/action/models.py is the part on the control machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: models
short_description: Pull and create the models of a release
description:
  - Has the host's librarian (an Ollama of its own, without a card) pull and create those models of a release that are
    not in the host's store yet. What runs is not touched.
  - M(ogen.fleet.release) does the same if it is still to be done. Before it, downloads that fail cost nothing.
  - Files of the control machine that models are made from are sent only if the host lacks them.
version_added: "0.1.0"
options:
  src:
    description:
      - The folder of the host's release on the control machine, with C(release.json) in it.
      - The exported inventory has it as C(ogen_release).
    type: path
    required: true
  told:
    description: What the action plugin tells the module. Not for playbooks.
    type: raw
attributes:
  check_mode:
    description: Says which models are missing, and fetches none.
    support: full
  diff_mode:
    description: Shows the names of the models that come.
    support: full
requirements:
  - systemd
  - python >= 3.8
author:
  - The contributors of ogen (@ogen)
"""

EXAMPLES = r"""
- name: Pull and create the models
  ogen.fleet.models:
    src: "{{ ogen_release }}"
"""

RETURN = r"""
models:
  description: Models that were made, or would be, by their immutable names.
  returned: success
  type: list
  elements: str
  sample: ["ogen/chat:3f9c2b71aa04"]
hint:
  description: How to mend a failure.
  returned: failure
  type: str
log:
  description: The last lines of the host's own logs about a failure.
  returned: failure
  type: list
  elements: str
"""

import os

from ansible_collections.ogen.fleet.plugins.module_utils.peer import (
    Locks,
    Module,
    Peer,
    ledger,
    librarian,
    store,
    supply,
)


def look(manifest: dict) -> dict:
    """Models that are missing, and the files that they are made from and that are missing too."""
    wanted = librarian.missing(manifest)
    where = "%s/blobs/" % manifest["librarian"].get("models_dir", "")
    files = {digest for model in wanted for digest in librarian.digests(model)}
    return {
        "changed": bool(wanted),
        "models": [model["name"] for model in wanted],
        "files": sorted(digest for digest in files if not os.path.exists(where + digest.replace(":", "-"))),
    }


def change(peer: Peer, told: dict) -> dict:
    """Makes them, while nobody else changes this host."""
    host = peer.host
    host.disk.folder(store.RELEASES)
    held = Locks(host)
    held.take({"who": told["who"], "what": "models"}, patience=0.5)
    try:
        made = librarian.provide(
            host.machine,
            told["manifest"],
            told["unit"],
            supply.Supply(peer.session, supply.Plan.of(told), host.machine),
            lambda text, percent: None,
            ledger.Ledger(host.disk, librarian.models_dir(told["manifest"])).note,
        )
    finally:
        held.drop()
    return {"changed": bool(made), "models": made}


def work(told: dict, check: bool) -> dict:
    """The work of one run: `look`, and what follows from it in a second one."""
    if told["step"] == "look" or check:
        return look(told["manifest"])
    return change(Peer(told), told)


def main() -> None:
    """Called by Ansible, on the host."""
    module = Module(
        argument_spec={"src": {"type": "path", "required": True}, "told": {"type": "raw"}},
        supports_check_mode=True,
    )
    module.work(work)


if __name__ == "__main__":
    main()
