"""`ogen inventory`: the inventory for Ansible."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..errors import UsageError
from . import console, options


@click.command()
@options.inventory
@click.option("--list", "whole", is_flag=True, help="All hosts, groups and variables.")
@click.option("--host", "name", metavar="NAME", help="The variables of one host.")
def command(path: Path, whole: bool, name: str | None) -> None:
    """Print the inventory in the form of Ansible's dynamic inventories.

    Ansible wants a program that takes --list; `ogen init` writes one:

    \b
    ansible -i inventory.sh all -m ping

    Hosts that are out or have a `root` are not in it, and no secret is. The variables: docs/playbooks.md.
    """
    from ..export.ansible_inventory import host_variables, listing, reachable
    from ..inventory import load

    if whole == (name is not None):
        raise UsageError("say --list, or --host NAME")
    inventory = load(path)
    if name is None:
        found = listing(inventory)
    else:
        host = next((one for one in reachable(inventory) if one.name == name), None)
        if host is None:
            known = ", ".join(one.name for one in reachable(inventory)[:12])
            raise UsageError(f"no host `{name}` for Ansible", hint=f"there are {known or 'none'}")
        found = host_variables(inventory, host)
    # a document of Ansible's: no `version` in it, which would be a group
    console.out(json.dumps(found, indent=2))
