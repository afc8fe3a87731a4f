"""The benchmark's tables, and the one in docs/fit.md, which is made by a command."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import fit as benchmark
from _reference import quick_reference

DOCS = (Path(__file__).parents[2] / "docs" / "fit.md").read_text(encoding="utf-8")


def test_the_quick_reference_is_what_the_command_prints(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fit.py", "--table"])
    benchmark.main()
    assert capsys.readouterr().out.strip() == quick_reference()
    assert f"<!-- quick reference -->\n{quick_reference()}\n<!-- end -->" in DOCS


def test_the_measured_errors_are_those_of_the_page():
    """Mean and worst of compute and total, as docs/fit.md says them."""
    full = [run for run in benchmark.runs() if run.is_full]
    found = benchmark.errors(benchmark.ogen, full)
    compute, total = found["compute"], found["total"]
    said = (
        f"compute {benchmark.mape(compute):.2f} % (worst {max(map(abs, compute)):.1f} %), "
        f"total {benchmark.mape(total):.3f} % (worst {max(map(abs, total)):.2f} %)"
    )
    assert said in DOCS


def test_the_tables_name_every_estimator(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fit.py"])
    benchmark.main()
    out = capsys.readouterr().out
    for name in ("ogen", *benchmark.RIVALS):
        assert out.count(f"\n{name} ") >= 4
    assert out.count("   logged ") == 7
