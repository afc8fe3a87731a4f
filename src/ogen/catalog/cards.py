"""Model cards: from a library tag to the shape of a model in one quantisation."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import source
from ..errors import CatalogError
from . import gguf, layout, stored
from .mixture import QUANTS, quantise
from .shape import ModelShape, shape_of

_FILE = Path(__file__).with_name("data") / "models.yaml"
#: mixtures that a `*` in a tag stands for, as the library spells them
_SPELLINGS = {
    "F16": ("fp16", "f16"), "BF16": ("bf16",), "Q8_0": ("q8_0",), "Q6_K": ("q6_K",), "Q5_K_M": ("q5_K_M",),
    "Q5_K_S": ("q5_K_S",), "Q5_1": ("q5_1",), "Q5_0": ("q5_0",), "Q4_K_M": ("q4_K_M",),
    "Q4_K_S": ("q4_K_S",), "Q4_1": ("q4_1",), "Q4_0": ("q4_0",), "Q3_K_L": ("q3_K_L",),
    "Q3_K_M": ("q3_K_M",), "Q3_K_S": ("q3_K_S",), "Q2_K": ("q2_K",),
}  # fmt: skip
WAYS = (
    "`ogen catalog add FILE-OR-URL` makes a card from any GGUF; `from: ./model.gguf` reads one directly; "
    "`card: NAME` says which known model it is"
)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model in all its quantisations; `shapes` holds those that were read from a file."""

    name: str
    tags: tuple[tuple[str, str], ...]  # (library tag, quantisation)
    default: str
    params: float  # published, in 1e9
    source: str
    sizes: layout.Sizes | None = None
    shapes: tuple[ModelShape, ...] = ()

    def quants(self) -> tuple[str, ...]:
        """Quantisations that a shape can be given for, best first."""
        if self.sizes is None:
            return tuple(s.quant for s in self.shapes)
        if self.sizes.has("expert_bias"):
            return ("MXFP4_BF16", "MXFP4")
        return tuple(q for q in QUANTS if q not in ("F32", "MXFP4"))

    def shape(self, quant: str | None = None) -> ModelShape:
        """The shape in `quant`, or in the library's default; raises CatalogError for one not offered."""
        wanted = spelled(quant or self.default)
        if wanted not in self.quants():
            raise CatalogError(
                f"{self.name} is not known as {quant}", hint=f"known are {', '.join(self.quants())}"
            )
        if self.sizes is None:
            return next(s for s in self.shapes if s.quant == wanted)
        return _built(self, wanted)


@lru_cache(maxsize=512)
def _built(card: ModelCard, quant: str) -> ModelShape:
    sizes = card.sizes
    assert sizes is not None
    table = quantise(
        layout.tensors(sizes),
        quant,
        blocks=sizes.blocks,
        gqa=sizes.heads // max(1, sizes.kv_heads),
        experts=sizes.experts,
    )
    shape = shape_of(layout.metadata(sizes), table, name=card.name, source=card.source)
    return replace(shape, quant=quant)


def find_model(
    ref: str, quant: str | None = None, card: str | None = None, *, folder: Path | None = None
) -> ModelShape:
    """The shape of what `ref` names: a library tag, an `hf.co/…` repository or a path of a GGUF file.

    `quant` overrides the tag's quantisation, `card` says which card it is; `folder` holds cards of the
    user's own and is what a path is relative to. Raises CatalogError, naming the ways to add a model.
    """
    if card is not None:
        return _by_name(card, folder).shape(quant or _quant_in(ref))
    if ref.lower().endswith(".gguf") and not ref.startswith("hf.co/"):
        return _of_file(ref, folder)
    entry = _tags(folder).get(_full(ref))
    if entry is not None:
        found, tagged = entry
        return found.shape(quant or tagged)
    loose = _loose(ref, folder)
    if loose is not None:
        usual = "Q4_K_M" if "Q4_K_M" in loose.quants() else None  # what Ollama takes of a repository
        return loose.shape(quant or _quant_in(ref) or usual)
    raise _unknown(ref, folder)


def tag_names(folder: Path | None = None) -> tuple[str, ...]:
    """All library tags that are known, sorted."""
    return tuple(sorted(_tags(folder)))


def cards(folder: Path | None = None) -> tuple[ModelCard, ...]:
    """The shipped cards, and those in `folder`/cards, which come first."""
    if folder is None:
        return _shipped()
    return _own(folder, stored.stamps(folder)) + _shipped()


@lru_cache(maxsize=64)
def _own(folder: Path, stamps: tuple[tuple[str, int], ...]) -> tuple[ModelCard, ...]:
    """Cards of a folder; `stamps` are its files' names and times, so that a change is seen."""
    by_name: dict[str, list[ModelShape]] = {}
    for file, _ in stamps:
        shape = stored.load(folder / stored.FOLDER / file)
        by_name.setdefault(shape.name, []).append(shape)
    return tuple(
        ModelCard(
            name,
            tuple((tag, shape.quant) for shape in shapes for tag in shape.tags),
            shapes[0].quant,
            0.0,
            shapes[0].source,
            None,
            tuple(shapes),
        )
        for name, shapes in by_name.items()
    )


def _of_file(ref: str, folder: Path | None) -> ModelShape:
    """The shape of a GGUF file; an inventory may not name one outside of its project."""
    path = Path(ref) if folder is None else folder / ref
    if folder is not None and not path.resolve().is_relative_to(folder.resolve()):
        raise CatalogError(
            f"{ref} lies outside of the project", hint="put the file, or a link's target, inside"
        )
    return gguf.read(path).shape(source=f"the GGUF header of {path.name}")


def spelled(quant: str) -> str:
    """The usual spelling of a quantisation: "q4_k_m" → "Q4_K_M", "fp16" → "F16"."""
    upper = quant.upper()
    return "F16" if upper == "FP16" else upper


# --------------------------------------------------------------------------------------- look-ups
def _by_name(name: str, folder: Path | None) -> ModelCard:
    for card in cards(folder):
        if card.name == name:
            return card
    names = [c.name for c in cards(folder)]
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise CatalogError(f"no card called {name[:80]!r}", hint=hint + "`ogen catalog list` shows all")


def _full(ref: str) -> str:
    """The tag with its default parts: "llama3.1" → "llama3.1:latest"; the registry's own prefixes go."""
    name = ref.removeprefix("registry.ollama.ai/").removeprefix("library/")
    return (name if ":" in name else f"{name}:latest").lower()


def _tags(folder: Path | None) -> Mapping[str, tuple[ModelCard, str]]:
    return _index(cards(folder))


@lru_cache(maxsize=64)
def _index(known: tuple[ModelCard, ...]) -> Mapping[str, tuple[ModelCard, str]]:
    index: dict[str, tuple[ModelCard, str]] = {}
    for card in known:
        for tag, quant in card.tags:
            index.setdefault(_full(tag), (card, quant))
    return index


_QUANT = re.compile(
    r"(?:^|[-:._/])((?:I?Q[1-8]_[A-Z0-9_]+)|FP16|F16|BF16|F32|MXFP4)(?:\.GGUF)?$", re.IGNORECASE
)


def _quant_in(ref: str) -> str | None:
    """The quantisation that stands at the end of a reference."""
    match = _QUANT.search(ref)
    return spelled(match[1]) if match else None


def _loose(ref: str, folder: Path | None) -> ModelCard | None:
    """The card of a repository such as hf.co/someone/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M, by its name.

    Only names that are a card's with usual words around it count; anything else stays unknown.
    """
    if "/" not in ref:
        return None
    repository = ref.split("/")[-1].split(":")[0]
    words = re.sub(
        r"(?i)\b(meta|gguf|instruct|it|chat|google|microsoft|mistralai|qwen_|v0\.[0-9])\b", "", repository
    )
    plain = re.sub(r"[^a-z0-9.]", "", words.lower())
    for card in cards(folder):
        if re.sub(r"[^a-z0-9.]", "", card.name) == plain:
            return card
    return None


def _unknown(ref: str, folder: Path | None) -> CatalogError:
    near = difflib.get_close_matches(_full(ref), list(_tags(folder)), n=3, cutoff=0.75)
    hint = f"did you mean {' or '.join(near)}? Else: {WAYS}" if near else WAYS
    return CatalogError(f"nothing is known about the model {ref[:120]!r}", hint=hint)


# ---------------------------------------------------------------------------------------- reading
@lru_cache(maxsize=1)
def _shipped() -> tuple[ModelCard, ...]:
    node = source.read(_FILE, "catalog/data/models.yaml")
    sources = node.value["sources"].plain()
    return tuple(_card(name, entry.plain(), sources) for name, entry in node.value["models"].items())


def _card(name: str, entry: Mapping[str, Any], sources: Mapping[str, str]) -> ModelCard:
    blocks, embedding, heads, kv_heads, feed_forward, vocab, context = entry["sizes"]
    experts, used, width = entry.get("experts", (0, 0, 0))
    sizes = layout.Sizes(
        entry["arch"], blocks, embedding, heads, kv_heads, vocab, context, feed_forward,
        head=entry.get("head", 0),
        experts=experts,
        experts_used=used,
        expert_feed_forward=width,
        shared_feed_forward=entry.get("shared", 0),
        dense_blocks=entry.get("dense_blocks", 0),
        window=entry.get("window", 0),
        rope=entry.get("rope", 0),
        kv_rank=entry.get("kv_rank", 0),
        value_head=entry.get("value_head", 0),
        flags=frozenset(entry.get("flags", ())),
    )  # fmt: skip
    said = sources[entry.get("source", "config")]
    return ModelCard(name, tuple(_expand(entry)), entry["default"], entry["params"], said, sizes)


def _expand(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    tags = []
    for tag in entry["tags"]:
        if not tag.endswith("*"):
            tags.append((tag, entry["default"]))
            continue
        for quant, spellings in _SPELLINGS.items():
            tags.extend((tag[:-1] + spelling, quant) for spelling in spellings)
    return tags
