"""`ogen validate`: every error of an inventory at once, with its place and a hint."""

from __future__ import annotations

from pathlib import Path

import click

from . import console, options


@click.command()
@options.inventory
@options.shape("text", "json", "github")
def command(path: Path, shape: str) -> None:
    """Check an inventory: every error at once.

    Nothing is contacted, no secret is read, no command is run.
    """
    from ..inventory import load

    inventory = load(path)
    counts = {
        "hosts": len(inventory.hosts),
        "gpus": sum(len(host.gpus) for host in inventory.hosts),
        "models": len(inventory.models),
        "balancers": len(inventory.balancers),
    }
    if shape == "json":
        console.document({"inventory": str(path), **counts, "errors": []})
    else:
        console.say(f"{path}: " + ", ".join(f"{n} {what}" for what, n in counts.items()) + ": good")
