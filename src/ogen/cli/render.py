"""`ogen render`: every file of every host, into a folder."""

from __future__ import annotations

from pathlib import Path

import click

from . import console, options


@click.command()
@options.inventory
@click.option(
    "-o",
    "--output",
    "folder",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where to: DIR/<host>/<path>. Files there that are not ogen's are never overwritten.",
)
@options.limit
@options.shape("text", "json")
def command(path: Path, folder: Path, limit: str | None, shape: str) -> None:
    """Write every host's files into a folder.

    No host is contacted, no secret is read: a placeholder stands for it.
    """
    from . import project, tree

    planned, releases = project.compiled(path)
    releases = project.only(releases, project.limited(planned.inventory, limit))
    count = tree.write(folder, releases)
    project.tell(planned.remarks)
    if shape == "json":
        hosts = [{"host": r.host, "release": r.id, "files": [f.path for f in r.files]} for r in releases]
        console.document({"folder": str(folder), "hosts": hosts, "errors": []})
    else:
        told = f"{console.count(count, 'file')} of {console.count(len(releases), 'host')}"
        console.say(f"{told} in {folder}")
