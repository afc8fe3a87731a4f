"""A plan for the terminal: bars of every card, models, pools, remarks."""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO

from rich.console import Console
from rich.text import Text

from ..plan.model import Entry, Instance, Plan, Remark, Work
from ..plan.picture import (
    PARTS,
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
from ..plan.view_markdown import MARKS, bar
from ..release.plaintext import clean

_STYLES = {
    "weights": "blue",
    "kv": "green",
    "compute": "yellow",
    "reserve": "bright_black",
    "free": "bright_black",
}
_VERDICTS = {"full": "green", "partial": "yellow", "cpu": "red"}
_NAME = 24


def text(plan: Plan, only: Iterable[str] | None = None, *, width: int = 100, colour: bool = False) -> str:
    """The whole page; `width` is that of the bars' lines, longer ones are the terminal's to fold."""
    into = StringIO()
    console = Console(
        file=into,
        width=width,
        color_system="standard" if colour else None,
        force_terminal=colour,
        highlight=False,
    )
    console.print(Text(clean(f"{plan.inventory.name}: {headline(plan)}"), style="bold"), soft_wrap=True)
    console.print(_legend(), soft_wrap=True)
    for row in rows(plan, only):
        _host(console, row, width)
    for entry in plan.entries:
        _entry(console, entry)
    for work in plan.works:
        _work(console, work)
    if plan.remarks:
        console.print()
        for remark in plan.remarks:
            _remark(console, remark)
    return "\n".join(line.rstrip() for line in into.getvalue().split("\n"))


def _legend() -> Text:
    line = Text()
    for name, word in PARTS.items():
        line.append(MARKS[name], style=_STYLES[name]).append(f" {word}  ")
    return line


def _host(console: Console, row: HostRow, width: int) -> None:
    line = Text("\n")
    line.append(clean(row.names), style="bold").append(f"  Ollama {clean(row.hosts[0].ollama.version)}")
    console.print(line, soft_wrap=True)
    for card in row.cards:
        _card(console, card, width)
    for instance in row.without_card:
        console.print(Text(f"  {instance.name}  no card"), soft_wrap=True)
        _models(console, instance)


def _card(console: Console, card: CardRow, width: int) -> None:
    gpu, use = card.gpu, card.use
    name = clean(f"gpu{gpu.index} {gpu.model}")
    if gpu.state == "out":
        reason = f": {gpu.reason}" if gpu.reason else ""
        console.print(Text(clean(f"  {name:<{_NAME}} out{reason}"), style="bright_black"), soft_wrap=True)
        return
    line = Text(f"  {name:<{_NAME}} ")
    line.append_text(_bar(use, max(10, min(40, width - _NAME - 26))))
    line.append(f" {gib(use.total - use.free)} of {gib(gpu.vram)}")
    console.print(line, soft_wrap=True)
    for instance in card.instances:
        _models(console, instance)
    if not card.instances:
        console.print(Text("    no model", style="bright_black"), soft_wrap=True)


def _bar(use: Use, width: int) -> Text:
    line = Text()
    for name, cells in bar(use, width):
        line.append(MARKS[name] * cells, style=_STYLES[name])
    return line


def _models(console: Console, instance: Instance) -> None:
    for placement in instance.placements:
        what = " ".join(filter(None, (placement.model.name, quant_of(placement))))
        line = Text(f"    {instance.name}:{instance.port}  ")
        line.append(clean(what), style="bold")
        line.append(clean(f"  {placement.source.ref}  context {context_of(placement)}  "))
        line.append(verdict_of(placement), style=_VERDICTS[placement.verdict])
        console.print(line, soft_wrap=True)
        for given in concessions_of(placement):
            console.print(Text(clean(f"      {given}"), style="yellow"), soft_wrap=True)


def _entry(console: Console, entry: Entry) -> None:
    balancer = entry.balancer
    line = Text("\n")
    line.append(clean(f"balancer {balancer.name}"), style="bold")
    where = f"  {', '.join(entry.hosts)}:{balancer.listen}  {', '.join(entry.ways)}"
    console.print(line.append(clean(where)), soft_wrap=True)
    for pool in entry.pools:
        names, members, slots, context = pool_line(pool)
        port = f" :{entry.ports[pool.name]}" if pool.name in entry.ports else ""
        console.print(
            Text(clean(f"  {names}{port} → {members}  (slots {slots}, context {context})")), soft_wrap=True
        )


def _work(console: Console, work: Work) -> None:
    line = Text("\n").append(clean(f"queue {work.queue.name}"), style="bold")
    console.print(line.append(clean(f"  {work_head(work)}")), soft_wrap=True)
    for model, members, slots, places in work_lines(work):
        told = f"  {model} → {members}  (jobs at once {slots}, places {places})"
        console.print(Text(clean(told)), soft_wrap=True)


def _remark(console: Console, remark: Remark) -> None:
    line = Text()
    line.append(f"{remark.severity}: ", style="yellow" if remark.severity == "warning" else "cyan")
    line.append(clean(remark.message + (f" ({remark.where})" if remark.where else "")))
    console.print(line, soft_wrap=True)
    if remark.hint:
        console.print(Text(clean(f"  hint: {remark.hint}")), soft_wrap=True)
