"""`ogen plan`: which model on which card, what each card holds, and who balances over it."""

from __future__ import annotations

from pathlib import Path

import click

from ..release.plaintext import clean
from . import console, options


@click.command()
@options.inventory
@options.limit
@options.shape("text", "json", "markdown", "html")
def command(path: Path, limit: str | None, shape: str) -> None:
    """Show where every model goes, and whether it fits.

    Nothing is contacted and no secret is read. With --limit only these hosts are shown; they are placed as
    in the whole plan. `--format html` prints one self-contained page for reviewers.
    """
    from ..inventory import load
    from ..plan import plan
    from . import project

    planned = plan(load(path))
    only = None if limit is None else project.limited(planned.inventory, limit)
    if shape == "json":
        from ..plan.view_json import document

        console.document({**document(planned, only), "errors": []})
    elif shape == "markdown":
        from ..plan.view_markdown import markdown

        console.raw(clean(markdown(planned, only)))
    elif shape == "html":
        from ..plan.view_html import html

        console.raw(clean(html(planned, only)))
    else:
        from .plan_text import text

        console.raw(text(planned, only, width=_width(), colour=console.colourful()))


def _width() -> int:
    """Columns of the terminal; 100 where there is none."""
    import shutil

    return max(40, shutil.get_terminal_size((100, 24)).columns)
