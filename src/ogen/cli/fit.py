"""`ogen fit`: does a model fit on a card, with which concessions."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from . import options

if TYPE_CHECKING:
    from ..catalog import ModelShape
    from ..fit import Account, Card, Choice, Settings, Wishes

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)(B?)", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


class Size(click.ParamType):  # type: ignore[type-arg]
    """Such as 24GiB, 24576MiB, 8GB; a number alone counts bytes, a letter alone is binary (8G = 8GiB)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(str(value).strip()) if len(str(value)) < 40 else None
        if found is None:
            self.fail(f"{value!r} is no size; sizes look like 24GiB or 8192MiB", param, ctx)
        number, letter, binary, byte = found.groups()
        step = 1000 if byte and letter and not binary else 1024
        return int(float(number) * step ** _POWERS[letter.upper()])


@dataclass(frozen=True, slots=True)
class Room:
    """The cards that are asked about, and what they are called."""

    cards: tuple[Card, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the views show: one configuration, and whether it fits (None: no card was named)."""

    shape: ModelShape
    settings: Settings
    account: Account
    room: Room
    fits: bool | None
    verdict: str
    choice: Choice | None  # None with --no-concessions
    num_gpu: int | None
    shares: tuple[float, ...]


@click.command()
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option(
    "--gguf", metavar="FILE|URL", multiple=True, help="A GGUF file instead; only its header is read."
)
@click.option(
    "--quant", metavar="Q,Q…", help="Quantisations that would do, best first; the tag's if not given."
)
@click.option("--card", metavar="NAME", help="The catalog card behind MODEL, where its name does not tell.")
@click.option("--gpu", metavar="NAME", help='A card of the catalog, such as "RTX 3090".')
@click.option("--vram", type=Size(), metavar="SIZE", help="The card's memory as its driver reports it.")
@click.option("--reserve", type=Size(), default=0, metavar="SIZE", help="What others hold on each card.")
@click.option("--cards", type=click.IntRange(1, 64), default=1, show_default=True, help="Equal cards.")
@click.option("--local", is_flag=True, help="The NVIDIA cards of this machine, as they are now.")
@click.option("--backend", type=click.Choice(["cuda", "vulkan", "rocm"]), help="By the card, else cuda.")
@click.option(
    "--context",
    metavar="N",
    type=click.IntRange(4, 2**24),
    default=4096,
    show_default=True,
    help="Tokens of one slot.",
)
@click.option(
    "--context-at-least", metavar="N", type=click.IntRange(4, 2**24), help="2048, or less where --context is."
)
@click.option(
    "--parallel",
    metavar="N",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="Slots: requests served at once.",
)
@click.option(
    "--batch", metavar="N", type=click.IntRange(1, 2**20), help="num_batch; Ollama's choice if not given."
)
@click.option("--batch-at-least", metavar="N", type=click.IntRange(32, 2**20), default=128, show_default=True)
@click.option("--kv-cache", type=click.Choice(["f16", "q8_0", "q4_0"]), help="f16 if not given.")
@click.option("--kv-cache-at-least", type=click.Choice(["f16", "q8_0", "q4_0"]))
@click.option("--flash-attention", type=click.Choice(["on", "off"]), help="By the version if not given.")
@click.option("--gpu-layers", metavar="N|auto", default="auto", show_default=True, help="Layers on the card.")
@click.option("--gpu-layers-at-least", metavar="N", type=click.IntRange(0), default=0, show_default=True)
@click.option("--kv-on-host", is_flag=True, help="The KV cache in host memory (the old low_vram).")
@click.option("--kv-unified", is_flag=True, help="One KV cache for all slots; with --no-concessions.")
@click.option(
    "--experts-on-host",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    help="Layers of a MoE model; with --no-concessions.",
)
@click.option("--split", type=click.Choice(["layer", "row", "tensor"]), default="layer", show_default=True)
@click.option(
    "--shares", metavar="A,B…", help="How several cards divide a model; by free memory if not given."
)
@click.option("--order", metavar="A,B…", help="Order of the concessions; those left out are not made.")
@click.option(
    "--margin", type=Size(), metavar="SIZE", help="Left free on each card; the version's if not given."
)
@click.option("--ollama-version", metavar="V", default="0.32.15", show_default=True)
@click.option("--no-concessions", is_flag=True, help="The account of exactly these settings.")
@click.option("--create", metavar="NAME", help="Create the model that fits now on the local Ollama.")
@options.shape("text", "json", "markdown")
def command(**given: Any) -> None:
    """Say whether a model fits on a card, and with which concessions.

    \b
    ogen fit llama3.1:8b --gpu "RTX 3060" --context 16384
    ogen fit --gguf model.gguf --vram 24GiB --parallel 4
    ogen fit qwen3:30b-a3b --local --create qwen-here
    """
    from . import fit_view

    if not given["no_concessions"] and (given["kv_unified"] or given["experts_on_host"]):
        raise UsageError("--kv-unified and --experts-on-host go with --no-concessions")
    candidates = _candidates(given)
    room = _room(given)
    wishes = _wishes(given, room)
    answer = (
        _exact(candidates, given, wishes, room)
        if given["no_concessions"]
        else _best(candidates, wishes, room)
    )
    created = None
    if given["create"]:
        from .fit_create import create

        created = create(given["create"], _origin(given, answer), answer)
    fit_view.show(answer, given["shape"], created)


# ------------------------------------------------------------------------------------- what is asked
def _candidates(given: dict[str, Any]) -> list[tuple[str, ModelShape]]:
    """(source, shape), best first: files, or models in the quantisations that would do."""
    from ..catalog import find_model
    from .headers import header

    if bool(given["models"]) == bool(given["gguf"]):
        raise UsageError("name a MODEL or a --gguf file", hint="`ogen catalog list` shows the models known")
    if given["gguf"]:
        return [(ref, header(ref).shape(source="the GGUF header")) for ref in given["gguf"]]
    quants = given["quant"].split(",") if given["quant"] else [None]
    return [
        (model, find_model(model, quant, given["card"], folder=Path.cwd()))
        for model in given["models"]
        for quant in quants
    ]


def _origin(given: dict[str, Any], answer: Answer) -> str:
    """Where the chosen candidate comes from: a library tag or a file."""
    if answer.choice is not None:
        return answer.choice.source
    return str((given["gguf"] or given["models"])[0])


def _room(given: dict[str, Any]) -> Room:
    from ..catalog import find_gpu
    from ..fit import Card

    if given["local"]:
        from .fit_local import cards

        return cards(given["reserve"])
    if given["gpu"]:
        known = find_gpu(given["gpu"])
        vram = given["vram"] or known.vram
        given["backend"] = given["backend"] or ("rocm" if known.vendor == "amd" else "cuda")
        name = known.name
    elif given["vram"]:
        vram, name = given["vram"], "a card"
    elif given["no_concessions"]:
        return Room((), ())
    else:
        raise UsageError("on which card?", hint="--vram 24GiB, --gpu NAME or --local")
    card = Card(vram, max(0, vram - given["reserve"]))
    return Room((card,) * given["cards"], (name,) * given["cards"])


def _wishes(given: dict[str, Any], room: Room) -> Wishes:
    from ..fit import ORDER, Wishes

    layers = _layers(given["gpu_layers"])
    return Wishes(
        context=given["context"],
        context_at_least=min(given["context"], given["context_at_least"] or 2048),
        parallel=given["parallel"],
        batch=given["batch"],
        batch_at_least=given["batch_at_least"],
        kv_cache=given["kv_cache"],
        kv_cache_at_least=given["kv_cache_at_least"],
        num_gpu=layers,
        gpu_layers_at_least=given["gpu_layers_at_least"] if layers is None else None,
        low_vram=given["kv_on_host"],
        flash_attention={"on": True, "off": False}.get(given["flash_attention"]),
        version=given["ollama_version"],
        backend=given["backend"] or "cuda",
        order=tuple(given["order"].split(",")) if given["order"] else ORDER,
        split=given["split"],
        shares=_shares(given["shares"], len(room.cards)),
        margin=given["margin"],
    )


def _layers(text: str) -> int | None:
    if text == "auto":
        return None
    if not re.fullmatch(r"-1|\d{1,5}", text):
        raise UsageError(f"--gpu-layers {text}: a number of layers or auto")
    return None if text == "-1" else int(text)


def _shares(text: str | None, cards: int) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--shares {text}: numbers such as 3,1") from None
    if len(shares) != cards or min(shares) < 0 or sum(shares) <= 0:
        raise UsageError(f"--shares {text}: one share for each of {cards} cards")
    return shares


# ---------------------------------------------------------------------------------------- the answer
def _best(candidates: list[tuple[str, ModelShape]], wishes: Wishes, room: Room) -> Answer:
    from ..fit import choose

    choice = choose(candidates, wishes, room.cards)
    shape = candidates[choice.candidate][1]
    return Answer(
        shape,
        choice.settings,
        choice.account,
        room,
        True,
        choice.verdict,
        choice,
        choice.num_gpu,
        wishes.shares,
    )


def _exact(
    candidates: list[tuple[str, ModelShape]], given: dict[str, Any], wishes: Wishes, room: Room
) -> Answer:
    """The account of the first candidate with exactly the settings given."""
    from ..fit import account, wished_settings
    from ..fit.ladder import verdict_of

    shape = candidates[0][1]
    settings = replace(
        wished_settings(shape, wishes),
        context=wishes.context,  # as asked, beyond what the model was trained for too
        parallel=wishes.parallel,
        kv_unified=given["kv_unified"],
        experts_on_host=given["experts_on_host"],
        kv_on_host=given["kv_on_host"],
    )
    shares = wishes.shares or tuple(float(card.free) for card in room.cards)
    need = account(shape, settings, cards=max(1, len(room.cards)), shares=shares)
    fits = None
    if room.cards:
        fits = all(size <= card.free for size, card in zip(need.per_card, room.cards, strict=True))
    return Answer(
        shape,
        settings,
        need,
        room,
        fits,
        verdict_of(need, settings),
        None,
        settings.gpu_layers,
        wishes.shares,
    )
