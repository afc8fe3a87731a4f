"""An inventory as Ansible's dynamic one: groups, how hosts are reached, what playbooks know of them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..inventory.model import Host, Inventory, Ssh
from ..push.provision import variables

MAGIC = ("inventory_hostname", "group_names")  # Ansible sets these itself


def listing(inventory: Inventory) -> dict[str, Any]:
    """What `--list` prints: every host that Ansible may work on, its groups, and all variables at once."""
    hosts = reachable(inventory)
    names = [host.name for host in hosts]
    groups = {
        group: {"hosts": [host.name for host in hosts if group in host.groups]} for group in inventory.groups
    }
    hostvars = {host.name: host_variables(inventory, host) for host in hosts}
    return {"all": {"hosts": names}, **groups, "_meta": {"hostvars": hostvars}}


def reachable(inventory: Inventory) -> tuple[Host, ...]:
    """As for `ogen provision`: not the hosts that are out, nor those that are a folder of another machine."""
    return tuple(host for host in inventory.hosts if host.state == "in" and not host.root)


def host_variables(inventory: Inventory, host: Host) -> dict[str, Any]:
    """What `--host` prints. Passwords stay out: Ansible asks for them with -k and -K."""
    known = {key: value for key, value in variables(inventory, host).items() if key not in MAGIC}
    found = {**_connection(inventory, host), **known}
    for key, value in found.items():
        if isinstance(value, str) and re.search(r"\{[{%#]", value):
            raise UsageError(
                f"{host.name}: Ansible would take {key} for a template: {value}",
                hint="a path without {{, {% and {#",
            )
    return found


def _connection(inventory: Inventory, host: Host) -> dict[str, Any]:
    """Only what the inventory says: the rest is ssh_config's, for Ansible as for ogen."""
    found: dict[str, Any] = {"ansible_host": host.address}
    if host.connection == "local":
        found["ansible_connection"] = "local"
    if host.python != "python3":
        found["ansible_python_interpreter"] = host.python
    # false would overrule a play's own `become`
    if host.ssh.become:
        found["ansible_become"] = True
    return found | _ssh(inventory, host.ssh)


def _ssh(inventory: Inventory, ssh: Ssh) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if ssh.user is not None:
        found["ansible_user"] = ssh.user
    if ssh.port is not None:
        found["ansible_port"] = ssh.port
    if ssh.key is not None:
        key = Path(inventory.folder, Path(ssh.key).expanduser())
        found["ansible_ssh_private_key_file"] = str(key.absolute())
    if ssh.proxy_jump is not None:
        found["ansible_ssh_common_args"] = shlex.join(["-o", f"ProxyJump={ssh.proxy_jump}"])
    if ssh.connect_timeout != Ssh().connect_timeout:
        found["ansible_ssh_timeout"] = max(1, round(ssh.connect_timeout))
    return found
