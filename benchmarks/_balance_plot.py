"""The plot of benchmarks/balance.py: how far each strategy is from the ideal, and who waits how long."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from _balance_table import MEAN, RHO, Found, Run, ratios
from _trace import above, ideal
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

INK, FAINT, PAPER = "#1f2328", "#d0d7de", "#ffffff"
MEANS, TAILS = "#0969da", "#bc4c00"
WAITS = {
    "gate": "#1a7f37",
    "least_conn": "#0969da",
    "random": "#8250df",
    "round_robin": "#bc4c00",
    "hash": "#8c959f",
}
LEAST = 1e-3  # the share of requests down to which waits are drawn
LONGEST = 12.0  # seconds
LOOK: dict[Any, Any] = {
    "svg.hashsalt": "ogen",
    "font.size": 9,
    "font.family": ["DejaVu Sans"],
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#8c959f",
    "xtick.color": INK,
    "ytick.color": INK,
}


def draw(found: Found, file: Path) -> None:
    """Writes an SVG, the same for the same figures, or whatever else the file's name asks for."""
    with mpl.rc_context(LOOK):
        figure = Figure(
            figsize=(10, 7.6), facecolor=PAPER, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08)
        )
        grid = figure.add_gridspec(2, len(found.sizes), height_ratios=(5, 4))
        names = list(found.labels)
        first: Axes | None = None
        for column, servers in enumerate(found.sizes):
            axes = figure.add_subplot(grid[0, column], sharey=first)
            _distances(axes, found, servers, names, labelled=first is None)
            first = first or axes
        for column, servers in enumerate(found.sizes):
            axes = figure.add_subplot(grid[1, column])
            _waits(axes, found, servers, names, labelled=column == 0)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6, edgecolor=FAINT)
        figure.suptitle(
            f"Real nginx before serial instances: load {RHO}, services of {MEAN * 1e3:.0f} ms on average",
            fontsize=11,
            fontweight="bold",
        )
        figure.savefig(
            file, metadata={"Date": None, "Creator": None} if file.suffix == ".svg" else None, dpi=110
        )


def _distances(axes: Axes, found: Found, servers: int, names: Sequence[str], *, labelled: bool) -> None:
    """A row for each strategy: its mean and its 95th percentile by those of the ideal."""
    rows = range(len(names))
    found_ratios = [ratios(found, servers, name) for name in names]
    means, tails = [r.mean for r in found_ratios], [r.p95 for r in found_ratios]
    ends = [sorted(pair) for pair in zip(means, tails, strict=True)]
    axes.hlines(rows, [e[0] for e in ends], [e[1] for e in ends], color=FAINT, linewidth=2, zorder=1)
    axes.scatter(means, rows, s=34, color=MEANS, zorder=3, label="mean")
    axes.scatter(tails, rows, s=34, facecolor=PAPER, edgecolor=TAILS, linewidth=1.6, zorder=2, label="p95")
    axes.axvline(1, color="#1a7f37", linewidth=1.2, zorder=0)
    _frame(axes, [found.labels[name] for name in names], labelled=labelled)
    axes.set_title(f"{servers} instances")
    if labelled:
        axes.legend(loc="upper right", frameon=True, edgecolor=FAINT)
    for row, name in zip(rows, names, strict=True):
        bound = "≥ " if any(run.unfinished for run in found.of(servers, name)) else ""
        shown = max(means[row], tails[row])
        text = f"{bound}×{means[row]:.2f}" if means[row] < 10 else f"{bound}×{means[row]:.0f}"
        axes.annotate(text, (shown, row), (7, 0), textcoords="offset points", va="center", color=MEANS)


def _frame(axes: Axes, labels: Sequence[str], *, labelled: bool) -> None:
    axes.set_xscale("log")
    axes.set_xlim(0.9, 700)
    axes.xaxis.set_major_locator(FixedLocator([1, 3, 10, 30, 100]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"×{x:g}"))
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0, labelleft=labelled)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("latency by that of one ideal queue")
    axes.spines[["top", "right", "left"]].set_visible(False)


def _waits(axes: Axes, found: Found, servers: int, names: Sequence[str], *, labelled: bool) -> None:
    """The share of requests that wait longer than so many seconds, of all seeds together."""
    runs = found.of(servers, names[0])
    best = [t - s for run in runs for t, s in _served(found, run, ideal(found.trace(run), servers))]
    for name in names:
        if name in WAITS:
            waits = [t - s for run in found.of(servers, name) for t, s in _served(found, run, run.latencies)]
            _tail(axes, waits, found.labels[name].partition(" (")[0], WAITS[name], "-")
    _tail(axes, best, "ideal", INK, ":")
    axes.set_yscale("log")
    axes.set_ylim(LEAST, 1)
    axes.set_xlim(0, LONGEST)
    axes.xaxis.set_major_locator(FixedLocator([0, 3, 6, 9, 12]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y * 100:g} %"))
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("seconds in queues")
    axes.spines[["top", "right"]].set_visible(False)
    if labelled:
        axes.set_ylabel("requests that wait longer")


def _served(found: Found, run: Run, latencies: Sequence[float | None]) -> list[tuple[float, float]]:
    pairs = zip(latencies, found.trace(run).services, strict=True)
    return [(latency, service) for latency, service in pairs if latency is not None]


def _tail(axes: Axes, waits: Sequence[float], label: str, color: str, style: str) -> None:
    """Enough points for the eye: an SVG with a point for each request would be large."""
    ordered = sorted(max(0.0, wait) for wait in waits)
    points = 160
    xs = [LONGEST * n / points for n in range(points + 1)]
    ys = [above(ordered, x) for x in xs]
    axes.plot(xs, [y if y > 0 else float("nan") for y in ys], style, color=color, linewidth=1.6, label=label)
