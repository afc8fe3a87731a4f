"""Figures on a page of the documentation: what a benchmark printed, between two comments."""

from __future__ import annotations

import re
from pathlib import Path


def put(page: Path, mark: str, printed: str) -> None:
    """Replaces what stands between `<!-- mark -->` and the next `<!-- end -->`."""
    text = page.read_text(encoding="utf-8")
    between = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not between.search(text):
        raise SystemExit(f"{page}: there is no <!-- {mark} --> with an <!-- end --> after it")
    block = f"```text\n{printed.strip()}\n```\n"
    page.write_text(between.sub(lambda m: m[1] + block + m[2], text, count=1), encoding="utf-8")
