"""What `ogen fit` prints: text with a bar, JSON, markdown."""

from __future__ import annotations

import io
from typing import Any

from . import console
from .fit import Answer

_PARTS = (("weights", "green"), ("KV cache", "cyan"), ("compute", "yellow"), ("reserve", "magenta"))


def show(answer: Answer, form: str, created: str | None) -> None:
    """Prints the answer as `form` says; `created` is the Modelfile that was written."""
    if form == "json":
        console.document(document(answer, created))
    elif form == "markdown":
        console.out(markdown(answer))
    else:
        console.raw(_text(answer, created))


def document(answer: Answer, created: str | None = None) -> dict[str, Any]:
    """The answer as JSON values; sizes in bytes."""
    from ..fit import modelfile_parameters, unit_environment

    need, settings = answer.account, answer.settings
    cards = max(1, len(answer.room.cards))
    found: dict[str, Any] = {
        "model": answer.shape.name,
        "architecture": answer.shape.arch,
        "quantisation": answer.shape.quant,
        "figures_from": answer.shape.source,
        "fits": answer.fits,
        "verdict": answer.verdict,
        "cards": [
            {"name": name, "total_bytes": card.total, "free_bytes": card.free}
            for name, card in zip(answer.room.names, answer.room.cards, strict=True)
        ],
        "account": {
            "weights_bytes": need.weights_bytes,
            "kv_bytes": need.kv_bytes,
            "compute_bytes": need.compute_bytes,
            "reserve_bytes": need.reserve_bytes,
            "total_gpu_bytes": need.total_gpu_bytes,
            "host_weights_bytes": need.host_weights_bytes,
            "host_kv_bytes": need.host_kv_bytes,
            "layers": need.layers,
            "layers_total": need.layers_total,
            "per_card_bytes": list(need.per_card),
        },
        "settings": {
            "modelfile": modelfile_parameters(settings, answer.num_gpu),
            "unit": unit_environment(settings, cards, answer.shares),
        },
        "errors": [],
    }
    if answer.choice is not None:
        found["source"] = answer.choice.source
        found["concessions"] = [
            {"what": c.what, "from": c.before, "to": c.after, "saved_bytes": c.saved_bytes, "cost": c.cost}
            for c in answer.choice.concessions
        ]
        found["remarks"] = list(answer.choice.remarks)
    if created is not None:
        found["created"] = created
    return found


def gib(size: int) -> str:
    """Bytes in GiB or MiB, for people."""
    return f"{size / 2**30:.2f} GiB" if abs(size) >= 2**30 else f"{size / 2**20:.0f} MiB"


def _sizes(answer: Answer) -> list[tuple[str, int]]:
    need = answer.account
    return [
        ("weights", need.weights_bytes),
        ("KV cache", need.kv_bytes),
        ("compute", need.compute_bytes),
        ("reserve", need.reserve_bytes),
    ]


def _heading(answer: Answer) -> str:
    need, where = answer.account, answer.room.names
    card = f" on {len(where)} × {where[0]}" if len(where) > 1 else f" on {where[0]}" if where else ""
    word = {True: answer.verdict, False: "does not fit", None: "needs"}[answer.fits]
    return (
        f"{answer.shape.name} {answer.shape.quant}{card}: {word}, "
        f"{need.layers} of {need.layers_total} layers, {gib(need.total_gpu_bytes)}"
    )


def _settings_line(answer: Answer) -> str:
    s = answer.settings
    batch = "auto" if s.batch is None else str(s.batch)
    flash = "on" if s.flash_attention else "off"
    return (
        f"context {s.context} × {s.parallel}, batch {batch}, KV cache {s.kv_cache}, flash attention {flash}, "
        f"Ollama {s.version}, {s.backend}"
    )


def markdown(answer: Answer) -> str:
    """The answer as a table, for pull requests."""
    need = answer.account
    lines = [f"**{_heading(answer)}**", "", _settings_line(answer), "", "| part | size |", "|---|---:|"]
    lines += [f"| {name} | {gib(size)} |" for name, size in _sizes(answer)]
    lines.append(f"| on the card | {gib(need.total_gpu_bytes)} |")
    if answer.room.cards:
        lines.append(f"| free | {gib(_free(answer))} |")
    lines.append(f"| weights on the host | {gib(need.host_weights_bytes)} |")
    if need.host_kv_bytes:
        lines.append(f"| KV cache on the host | {gib(need.host_kv_bytes)} |")
    if answer.choice and answer.choice.concessions:
        lines += ["", "| concession | from | to | saves | costs |", "|---|---|---|---:|---|"]
        lines += [
            f"| {c.what} | {c.before} | {c.after} | {gib(c.saved_bytes)} | {c.cost} |"
            for c in answer.choice.concessions
        ]
    return "\n".join(lines)


def _free(answer: Answer) -> int:
    return sum(card.free for card in answer.room.cards) - answer.account.total_gpu_bytes


def _text(answer: Answer, created: str | None) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = io.StringIO()
    colour = console.colourful()
    screen = Console(
        file=out, width=110, force_terminal=colour, no_color=not colour, highlight=False, legacy_windows=False
    )
    screen.print(Text(console.safe(_heading(answer)), style="bold"))
    screen.print(Text(console.safe(_settings_line(answer)), style="dim"))
    screen.print(_bar(answer))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for (name, size), (_, style) in zip(_sizes(answer), _PARTS, strict=True):
        table.add_row(Text(f"■ {name}", style=style), gib(size))
    if answer.room.cards:
        table.add_row("□ free", gib(_free(answer)))
    table.add_row("on the host", gib(answer.account.host_weights_bytes + answer.account.host_kv_bytes))
    screen.print(table)
    for line in _notes(answer, created):
        screen.print(Text(console.safe(line)), soft_wrap=True)
    return out.getvalue()


def _bar(answer: Answer, width: int = 72) -> Any:
    """One bar over all cards; what does not fit sticks out in red."""
    from rich.text import Text

    room = sum(card.free for card in answer.room.cards) or answer.account.total_gpu_bytes
    bar, used, drawn = Text(), 0, 0
    for (_, size), (_, style) in zip(_sizes(answer), _PARTS, strict=True):
        used += size
        end = min(width, round(used / max(1, room) * width))
        bar.append("█" * (end - drawn), style=style)
        drawn = max(drawn, end)
    bar.append("░" * (width - drawn), style="dim")
    if used > room:
        bar.append(f" {gib(used - room)} too much", style="bold red")
    return bar


def _notes(answer: Answer, created: str | None) -> list[str]:
    from ..fit import modelfile_parameters, unit_environment

    lines = []
    if answer.choice is not None:
        for c in answer.choice.concessions:
            lines.append(f"concession: {c.what} {c.before} → {c.after}, saves {gib(c.saved_bytes)}; {c.cost}")
        lines += [f"note: {remark}" for remark in answer.choice.remarks]
    parameters = modelfile_parameters(answer.settings, answer.num_gpu)
    lines.append("Modelfile:  " + "  ".join(f"PARAMETER {k} {v}" for k, v in parameters.items()))
    unit = unit_environment(answer.settings, max(1, len(answer.room.cards)), answer.shares)
    lines.append("unit:       " + "  ".join(f"{k}={v}" for k, v in unit.items()))
    if created is not None:
        lines.append(f"created; its Modelfile is {created}")
    return lines
