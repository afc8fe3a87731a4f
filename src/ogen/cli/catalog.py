"""`ogen catalog`: the models and GPUs that are known, and a way to add one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from . import console, options

if TYPE_CHECKING:
    from ..catalog import ModelShape


@click.group()
def command() -> None:
    """Show the models and GPUs that are known, or add a model."""


@command.command("list")
@click.argument("text", required=False)
@click.option("--gpus", is_flag=True, help="GPUs instead of models.")
@options.shape("text", "json", "markdown")
def list_(text: str | None, gpus: bool, shape: str) -> None:
    """List models, or GPUs; TEXT picks those whose name or tag holds it."""
    head, rows = (_gpu_rows if gpus else _model_rows)(text)
    if shape == "json":
        key = "gpus" if gpus else "models"
        console.document({key: [dict(zip(head, row, strict=True)) for row in rows], "errors": []})
    elif shape == "markdown":
        console.out("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
        for row in rows:
            console.out("| " + " | ".join(map(_cell, row)) + " |")
    else:
        _columns(head, rows)


@command.command()
@click.argument("name")
@click.option("--quant", metavar="Q", help="Another quantisation than the tag's.")
@options.shape("text", "json")
def show(name: str, quant: str | None, shape: str) -> None:
    """Show the card of one model (a tag, a card's name) or of a GPU."""
    from ..catalog import cards, find_gpu, find_model, gpus

    known_gpu = any(name.lower() in (g.name.lower(), *map(str.lower, g.aliases)) for g in gpus())
    if known_gpu:
        values = _gpu_values(find_gpu(name))
    else:
        card = name if any(c.name == name for c in cards(Path.cwd())) else None
        found = find_model(name, quant, card, folder=Path.cwd())
        values = _model_values(found)
    if shape == "json":
        console.document({"card": values, "errors": []})
        return
    width = max(map(len, values))
    for key, value in values.items():
        console.out(f"{key:<{width}}  {_cell(value)}")


@command.command()
@click.argument("origin", metavar="FILE|URL")
@click.option("--name", help="The card's name; the file's own if not given.")
@click.option("--tag", "tags", multiple=True, help="A name that inventories use for it; may be repeated.")
@click.option("--server", metavar="URL", help="Ask this Ollama server about the model FILE instead.")
@options.shape("text", "json")
def add(origin: str, name: str | None, tags: tuple[str, ...], server: str | None, shape: str) -> None:
    """Make a card of a GGUF file, in the folder cards/ of this project; only the header is read.

    URL is http(s)://…, or ssh://[user@]host[:port]/path for a file on a host, such as a blob of its store."""
    from ..catalog import stored

    found = _read(origin, server)
    card = replace(found, name=stored.checked_name(name or found.name), tags=tags or (name or found.name,))
    path = Path(stored.FOLDER) / stored.file_name(f"{card.name}-{card.quant}")
    if path.exists():
        raise UsageError(f"{path} exists already", hint="remove it, or give another --name")
    path.parent.mkdir(exist_ok=True)
    path.write_text(stored.dump(card), encoding="utf-8")
    if shape == "json":
        console.document({"path": str(path), "card": _model_values(card), "errors": []})
    else:
        console.out(f"{path}: {card.name} {card.quant}, known as {', '.join(card.tags)}")


def _read(origin: str, server: str | None) -> ModelShape:
    from ..catalog import remote
    from . import headers

    if server is not None:
        return remote.show(server, origin)
    place = f"at {origin}" if headers.is_url(origin) else f"of {Path(origin).name}"
    return headers.header(origin).shape(source=f"the GGUF header {place}")


# -------------------------------------------------------------------------------------------- rows
def _model_rows(text: str | None) -> tuple[list[str], list[list[Any]]]:
    from ..catalog import cards

    head = ["card", "architecture", "params", "default", "context", "tags"]
    rows = []
    for card in cards(Path.cwd()):
        names = [tag for tag, _ in card.tags]
        if text and not any(text.lower() in name.lower() for name in [card.name, *names]):
            continue
        sizes, shape = card.sizes, card.shapes[0] if card.shapes else None
        arch = sizes.arch if sizes else shape.arch if shape else ""
        context = sizes.context if sizes else shape.context_train if shape else 0
        short = [name for name in names if not name.lower().endswith(_ENDINGS)]
        params = f"{card.params:.3g}B" if card.params else ""
        rows.append([card.name, arch, params, card.default, context, ", ".join(short[:4])])
    return head, rows


_KINDS = ("0", "1", "k", "k_s", "k_m", "k_l")
_ENDINGS = ("fp16", "f16", "bf16", *(f"q{n}_{kind}" for n in range(2, 9) for kind in _KINDS))


def _gpu_rows(text: str | None) -> tuple[list[str], list[list[Any]]]:
    from ..catalog import gpus

    head = ["gpu", "vendor", "vram_mib", "compute", "bandwidth_gbs"]
    found = [g for g in gpus() if not text or any(text.lower() in n.lower() for n in (g.name, *g.aliases))]
    return head, [[g.name, g.vendor, g.vram // 2**20, g.compute, g.bandwidth_gbs] for g in found]


def _gpu_values(gpu: Any) -> dict[str, Any]:
    return {
        "name": gpu.name,
        "vendor": gpu.vendor,
        "vram_bytes": gpu.vram,
        "compute": gpu.compute,
        "bandwidth_gbs": gpu.bandwidth_gbs,
        "aliases": list(gpu.aliases),
        "source": gpu.source,
    }


def _model_values(shape: ModelShape) -> dict[str, Any]:
    return {
        "name": shape.name,
        "architecture": shape.arch,
        "quantisation": shape.quant,
        "blocks": shape.blocks,
        "embedding": shape.embedding,
        "heads": shape.heads,
        "kv_heads": max(shape.kv_heads),
        "key_length": shape.key_length,
        "value_length": shape.value_length,
        "feed_forward": shape.feed_forward,
        "vocab": shape.vocab,
        "context_train": shape.context_train,
        "experts": shape.experts,
        "experts_used": shape.experts_used,
        "window": shape.window,
        "tied": shape.tied,
        "tensor_bytes": shape.tensor_bytes,
        "token_embd_bytes": shape.embd_bytes,
        "output_bytes": shape.output_bytes,
        "block_bytes_least": min(shape.block_bytes),
        "block_bytes_most": max(shape.block_bytes),
        "source": shape.source,
    }


def _cell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)


def _columns(head: list[str], rows: list[list[Any]]) -> None:
    table = [head, *[[_cell(value) for value in row] for row in rows]]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    for row in table:
        console.out("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
