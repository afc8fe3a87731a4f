"""The pictures of docs/: report and plan in Chromium, `ogen status` as SVG; of a fleet that is made up.

usage: _pictures.py [FOLDER]   (docs, if not given)
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import _days
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from ogen.inventory import load
from ogen.observe.fleet import HostRow, rows
from ogen.observe.view_status import text
from ogen.plan import plan

ROOT = Path(__file__).resolve().parents[1]

GIB = 2**30
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--hide-scrollbars", "--virtual-time-budget=8000")  # fmt: skip
DARK = "--blink-settings=preferredColorScheme=0"


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as made:
        day = Path(made, "day")
        _days.write(day, 3, 2)
        ogen(day, "report", "inventory.yaml", "--from", "files", "--limit", "gpu2,edge", "-o", "report.html")
        page = ogen(ROOT, "plan", "inventories/fleet.yaml", "--format", "html")
        (day / "plan.html").write_text(page, encoding="utf-8")
        for name, shown, size, *more in (
            ("report-light", "report", (1080, 1970)),
            ("report-dark", "report", (1080, 1970), DARK),
            ("plan", "plan", (1330, 1260)),
        ):
            shoot(day / f"{shown}.html", folder / f"{name}.png", size, *more)
        (folder / "status.svg").write_text(status(day), encoding="utf-8")


def ogen(folder: Path, *words: str) -> str:
    """Figures of times are the same wherever this runs."""
    command = [sys.executable, "-m", "ogen", *words]
    env = {**os.environ, "TZ": "UTC"}
    return subprocess.run(command, cwd=folder, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


def shoot(page: Path, picture: Path, size: tuple[int, int], *flags: str) -> None:
    command = [
        "chromium",
        *FLAGS,
        f"--user-data-dir={page.parent}/profile",
        f"--window-size={size[0]},{size[1]}",
    ]
    command += [*flags, f"--screenshot={picture.resolve()}", f"file://{page}"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    print(f"{picture.name}: {picture.stat().st_size / 1000:.0f} kB")


# ------------------------------------------------------------------------------------------- status
def status(day: Path) -> str:
    """What the command prints of a healthy fleet and two hosts that are not, in a terminal's colours."""
    sys.path.insert(0, str(ROOT / "tests" / "unit"))
    import doctor_fleets

    planned = plan(load(day / "inventory.yaml"))
    seen = doctor_fleets.looks(planned, 3, day)
    shown = text(tuple(_touched(rows(planned, seen))), title="inventory.yaml", width=108, colour=True)
    console = Console(record=True, width=112, file=StringIO(), highlight=False)
    console.print(Text.from_ansi(shown))
    # without its fonts' addresses: a picture that loads nothing
    plain = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.S)
    return console.export_svg(title="ogen status inventory.yaml", code_format=plain, unique_id="ogen-status")


def _touched(found: tuple[HostRow, ...]) -> Iterator[HostRow]:
    for row in found:
        row = replace(
            row, release="f502f817565e0fe6", cards=tuple(replace(c, total=24 * GIB) for c in row.cards)
        )
        if row.name == "gpu2":
            first, second = row.cards
            yield replace(
                row, cards=(first, replace(second, used=int(22.8 * GIB), busy=97.0, temperature=84.0))
            )
        elif row.name == "gpu3":
            yield replace(row, pending=("1 file", "restart gpu1"))
        else:
            yield row


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs")
