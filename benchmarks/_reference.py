"""The quick-reference table of docs/fit.md: what really runs on cards of 6 to 48 GB."""

from __future__ import annotations

from ogen.catalog import find_gpu, find_model
from ogen.fit import Card, Choice, DoesNotFit, Wishes, choose

CARDS = (
    ("6 GB", "RTX 2060", 1),
    ("8 GB", "RTX 4060", 1),
    ("12 GB", "RTX 3060", 1),
    ("16 GB", "RTX 4060 Ti 16GB", 1),
    ("24 GB", "RTX 3090", 1),
    ("48 GB", "RTX A6000", 1),
    ("2 × 24 GB", "RTX 3090", 2),
)
MODELS = (
    "llama3.2:3b-instruct-q4_K_M",
    "llama2:7b-chat-q4_K_M",
    "llama3.1:8b-instruct-q4_K_M",
    "llama2:13b-chat-q4_K_M",
    "llama2:13b-chat-q8_0",
    "qwen3:14b-q4_K_M",
    "qwen3:30b-a3b-q4_K_M",
    "qwen2.5:32b-instruct-q4_K_M",
    "llama3.1:70b-instruct-q4_K_M",
)
CONTEXT = 4096


def quick_reference() -> str:
    """Markdown: what fits with a context of 4096 and a 16-bit cache, and what is left then."""
    head = ["model", *(f"{size}<br>{name}" for size, name, _ in CARDS)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---|" * len(CARDS)]
    for tag in MODELS:
        cells = [_cell(tag, name, count) for _, name, count in CARDS]
        lines.append("| " + " | ".join([f"`{tag}`", *cells]) + " |")
    return "\n".join(lines)


def _cell(tag: str, gpu: str, count: int) -> str:
    """Either how much stays free, or how many layers (or experts) stay on the card."""
    vram = find_gpu(gpu).vram
    cards = [Card(vram, vram)] * count
    wishes = Wishes(
        context=CONTEXT, kv_cache_at_least="f16", gpu_layers_at_least=0, order=("experts", "gpu_layers")
    )
    try:
        choice = choose([(tag, find_model(tag))], wishes, cards)
    except DoesNotFit:
        return "no"
    return _words(choice, sum(card.free for card in cards))


def _words(choice: Choice, room: int) -> str:
    need = choice.account
    if choice.verdict == "full":
        return f"full, {(room - need.total_gpu_bytes) / 2**30:.1f} GiB free"
    if choice.settings.experts_on_host:
        return f"experts of {choice.settings.experts_on_host} layers on the host"
    return f"{need.layers} of {need.layers_total} layers"
