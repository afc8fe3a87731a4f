"""`ogen export`: files for other programs, made of the same plan."""

from __future__ import annotations

import re
from pathlib import Path

import click

from . import console, options


@click.group()
def command() -> None:
    """Write files for other programs: Ansible, Prometheus and Grafana."""


_FOLDER = click.option(
    "-o",
    "--output",
    "folder",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where to. Files there that are not ogen's are never overwritten.",
)


def _live(_: click.Context, __: click.Parameter, value: str) -> str:
    if re.fullmatch(r"[1-9][0-9]{0,3}", value) or re.fullmatch(r"(100|[1-9]?[0-9])%", value):
        return value
    raise click.BadParameter(f"{value!r} is neither a number such as 2 nor a share such as 50%")


@command.command()
@options.inventory
@_FOLDER
@click.option(
    "--dialect",
    type=click.Choice(["ogen", "dcgm", "nvidia-smi", "nvitop"]),
    default="ogen",
    show_default=True,
    help="Who tells of the cards: ogen's monitor, dcgm-exporter, nvidia_gpu_exporter, nvitop-exporter.",
)
@click.option(
    "--node-port",
    type=click.IntRange(1, 65535),
    default=9100,
    show_default=True,
    help="The node_exporters' port.",
)
@click.option(
    "--cards-port", type=click.IntRange(1, 65535), help="The dialect's exporter's port, if not its own."
)
@click.option(
    "--live",
    metavar="N|N%",
    default="50%",
    show_default=True,
    callback=_live,
    help="Alert when fewer of a pool's instances are up.",
)
@options.shape("text", "json")
def prometheus(
    path: Path, folder: Path, dialect: str, node_port: int, cards_port: int | None, live: str, shape: str
) -> None:
    """Write targets, rules and a Grafana dashboard for Prometheus.

    DIR/prometheus.yml is a whole configuration; docs/monitoring.md says how to take its parts into yours.
    No host is contacted, and no secret is read.
    """
    from ..export.prometheus import Settings, export
    from ..export.recording import to_watch
    from ..inventory import load
    from ..plan import plan
    from ..release.model import File
    from . import tree

    planned = plan(load(path))
    files = export(planned, Settings(dialect, node_port, cards_port, live))
    count = tree.lay(folder, {name: File(f"/{name}", text.encode()) for name, text in files.items()})
    quiet = [h.host.name for h in planned.hosts if to_watch(h) and not h.host.monitoring.enabled]
    if quiet:
        console.say(f"warning: no target, for their monitoring is off: {', '.join(quiet)}")
        console.say("  hint: nobody counts the instances of their pools either, so that those have no alert")
    if shape == "json":
        console.document({"folder": str(folder), "files": list(files), "unwatched": quiet, "errors": []})
    else:
        console.say(f"{console.count(count, 'file')} in {folder}")


@command.command()
@options.inventory
@_FOLDER
@click.option("--with-secrets", is_flag=True, help="Write the keys of balancers as well, in plain text.")
@options.shape("text", "json")
def ansible(path: Path, folder: Path, with_secrets: bool, shape: str) -> None:
    """Write the fleet as an Ansible project, for ansible-playbook, AWX or ansible-pull.

    It holds the inventory, the playbooks, every host's release and the collection ogen.fleet, whose modules
    are ogen's own agent. Releases have the ids that `ogen apply` gives them, so balancers' keys are read for
    them; they are written only if asked for. No host is contacted. docs/ansible.md says how to use it.
    """
    from ..export.ansible import export
    from ..inventory import load
    from ..plan import plan
    from ..push import Options, targets
    from ..render import render
    from . import project, tree
    from .vault import Vault

    inventory = load(path)
    vault = Vault(inventory.folder)
    console.hide(vault.redact)
    planned = plan(inventory)
    rollout = inventory.rollout
    patience = Options(load=rollout.prove_timeout, drain=rollout.drain_timeout)
    made = export(planned, targets(planned, render(planned, secrets=vault)), patience)
    count = tree.lay(folder, made.files, made.copies)
    plain = tree.lay_secrets(folder, made.secrets, write=with_secrets)
    project.tell(planned.remarks)
    if plain:
        console.say(f"warning: keys in plain text: {', '.join(plain)}")
        console.say("  hint: encrypt these files with `ansible-vault encrypt`; the plays read them so")
    if shape == "json":
        files = [*made.files, *made.copies, *plain]
        console.document({"folder": str(folder), "files": files, "secrets": list(made.secrets), "errors": []})
    else:
        console.say(f"{console.count(count + len(plain), 'file')} in {folder}")
