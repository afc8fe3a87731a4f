"""Autofit beside the article's script: the tables of docs/autofit.md are what the command prints."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import autofit as benchmark

from ogen.catalog import find_model

DOCS = (Path(__file__).parents[2] / "docs" / "autofit.md").read_text(encoding="utf-8")


def test_the_page_holds_what_the_command_prints(capsys):
    benchmark.main()
    assert f"<!-- benchmarks/autofit.py -->\n{capsys.readouterr().out}<!-- end -->" in DOCS


def test_autofit_loads_seldom_and_nothing_on_the_host():
    _, mine = benchmark.play(benchmark.autofit())
    _, theirs = benchmark.play(benchmark.article(find_model(benchmark.TAG)))
    assert mine.loads < theirs.loads / 5
    assert (mine.failed, mine.spilled, mine.silent) == (0, 0, 0)
    assert theirs.spilled > 0
