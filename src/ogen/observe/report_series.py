"""All that a report shows, in numbers and plain text: hosts, balancers, what is notable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import HostError
from ..plan.model import Plan
from ..plan.view_html import name_of
from ..release.plaintext import one_line
from .report_balancers import balancers
from .report_hosts import host
from .report_read import Answers
from .report_span import Span, Zone

NOTES = 12


def document(
    plan: Plan, answers: Answers, span: Span, zone: Zone, strangers: Sequence[str] = ()
) -> dict[str, Any]:
    planned = {one.host.name: one for one in plan.hosts}
    good = {name: said for name, said in answers.items() if not isinstance(said, HostError)}
    hosts = [host(planned[name], said, span, zone) for name, said in good.items()]
    entries = balancers(plan, good, span, zone)
    lost = [f"{name}: {one_line(str(e))}" for name, e in answers.items() if isinstance(e, HostError)]
    lost += [f"{one_line(name)}: a folder of no host of the inventory; left out" for name in strangers]
    shown = [one for one in hosts if one["cards"] or one["instances"]]
    return {
        "title": f"Report of {one_line(name_of(plan))}",
        "head": _head(shown, entries, answers, span, zone, _no_request(plan, good)),
        "begin": _begin(shown, entries, span),
        "zone": zone.name,
        "offset": zone.seconds,
        "first": span.first * span.width,
        "end": int(span.end),
        "width": span.width,
        "bins": span.bins,
        "hosts": shown,
        "balancers": entries,
        "notable": [*lost, *_few(n for e in entries for n in e["notable"]),
                    *_few(n for h in hosts for n in h["notable"])],
        "notes": [f"{h['name']}: {note}" for h in hosts for note in h["notes"]],
    }  # fmt: skip


def _few(notes: Iterable[str]) -> list[str]:
    found = list(notes)
    more = len(found) - NOTES
    return found if more <= 0 else [*found[:NOTES], f"and {more} more like these, told at their places below"]


def _head(
    hosts: Sequence[Mapping[str, Any]],
    entries: Sequence[Mapping[str, Any]],
    answers: Answers,
    span: Span,
    zone: Zone,
    none: str,
) -> str:
    lost = sum(isinstance(one, HostError) for one in answers.values())
    total, failed = (sum(entry[key] for entry in entries) for key in ("total", "failed"))
    parts = [
        f"{zone.both(span.start, span.end)}, {zone.name}",
        _count(len(answers), "host") + (f", {lost} of them without figures" if lost else ""),
        _count(sum(len(one["cards"]) for one in hosts), "card"),
        f"{_count(total, 'request')}, {failed} failed" if entries else none,
    ]
    return " · ".join(parts)


def _no_request(plan: Plan, good: Mapping[str, object]) -> str:
    """Why there is none: nobody asked, or nobody who could say."""
    if not plan.entries:
        return "no balancer"
    asked = any(host in good for entry in plan.entries for host in entry.hosts)
    return "no request at a balancer" if asked else "no balancer's host was asked"


def _begin(
    hosts: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]], span: Span
) -> float | None:
    """When the first figure of all was written; None where there is none."""
    places = [place for one in hosts for place in _first(one)]
    places += [at for one in entries for at, rate in enumerate(one["rate"]) if rate]
    return span.at(min(places)) if places else None


def _first(one: Mapping[str, Any]) -> list[int]:
    seen = [at for card in one["cards"] for at, used in enumerate(card["used"]) if used is not None]
    return seen + [at for instance in one["instances"] for at in instance["seen"]]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
