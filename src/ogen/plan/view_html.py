"""A plan as one self-contained page: light and dark, narrow and wide, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from html import escape
from pathlib import Path, PurePath

from .model import Entry, Instance, Placement, Plan, Remark, Work
from .picture import (
    PARTS,
    CardRow,
    HostRow,
    concessions_of,
    context_of,
    gib,
    headline,
    listed,
    quant_of,
    rows,
    verdict_of,
    work_head,
    work_lines,
)


def html(plan: Plan, only: Iterable[str] | None = None) -> str:
    """The page; every word of the inventory is escaped, and a policy forbids scripts and loading."""
    title = f"Plan of {name_of(plan)}"
    body = [
        f"<header><h1>{_text(title)}</h1><p>{_text(headline(plan))}</p>{_legend()}</header>",
        "<main>",
        f'<div class="hosts">{"".join(_host(row) for row in rows(plan, only))}</div>',
        *(_entry(entry) for entry in plan.entries),
        *(_work(work) for work in plan.works),
        _remarks(plan.remarks),
        "</main>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(title)}</title>\n<style>{style()}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


@cache
def style() -> str:
    """The look of ogen's pages."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def name_of(plan: Plan) -> str:
    """The inventory's name for a title: whoever reads the page has other folders."""
    return PurePath(plan.inventory.name).name or plan.inventory.name


def _text(text: str) -> str:
    return escape(" ".join(text.split()))


def _legend() -> str:
    keys = (f'<li><i class="{name}"></i>{word}</li>' for name, word in PARTS.items())
    return f'<ul class="legend">{"".join(keys)}</ul>'


# ------------------------------------------------------------------------------------ hosts and cards
def _host(row: HostRow) -> str:
    host = row.hosts[0]
    count = f" · {len(row.hosts)} hosts alike" if len(row.hosts) > 1 else ""
    cards = [_card(card) for card in row.cards]
    cards += [_box(f"{_text(i.name)}", "no card", _instance(i)) for i in row.without_card]
    return (
        f"<section><h2>{_text(row.names)}</h2><p class=sub>Ollama {_text(host.ollama.version)}{count}</p>"
        f'<div class="cards">{"".join(cards)}</div></section>'
    )


def _card(card: CardRow) -> str:
    gpu, use = card.gpu, card.use
    title = f"gpu{gpu.index} · {_text(gpu.model)}"
    if gpu.state == "out":
        return _box(title, "out of service", f"<p class=sub>{_text(gpu.reason or '')}</p>", "off")
    told = ", ".join(f"{PARTS[name]} {gib(size)}" for name, size in use.parts())
    parts = "".join(
        f'<i class="{name}" style="flex-grow:{size >> 20}" title="{PARTS[name]} {gib(size)}"></i>'
        for name, size in use.parts()
        if size >> 20
    )
    bar = f'<div class="bar" role="img" aria-label="{escape(told)}">{parts}</div>'
    inside = "".join(_instance(instance) for instance in card.instances) or '<p class="sub">no model</p>'
    return _box(title, f"{(use.total - use.free) / 2**30:.1f} of {gib(gpu.vram)}", bar + inside)


def _box(title: str, figure: str, inside: str, kind: str = "") -> str:
    head = f'<h3><span>{title}</span><span class="figure">{figure}</span></h3>'
    return f'<article class="{kind}">{head}{inside}</article>'


def _instance(instance: Instance) -> str:
    models = "".join(_placement(placement) for placement in instance.placements)
    split = f" · {_text(instance.server.split)} split" if instance.server.split else ""
    return f'<p class="sub">{_text(instance.name)} · port {instance.port}{split}</p>{models}'


def _placement(placement: Placement) -> str:
    quant = quant_of(placement)
    given = "".join(f"<li>{_text(text)}</li>" for text in concessions_of(placement))
    return (
        f'<div class="model"><b>{_text(placement.model.name)}</b> {_text(quant)}'
        f'<span class="verdict {placement.verdict}">{_text(verdict_of(placement))}</span></div>'
        f'<p class="from">{_text(placement.source.ref)} · context {_text(context_of(placement))}'
        f" · {gib(placement.account.total_gpu_bytes)}</p>" + (f"<ul>{given}</ul>" if given else "")
    )


# ----------------------------------------------------------------------------- balancers and remarks
def _entry(entry: Entry) -> str:
    balancer = entry.balancer
    lines = []
    for pool in entry.pools:
        port = f" :{entry.ports[pool.name]}" if pool.name in entry.ports else ""
        weights = len({member.weight for member in pool.members}) > 1
        members = listed(
            [f"{m.host}/{m.instance}" + (f" ×{m.weight}" if weights else "") for m in pool.members]
        )
        slots = sum(member.slots for member in pool.members)
        lines.append(
            f"<tr><th scope=row>{_text(', '.join(pool.names))}{port}</th>"
            f"<td data-label=members>{_text(members)}</td>"
            f"<td data-label=slots>{slots}</td><td data-label=context>{pool.context}</td></tr>"
        )
    return (
        f"<section><h2>Balancer {_text(balancer.name)}</h2><p class=sub>{_text(', '.join(entry.hosts))}, "
        f"port {balancer.listen} · {_text(' · '.join(entry.ways))}</p>"
        '<div class="wide"><table><thead><tr><th scope=col>pool</th><th scope=col>members</th>'
        "<th scope=col>slots</th><th scope=col>context</th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _work(work: Work) -> str:
    heads = ("jobs for", "workers", "at once", "places")
    lines = [
        f"<tr><th scope=row>{_text(model)}</th>"
        + "".join(
            f'<td data-label="{h}">{_text(cell)}</td>' for h, cell in zip(heads[1:], cells, strict=True)
        )
        + "</tr>"
        for model, *cells in work_lines(work)
    ]
    head = "".join(f"<th scope=col>{h}</th>" for h in heads)
    return (
        f"<section><h2>Queue {_text(work.queue.name)}</h2><p class=sub>{_text(work_head(work))}</p>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _remarks(remarks: Iterable[Remark]) -> str:
    items = []
    for remark in remarks:
        place = f' <span class="sub">{_text(str(remark.where))}</span>' if remark.where else ""
        hint = f"<br><em>{_text(remark.hint)}</em>" if remark.hint else ""
        said = f"<b>{remark.severity}</b> {_text(remark.message)}{place}{hint}"
        items.append(f'<li class="{remark.severity}">{said}</li>')
    return f'<section><h2>Remarks</h2><ul class="remarks">{"".join(items)}</ul></section>' if items else ""
