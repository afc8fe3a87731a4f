"""A report as one self-contained page: plots by plotly.js, which is in it; nothing is loaded from elsewhere.

The words are HTML, escaped here. The numbers are JSON in a script that is no program; `report.js` draws them.
Only the two programs that are known by their hashes run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..plan.view_html import style
from .report_hosts import GIB

Part = Mapping[str, Any]
FEW = 6  # hosts: of more, each is folded, and all are shown as two maps
KIND_WORDS = {
    "good": "answered",
    "client": "refused (4xx)",
    "gone": "client left",
    "own": "failed in the balancer",
    "failed": "failed in an instance",
}


def plotly() -> str:
    """plotly.js, as its Python package has it."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise UsageError(
            "the report's plots are drawn by plotly, which is not installed",
            hint="pip install 'ogen-fleet[report]', or in a checkout: pip install '.[report]'",
        ) from None
    return str(get_plotlyjs())


def html(found: Part, library: str) -> str:
    """The page of a `report_series.document`."""
    programs = [_program(library), _program(_file("report.js"))]
    policy = (
        f"default-src 'none'; script-src {' '.join(_hash(p) for p in programs)}; "
        "style-src 'unsafe-inline'; img-src data: blob:"
    )
    shown = {key: found[key] for key in ("offset", "first", "end", "width", "bins", "hosts", "balancers")}
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(found['title'])}</title>\n<style>{style()}{_file('report.css')}</style></head>\n<body>\n"
        f"<header><h1>{escape(found['title'])}</h1><p>{escape(found['head'])}</p></header>\n<main>\n"
        + "\n".join(_sections(found))
        + f'\n</main>\n<script type="application/json" id="data">{_json(shown)}</script>\n'
        + "".join(f"<script>{program}</script>\n" for program in programs)
        + "</body></html>\n"
    )


@cache
def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _program(text: str) -> str:
    """As a browser reads it out of a page, so that its hash is that of what stands there."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "</script" in text.lower() or "<!--" in text:
        text = text.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    return text


def _hash(program: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()}'"


def _json(value: object) -> str:
    """JSON that can't end the script it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# ---------------------------------------------------------------------------------------- sections
def _sections(found: Part) -> Iterable[str]:
    yield _notable(found["notable"])
    yield "<noscript><p>The plots need JavaScript; nothing is loaded for them.</p></noscript>"
    hosts = found["hosts"]
    if hosts:
        yield '<section id="cards"><h2>Cards</h2>'
        yield (
            f'<p class="sub">Times are {escape(found["zone"])}; each point is {_width(found["width"])}.'
            " Drag to zoom, double-click for all; grey: nothing was written; ▾: an event.</p>"
        )
        if len(hosts) > FEW:
            height = 120 + 14 * len(hosts)
            yield _plot("map:used", "VRAM in use, fullest card of each host, % of its memory", height)
            yield _plot("map:busy", "Utilisation, mean of each host's cards, %", height)
        yield "".join(_host(at, one, len(hosts) <= FEW) for at, one in enumerate(hosts)) + "</section>"
    if found["balancers"]:
        yield '<section id="requests"><h2>Requests</h2>'
        yield "".join(_balancer(at, one) for at, one in enumerate(found["balancers"])) + "</section>"
    if found["notes"]:
        items = "".join(f"<li>{escape(note)}</li>" for note in found["notes"][:200])
        more = len(found["notes"]) - 200
        items += f"<li>and {more} more</li>" if more > 0 else ""
        yield f'<section id="notes"><h2>What is missing</h2><ul class="notes">{items}</ul></section>'


def _width(seconds: int) -> str:
    for unit, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % unit == 0:
            count = seconds // unit
            return f"one {word}" if count == 1 else f"{count} {word}s"
    return f"{seconds} s"


def _notable(notes: Iterable[str]) -> str:
    items = "".join(f'<li class="warning">{escape(note)}</li>' for note in notes)
    inside = f'<ul class="remarks">{items}</ul>' if items else "<p>Nothing is notable.</p>"
    return f'<section id="notable"><h2>Notable</h2>{inside}</section>'


def _plot(name: str, title: str, height: int) -> str:
    return (
        f'<figure><figcaption>{escape(title)}</figcaption>'
        f'<div class="plot" data-plot="{escape(name)}" style="height:{height}px" role="img"'
        f' aria-label="{escape(title)}"></div></figure>'
    )  # fmt: skip


def _host(at: int, one: Part, opened: bool) -> str:
    cards = one["cards"]
    plots = ""
    if cards:
        rows = -(-len(cards) // 2)
        plots = f'<div class="whole">{_plot(f"host:{at}:vram", "VRAM, GiB", 60 + 190 * rows)}</div>'
        plots += _plot(f"host:{at}:busy", "Utilisation, % of time", 240)
        plots += _plot(f"host:{at}:hot", "Temperature (highest), °C", 240)
        plots += _plot(f"host:{at}:watts", "Power (mean), W", 240)
    notable = "".join(f'<li class="warning">{escape(text)}</li>' for text in one["notable"])
    notable = f'<ul class="remarks">{notable}</ul>' if notable and not opened else ""
    return (
        f'<details class="host"{" open" if opened else ""}><summary><b>{escape(one["name"])}</b> '
        f'<span class="figure">{escape(_summary(one))}</span></summary>{notable}{_events(one["events"])}'
        f'<div class="plots">{plots}</div>{_models(one["instances"])}</details>'
    )


def _events(events: Iterable[str]) -> str:
    told = " · ".join(escape(text) for text in events)
    return f'<p class="sub">▾ {told}</p>' if told else ""


def _summary(one: Part) -> str:
    """A card or two one by one, more of them as one."""
    cards = one["cards"]
    if len(cards) <= 2:
        return " · ".join(f"card {c['gpu']} {c['name']}: {_use([c])}" for c in cards) or "no card"
    return f"{len(cards)} cards, the fullest {_use(cards)}"


def _use(cards: Sequence[Part]) -> str:
    busy = [value for card in cards for value in card["busy"] if value is not None]
    most = [(value, card["total"]) for card in cards for value in card["most"] if value is not None]
    if not most:
        return "no figures"
    used, total = max(most)
    return f"at most {used:.1f} of {total:.1f} GiB" + (
        f", {sum(busy) / len(busy):.0f} % busy" if busy else ""
    )


def _models(instances: Iterable[Part]) -> str:
    rows = []
    for one in instances:
        for model in one["models"] or [{"name": "nothing loaded", "vram": 0, "host": 0}]:
            beside = f"{model['host'] / GIB:.1f} GiB" if model["host"] else "–"
            rows.append(
                f"<tr><th scope=row>{escape(one['name'])}</th>"
                f"<td data-label=model>{escape(model['name'])}</td>"
                f'<td class="number" data-label="on cards">{model["vram"] / GIB:.1f} GiB</td>'
                f'<td class="number" data-label="in host memory">{beside}</td></tr>'
            )
    heads = "".join(
        f"<th scope=col{kind}>{word}</th>"
        for word, kind in (
            ("instance", ""),
            ("model", ""),
            ("most on cards", " class=number"),
            ("most in host memory", " class=number"),
        )
    )
    body = "".join(rows)
    return (
        f"<div class=wide><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
        if rows
        else ""
    )


# --------------------------------------------------------------------------------------- balancers
def _balancer(at: int, one: Part) -> str:
    sums = " · ".join(f"{one['sums'][kind]} {word}" for kind, word in KIND_WORDS.items() if one["sums"][kind])
    plots = _plot(f"balancer:{at}:rate", "Requests per second, by how they ended", 260)
    plots += _plot(f"balancer:{at}:seconds", "Time of good answers, s (logarithmic)", 260)
    if one["has_first"]:
        plots += _plot(f"balancer:{at}:first", "Time to the first byte of good answers, s (logarithmic)", 260)
    plots += _plot(f"balancer:{at}:share", "Requests of each instance, % of all", 260)
    first = f" · first byte {_times(one['over']['first'])}" if one["has_first"] else ""
    note = "" if one["has_first"] else " · its log has no time to the first byte"
    strange = "" if one["planned"] else ", which the inventory does not have"
    return (
        f"<h3><span>Balancer {escape(one['name'])}{strange}</span>"
        f'<span class="figure">on {escape(", ".join(one["hosts"]))}</span></h3>'
        f'<p class="sub">{one["total"]} requests: {escape(sums)} · answers {_times(one["over"]["seconds"])}'
        f'{first}{note}</p><div class="plots two">{plots}</div>{_instances(one["table"])}'
    )


def _times(over: Part) -> str:
    said = [f"{name}\u00a0{over[name]:g}\u00a0s" for name in ("p50", "p95", "p99") if over[name] is not None]
    return ", ".join(said) or "none"


def _instances(table: Iterable[Part]) -> str:
    rows, heads = [], ("instance", "requests", "share", "failed", "p50", "p95", "p99")
    for row in table:
        times = [f"{row[p]:g} s" if row[p] is not None else "–" for p in ("p50", "p95", "p99")]
        cells = [str(row["n"]), f"{100 * row['share']:.1f} %", str(row["bad"]), *times]
        rows.append(
            f"<tr><th scope=row>{escape(row['name'])}</th>"
            + "".join(
                f'<td class="number" data-label="{head}">{cell}</td>'
                for head, cell in zip(heads[1:], cells, strict=True)
            )
            + "</tr>"
        )
    head = "".join(
        f'<th scope=col class="{"number" if at else ""}">{word}</th>' for at, word in enumerate(heads)
    )
    table_ = (
        f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
    if len(rows) > 12:
        return f"<details><summary>{len(rows)} instances</summary>{table_}</details>"
    return table_ if rows else ""
