"""`ogen schema`: the inventory's JSON Schema, which editors check against while one types."""

from __future__ import annotations

import json

import click

from . import console


@click.command()
def command() -> None:
    """Print the inventory's JSON Schema, for editors."""
    from ..inventory import schema

    console.raw(json.dumps(schema(), indent=2, ensure_ascii=False) + "\n")
