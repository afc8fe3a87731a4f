"""`ogen init`: a project that works, to start from."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..errors import UsageError
from . import console

_STARTER = Path(__file__).parent / "starter"
#: where each file of the starter goes
FILES = {
    "inventory.yaml": "inventory.yaml",
    "inventory.sh": "inventory.sh",
    "gitignore": ".gitignore",
    "editor.json": ".vscode/settings.json",
    "ci.yaml": ".github/workflows/ogen.yaml",
}
SCHEMA = "inventory.schema.json"


@click.command()
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path, file_okay=False))
def command(folder: Path) -> None:
    """Start a project: inventory, editor settings, CI.

    Nothing that exists is overwritten.
    """
    from ..inventory import schema

    files = {target: (_STARTER / name).read_bytes() for name, target in FILES.items()}
    files[SCHEMA] = (json.dumps(schema(), indent=2, ensure_ascii=False) + "\n").encode()
    in_the_way = [target for target in files if (folder / target).exists()]
    if in_the_way:
        raise UsageError(
            f"{folder / in_the_way[0]} exists, and nothing is overwritten",
            hint="choose an empty folder: ogen init DIR",
        )
    for target, content in files.items():
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if content.startswith(b"#!"):
            path.chmod(0o755)
        console.say(f"wrote {path}")
    console.say(f"next: edit {folder / 'inventory.yaml'}, then `ogen plan {folder / 'inventory.yaml'}`")
