"""A plan as markdown, for a comment on a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .model import Instance, Plan
from .picture import (
    CardRow,
    HostRow,
    Use,
    concessions_of,
    context_of,
    gib,
    headline,
    pool_line,
    quant_of,
    rows,
    verdict_of,
    work_head,
    work_lines,
)

_WIDTH = 24
MARKS = {"weights": "█", "kv": "▓", "compute": "▒", "reserve": "░", "free": "·"}


def markdown(plan: Plan, only: Iterable[str] | None = None) -> str:
    """The page; every word of the inventory is escaped, so that it can't close a table or open a link."""
    lines = [f"**Plan of {escaped(plan.inventory.name)}**: {escaped(headline(plan))}", ""]
    for row in rows(plan, only):
        lines += _host(row)
    lines += _pools(plan)
    lines += _queues(plan)
    if plan.remarks:
        lines += ["**Remarks**", ""]
        for remark in plan.remarks:
            place = f" ({escaped(str(remark.where))})" if remark.where else ""
            hint = f" *{escaped(remark.hint)}*" if remark.hint else ""
            lines.append(f"- {remark.severity}: {escaped(remark.message)}{place}{hint}")
    return "\n".join(lines).rstrip() + "\n"


def escaped(text: str) -> str:
    """`text` on one line with markdown's and HTML's own characters taken literally."""
    flat = " ".join(text.split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#!|~@])", r"\\\1", flat)


def bar(use: Use, width: int = _WIDTH) -> list[tuple[str, int]]:
    """Cells of a bar by part; their sum is `width`, and a part that is there gets one at least."""
    total = max(1, use.total)
    cells = {
        name: round(width * size / total) or (1 if size > total // 100 else 0) for name, size in use.parts()
    }
    widest = max(cells, key=lambda name: cells[name])
    cells[widest] = max(0, cells[widest] + width - sum(cells.values()))
    return list(cells.items())


def drawn(use: Use, width: int = _WIDTH) -> str:
    return "".join(MARKS[name] * cells for name, cells in bar(use, width))


def _host(row: HostRow) -> list[str]:
    host = row.hosts[0]
    lines = [
        f"**{escaped(row.names)}** · Ollama {escaped(host.ollama.version)}",
        "",
        "| card | `"
        + " ".join(f"{mark} {name}" for name, mark in MARKS.items())
        + "` | model | context | verdict |",
        "|---|---|---|---|---|",
    ]
    for card in row.cards:
        lines += _card(card)
    for instance in row.without_card:
        lines += _models(instance, f"{instance.name}:{instance.port} | no card")
    return [*lines, ""]


def _card(card: CardRow) -> list[str]:
    gpu, use = card.gpu, card.use
    name = f"gpu{gpu.index} {escaped(gpu.model)}"
    if gpu.state == "out":
        return [f"| {name} | out{': ' + escaped(gpu.reason) if gpu.reason else ''} | | | |"]
    shown = f"`{drawn(use)}` {gib(use.total - use.free)} of {gib(gpu.vram)}"
    if not card.instances:
        return [f"| {name} | {shown} | – | | |"]
    lines: list[str] = []
    for instance in card.instances:
        lines += _models(instance, f"{name} :{instance.port} | {shown}" if not lines else " | ")
    return lines


def _models(instance: Instance, head: str) -> list[str]:
    lines = []
    for placement in instance.placements:
        what = " ".join(filter(None, (placement.model.name, quant_of(placement))))
        given = "".join(f"<br>{escaped(text)}" for text in concessions_of(placement))
        verdict = escaped(verdict_of(placement)) + given
        lines.append(f"| {head} | {escaped(what)} | {context_of(placement)} | {verdict} |")
        head = " | "
    return lines


def _pools(plan: Plan) -> list[str]:
    lines: list[str] = []
    for entry in plan.entries:
        balancer = entry.balancer
        lines += [
            f"**{escaped(balancer.name)}** on {escaped(', '.join(entry.hosts))}:{balancer.listen} · "
            f"{escaped(' · '.join(entry.ways))}",
            "",
            "| pool | members | slots | context |",
            "|---|---|---|---|",
        ]
        for pool in entry.pools:
            cells = [escaped(cell) for cell in pool_line(pool)]
            if pool.name in entry.ports:
                cells[0] += f" :{entry.ports[pool.name]}"
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def _queues(plan: Plan) -> list[str]:
    lines: list[str] = []
    for work in plan.works:
        lines += [
            f"**queue {escaped(work.queue.name)}** · {escaped(work_head(work))}",
            "",
            "| jobs for | workers | at once | places |",
            "|---|---|---|---|",
            *("| " + " | ".join(escaped(cell) for cell in cells) + " |" for cells in work_lines(work)),
            "",
        ]
    return lines
