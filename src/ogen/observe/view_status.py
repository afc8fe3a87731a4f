"""`ogen status` on one screen: a line for each host, card, instance and balancer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import StringIO

from rich.console import Console
from rich.text import Text

from ..plan.picture import gib
from ..release.plaintext import clean
from .fleet import BalancerRow, CardRow, HostRow, InstanceRow, ModelRow, QueueRow

USED, WITHIN, FREE, BEYOND = "█", "░", "·", "▓"  # used as planned, planned, free, used beyond the plan
_FIGURES = len(" used 99.9, planned 99.9 of 99.9 GiB")
_NAME = 22


def text(
    rows: Sequence[HostRow],
    *,
    title: str,
    width: int = 100,
    colour: bool = False,
    fold: bool = False,
    wrap: bool = False,
) -> str:
    """The whole screen; `width` is that of the lines with bars, and with `wrap` of all lines.

    `fold`: hosts that are well take a line each, after the others.
    """
    into = StringIO()
    console = Console(
        file=into,
        width=width,
        color_system="standard" if colour else None,
        force_terminal=colour,
        highlight=False,
    )
    lines = [Text(_plain(f"{title}: {headline(rows)}"), style="bold")]
    if any(row.cards for row in rows):
        lines.append(
            Text.assemble(
                *((USED, "green"), " used  ", (WITHIN, "blue"), " planned, not used  "),
                *((BEYOND, "red"), " used beyond the plan  ", (FREE, "bright_black"), " free"),
            )
        )
    wide = min(32, max((len(_plain(row.name)) for row in rows), default=0))
    well = [row for row in rows if fold and row.well]
    for row in rows:
        if not fold or not row.well:
            lines += [Text(), *_host(row, width)] if row.cards or row.balancers else _host(row, width)
    lines += [Text()] if well else []
    lines += [_folded(row, wide, width) for row in well]
    for line in [part for whole in lines for part in (_wrapped(whole, width) if wrap else [whole])]:
        console.print(line, soft_wrap=True)
    return "\n".join(line.rstrip() for line in into.getvalue().split("\n"))


def _wrapped(line: Text, width: int) -> list[Text]:
    """A line that is too long, in parts: broken where two spaces part its words, further parts set in."""
    parts = [line]
    while parts[-1].cell_len > width:
        last = parts[-1]
        gaps = [gap.start() for gap in re.finditer(r"(?<=\S) {2,}(?=\S)", last.plain)]
        fitting = [at for at in gaps if at <= width] or gaps[:1]
        if not fitting:
            break
        head, tail = last.divide([fitting[-1]])
        parts[-1:] = [head, Text("    ").append_text(tail[len(tail.plain) - len(tail.plain.lstrip()) :])]
    return parts


def _plain(text: str) -> str:
    return clean(text).replace("\n", " ")


def headline(rows: Sequence[HostRow]) -> str:
    instances = [one for row in rows for one in row.instances]
    up = sum(one.state == "up" for one in instances)
    words = [f"{len(rows)} host{'s' if len(rows) != 1 else ''}", f"{up} of {len(instances)} instances up"]
    for count, word in (
        (sum(bool(row.error) for row in rows), "not seen"),
        (sum(bool(row.pending) for row in rows), "with changes pending"),
        (sum(bool(row.edited) for row in rows), "edited by hand"),
    ):
        words += [f"{count} {word}"] if count else []
    told = [one for row in rows for one in row.balancers if one.running is not None]
    if told:
        running = sum(one.running or 0 for one in told)
        words.append(f"{running} request{'s' if running != 1 else ''} under way")
        waiting = sum(one.waiting for one in told)
        words += [f"{waiting} waiting"] if waiting else []
    return ", ".join(words)


def _folded(row: HostRow, wide: int, width: int) -> Text:
    """A host that is well, on a line: all of its cards as one bar."""
    line = Text(_plain(row.name).ljust(wide), style="bold").append("  as planned", style="green")
    cards = [card for card in row.cards if not card.note]
    if cards:
        used = [card.used for card in cards if card.used is not None]
        planned, total = sum(card.planned for card in cards), sum(card.total for card in cards)
        whole = CardRow(0, "", total, planned, sum(used) if used else None)
        line.append("  ")
        for cells, mark, style in bar(whole, max(10, min(20, width - wide - 60))):
            line.append(mark * cells, style=style)
        told = gib(whole.used).removesuffix(" GiB") if whole.used is not None else "?"
        line.append(f"  {told:>5} of {gib(total)}")
        busy = [card.busy for card in cards if card.busy is not None]
        line.append(f"  {sum(busy) / len(busy):3.0f} %" if busy else "")
    loaded = (model.name.removesuffix(":latest") for one in row.instances for model in one.models)
    if row.instances:
        models = ", ".join(dict.fromkeys(loaded)) or "no model"
        line.append(_plain(f"  {len(row.instances)} up: {models}"))
    for one in row.balancers:
        listen = f":{one.listen}" if one.listen else ""
        line.append(_plain(f"  {one.name}{listen} up{_load(one)}"))
    for queue in row.queues:
        line.append(_plain(f"  queue {queue.name} {_jobs(queue)}"))
    return line


def _host(row: HostRow, width: int) -> list[Text]:
    line = Text(_plain(row.name), style="bold")
    if row.error:
        return [line.append(f"  {_plain(row.error.message)}", style="red")]
    line.append(f"  release {row.release or 'none'}", style="default")
    if not row.pending and not row.edited:
        line.append("  as planned", style="green")
    if row.pending:
        line.append(f"  pending: {_plain('; '.join(row.pending))}", style="yellow")
    if row.edited:
        line.append(f"  edited: {_plain(', '.join(row.edited))}", style="magenta")
    if row.stuck:
        line.append(f"  STUCK: {_plain(row.stuck)}", style="red")
    if row.locked:
        line.append(f"  held by {_plain(row.locked)}", style="yellow")
    cards = [_card(card, width) for card in row.cards]
    balancers, queues = map(_balancer, row.balancers), map(_queue, row.queues)
    return [line, *cards, *map(_instance, row.instances), *balancers, *queues]


def _card(card: CardRow, width: int) -> Text:
    line = Text(_plain(f"  card {card.index} {card.model}").ljust(_NAME) + " ")
    if card.note:
        return line.append(_plain(card.note), style="bright_black" if card.note.startswith("out") else "red")
    for cells, mark, style in bar(card, max(10, min(30, width - 66))):
        line.append(mark * cells, style=style)
    used = gib(card.used).removesuffix(" GiB") if card.used is not None else "?"
    told = f" used {used}, planned {gib(card.planned).removesuffix(' GiB')} of {gib(card.total)}"
    line.append(told if card.busy is None and card.temperature is None else told.ljust(_FIGURES))
    line.append(
        "".join(
            f"  {value:3.0f}{unit}"
            for value, unit in ((card.busy, " %"), (card.temperature, " °C"))
            if value is not None
        )
    )
    return line


def bar(card: CardRow, width: int) -> list[tuple[int, str, str]]:
    """(cells, mark, style) of a card; a part that is there gets one cell at least."""
    total, used = max(1, card.total), card.used or 0
    inside, beyond = min(used, card.planned), max(0, used - card.planned)
    parts = [(inside, USED, "green"), (beyond, BEYOND, "red"), (max(0, card.planned - used), WITHIN, "blue")]
    found, left = [], width
    for size, mark, style in parts:
        cells = min(left, round(width * size / total) or int(size > total // 100))
        found.append((cells, mark, style))
        left -= cells
    return [*found, (left, FREE, "bright_black")]


def _instance(one: InstanceRow) -> Text:
    line = Text(f"  {_plain(one.name)}:{one.port}".ljust(_NAME) + " ")
    line.append(_plain(one.state), style="green" if one.state == "up" else "red")
    line.append(_plain(f"  Ollama {one.version}") if one.version else "")
    if one.rung:
        line.append(_plain(f"  {one.rung}"), style="default" if one.rung.startswith("rung 1 ") else "yellow")
    if one.drained:
        line.append(_plain(f"  {_drained(one.drained)}"), style="yellow")
    for edge, why in one.failing:
        line.append(_plain(f"  fails the probes of {edge}: {why}"), style="red")
    for model in one.models:
        line.append("  ").append_text(_model(model))
    return line


def _drained(away: Sequence[tuple[str, float]]) -> str:
    left = max(seconds for _, seconds in away)
    until = (
        f"{left / 60:.0f} min more" if left >= 60 else f"{left:.0f} s more" if left else "until it answers"
    )
    return f"drained at {', '.join(edge for edge, _ in away)}, {until}"


def _model(model: ModelRow) -> Text:
    if not model.loaded:
        return Text(_plain(f"{model.name} not loaded"), style="yellow")
    spill = f" + {gib(model.size - model.vram)} in host memory" if model.size > model.vram else ""
    shown = f"{model.name} {gib(model.vram)}{spill}, context {model.context}"
    return Text(_plain(shown), style="yellow" if spill else "default")


def _balancer(one: BalancerRow) -> Text:
    listen = f":{one.listen}" if one.listen else ""
    line = Text(_plain(f"  {one.name}{listen}").ljust(_NAME) + " ")
    line.append(f"balancer {_plain(one.state)}", style="green" if one.state == "up" else "red")
    if one.state != "unknown":
        line.append(_plain(f"  configuration {one.hash or 'none'}"))
        line.append(
            " in force" if one.in_force else " is not the release's",
            style="default" if one.in_force else "red",
        )
    return line.append(_load(one))


def _load(one: BalancerRow) -> str:
    """Requests under way, where the balancer tells."""
    if one.running is None:
        return ""
    slots = f" in {one.slots} slots" if one.slots else ""
    return f"  {one.running} under way{slots}" + (f", {one.waiting} waiting" if one.waiting else "")


def _queue(one: QueueRow) -> Text:
    line = Text(_plain(f"  queue {one.name}").ljust(_NAME) + " ")
    if one.error:
        return line.append(_plain(f"does not answer: {one.error}"), style="red")
    line.append(_jobs(one))
    line.append(f"  {one.dead} dead", style="red" if one.dead else "default")
    short = one.workers < one.planned
    line.append(f"  {one.workers} of {one.planned} workers", style="red" if short else "default")
    line.append(f"  Redis {one.used >> 20}" + (f" of {one.most >> 20} MiB" if one.most else " MiB"))
    return line.append("  drained: takes no jobs", style="yellow") if one.drained else line


def _jobs(one: QueueRow) -> str:
    return f"{one.waiting} waiting, {one.running} running"
