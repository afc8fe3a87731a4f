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

    Nothing is contacted, no secret is read, no command is run. Whether it fits on the cards is for
    `ogen plan` to say.
    """
    from ..inventory import load

    inventory = load(path)
    counts = {
        "hosts": len(inventory.hosts),
        "cards": sum(len(host.gpus) for host in inventory.hosts),
        "models": len(inventory.models),
        "balancers": len(inventory.balancers),
    }
    if shape == "json":
        console.document({"inventory": str(path), **counts, "errors": []})
    else:
        told = ", ".join(console.count(number, what.removesuffix("s")) for what, number in counts.items())
        console.say(f"{path}: {told}: good; `ogen plan` says whether it fits")
