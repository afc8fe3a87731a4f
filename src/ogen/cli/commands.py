"""Which commands there are; each one's module is imported when the command is used, not before.

A command `x` lives in the module `ogen.cli.x` (another one where the table says so), as a click
command called `command`. Its help's first sentence stands here too, so that `ogen --help` imports
none of them; a test holds both equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

import click


@dataclass(frozen=True, slots=True)
class Entry:
    """A command of the table: its one line of help, its module, its object there."""

    help: str
    module: str = ""
    attribute: str = "command"


SECTIONS: Mapping[str, Mapping[str, Entry]] = {
    "Start": {
        "init": Entry("Start a project: inventory, editor settings, CI."),
        "discover": Entry("Read the cards and versions of hosts: a piece of inventory."),
        "trust": Entry("Show host keys, and pin those that are new."),
    },
    "Review (no host is contacted)": {
        "validate": Entry("Check an inventory: every error at once."),
        "plan": Entry("Show where every model goes, and whether it fits."),
        "lock": Entry(
            "Write the lock file: where every model is placed, and what is known of cards and sources."
        ),
        "render": Entry("Write every host's files into a folder."),
        "fit": Entry("Say whether a model fits on a card, and with which concessions."),
        "catalog": Entry("Show the models and GPUs that are known, or add a model."),
        "export": Entry("Write files for other programs: Ansible, Prometheus and Grafana."),
        "inventory": Entry("Print the inventory in the form of Ansible's dynamic inventories."),
        "env": Entry("Print the environment for clients: OLLAMA_HOST and the like."),
        "schema": Entry("Print the inventory's JSON Schema, for editors."),
    },
    "Run": {
        "provision": Entry("Make bare hosts ready for apply: packages, user, folders, Ollama."),
        "diff": Entry("Show what an apply would change."),
        "adopt": Entry("Take edits that were made on a host into the inventory."),
        "apply": Entry("Make the hosts what the inventory says."),
        "rollback": Entry("Go back to an earlier release."),
        "history": Entry("List what was applied, by whom, to which hosts."),
    },
    "Operate": {
        "drain": Entry("Keep new requests away from instances, and wait until they have ended what they do."),
        "undrain": Entry("Let requests come to drained instances again.", "drain", "undrain"),
        "restart": Entry("Restart instances, each drained before and proven after."),
        "queue": Entry(
            "Submit jobs to a queue, see what waits, retry or discard dead letters, let it run empty."
        ),
        "retire": Entry("Take all that is ogen's from a host."),
    },
    "Watch": {
        "status": Entry("Show what runs where: releases, instances, models, VRAM, balancers."),
        "logs": Entry("Show the journals of instances, balancers and queues, merged by time."),
        "report": Entry("Write one page of what cards and balancers did: VRAM, utilisation, latencies."),
        "bench": Entry("Measure a fleet under load: throughput, tokens, latencies, shares, cards."),
        "doctor": Entry("Say what is wrong on the hosts, what shows it, and what mends it."),
    },
    "Shell": {
        "completion": Entry("Print a shell's completion script."),
    },
}

TABLE: Mapping[str, Entry] = {name: entry for part in SECTIONS.values() for name, entry in part.items()}


def load(name: str) -> click.Command | None:
    """Imports the command `name`; None if there is no such command."""
    entry = TABLE.get(name)
    if entry is None:
        return None
    module = import_module(f".{entry.module or name}", __package__)
    command: click.Command = getattr(module, entry.attribute)
    return command
