"""Bins of access logs as series: requests, errors, percentiles, and each instance's share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from statistics import median
from typing import Any

from ..agent.binned import merge, percentile
from ..plan.model import Plan
from ..release.plaintext import one_line
from .looking import members
from .report_span import Span, Zone, natural, runs, when

Said = Mapping[str, Any]
TOP = 6  # instances with a series of their own
TABLE = 400
KINDS = ("good", "client", "gone", "own", "failed")
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
FAILED = 0.01  # of the requests
SLOW = 3.0  # times the median of all bins
ENOUGH = 20  # requests of a bin that tell its percentiles


def balancers(plan: Plan, good: Mapping[str, Said], span: Span, zone: Zone) -> list[dict[str, Any]]:
    """Each balancer, over all hosts that serve it."""
    names = {name for said in good.values() for name in said["balancers"]}
    return [_balancer(plan, name, good, span, zone) for name in sorted(names, key=natural)]


def _balancer(plan: Plan, name: str, good: Mapping[str, Said], span: Span, zone: Zone) -> dict[str, Any]:
    logs = {host: said["balancers"][name] for host, said in good.items() if name in said["balancers"]}
    named = [{**log, "by": _named(plan, host, log["by"])} for host, log in logs.items()]
    whole = reduce(merge, named)
    rows = span.rows(whole["bins"])
    kinds = {kind: [int(row["kinds"].get(kind, 0)) if row else 0 for row in rows] for kind in KINDS}
    total = sum(row["n"] for row in rows if row)
    made = {
        "name": one_line(name, 60),
        "planned": any(entry.balancer.name == name for entry in plan.entries),
        "hosts": list(logs),
        "total": total,
        "failed": sum(kinds["failed"]) + sum(kinds["own"]),
        "sums": {kind: sum(counts) for kind, counts in kinds.items()},
        "rate": [round(row["n"] / span.seconds(at), 4) if row else 0 for at, row in enumerate(rows)],
        "kinds": kinds,
        "seconds": _percentiles(rows, "seconds"),
        "first": _percentiles(rows, "first"),
        "over": {key: _all(rows, key) for key in ("seconds", "first")},
        "by": _top(whole["by"], span),
        "table": _table(whole["by"])[:TABLE],
    }
    made["has_first"] = any(value is not None for value in made["first"]["p50"])
    return {**made, "notable": list(_notable(made, rows, span, zone))}


def _named(plan: Plan, host: str, by: Mapping[str, Any]) -> dict[str, Any]:
    """Instances by "host/instance", as far as the plan knows their addresses."""
    known = {_place(*where): name for where, name in members(plan, host).items()}
    named: dict[str, Any] = {}
    for address, one in by.items():
        name = known.get(address, one_line(address, 80))
        named[name] = merge(named[name], one) if name in named else one
    return named


def _place(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


# ----------------------------------------------------------------------------------------- figures
def _percentiles(rows: Sequence[Any], key: str) -> dict[str, list[float | None]]:
    return {
        p: [_short(percentile(row[key], share)) if row else None for row in rows]
        for p, share in SHARES.items()
    }


def _all(rows: Sequence[Any], key: str) -> dict[str, float | None]:
    whole: dict[str, int] = reduce(merge, (row[key] for row in rows if row), {})
    return {p: _short(percentile(whole, share)) for p, share in SHARES.items()}


def _short(seconds: float | None) -> float | None:
    return None if seconds is None else float(f"{seconds:.3g}")


def _top(by: Mapping[str, Said], span: Span) -> list[dict[str, Any]]:
    """Answers of the busiest instances, and of all others together."""
    order = sorted(by, key=lambda name: (-by[name]["n"], natural(name)))
    top = sorted(order[:TOP] if len(order) > TOP + 1 else order, key=natural)
    found = [
        {"name": name, "n": [row[0] if row else 0 for row in span.rows(by[name]["bins"])]} for name in top
    ]
    rest = [name for name in order if name not in top]
    if rest:
        bins = reduce(merge, (by[name]["bins"] for name in rest))
        counts = [row[0] if row else 0 for row in span.rows(bins)]
        found.append({"name": f"{len(rest)} others", "n": counts})
    return found


def _table(by: Mapping[str, Said]) -> list[dict[str, Any]]:
    total = sum(one["n"] for one in by.values())
    return [
        {
            "name": name,
            "n": one["n"],
            "share": one["n"] / max(1, total),
            "bad": one["bad"],
            **{p: _short(percentile(one["seconds"], share)) for p, share in SHARES.items()},
        }
        for name, one in sorted(by.items(), key=lambda item: natural(item[0]))
    ]


# ------------------------------------------------------------------------------------------- words
def _notable(made: Said, rows: Sequence[Any], span: Span, zone: Zone) -> Iterator[str]:
    name, total, failed = f"balancer {made['name']}", made["total"], made["failed"]
    if failed and failed >= FAILED * total:
        bad = [a + b for a, b in zip(made["kinds"]["failed"], made["kinds"]["own"], strict=True)]
        worst = max(range(len(bad)), key=lambda at: bad[at])
        yield (
            f"{name}: {100 * failed / total:.1f} % of {total} requests failed, most of them at"
            f" {zone.clock(span.at(worst))}"
        )
    slow = made["seconds"]["p95"]
    told = [at for at, row in enumerate(rows) if row and sum(row["seconds"].values()) >= ENOUGH]
    if len(told) > 5:
        usual, worst = median(slow[at] for at in told), max(told, key=lambda at: slow[at])
        if slow[worst] > SLOW * usual:
            yield (
                f"{name}: p95 was {slow[worst]:g} s at {zone.clock(span.at(worst))},"
                f" {slow[worst] / usual:.0f} times its median of {usual:g} s"
            )
    quiet = [at for at, row in enumerate(rows[:-1]) if not row] if not rows[-1] else []
    ends = runs(quiet)[-1:] if quiet else []
    if ends and ends[0][1] == span.bins - 2 and ends[0][1] - ends[0][0] >= 2:
        yield f"{name}: no request at its end, {when(range(ends[0][0], ends[0][1] + 1), span, zone)[0]}"
