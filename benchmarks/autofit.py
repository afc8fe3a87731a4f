"""Autofit beside the article's auto_offload.sh, on one script of what others hold on the card.

python benchmarks/autofit.py            the table and the sums of docs/autofit.md

The rungs and what each needs are the plan's, the decision is templates/autofit.py's own. The article's rule:
memory.free of the first card, its own model's memory included, against a fixed size of the model; with less,
the percentage is written as num_gpu, which is a number of layers. It is run once a minute, as from cron.
What an engine makes of its settings is told by the account of VRAM: num_gpu -1 takes what fits, a number is
taken as it is. Others come first: a card is out of memory while both together ask for more than it has.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ogen import shipped
from ogen.catalog import ModelShape, find_model
from ogen.fit import Settings, account
from ogen.inventory.model import Autofit, Context, Gpu, Host, Inventory, Model, Rollout, Source
from ogen.plan import plan

GIB = 1 << 30
MIB = 1 << 20
CARD = 24 * GIB
TAG = "llama3.1:8b-instruct-q4_K_M"
SIZE = 5000  # MB: the article's MODEL_SIZES["llama3:8b-q4"]
LOOK, CRON = 10, 60  # seconds
#: from which minute on others hold how much
SCRIPT = (
    (0, 1.0),
    (10, 8.0),
    (20, 14.5),
    *((30 + minute, 14.5 if minute % 2 else 12.0) for minute in range(8)),
    (40, 17.5),
    (55, 1.0),
)
END = 75  # minutes


@dataclass(frozen=True)
class Loaded:
    """What is loaded from one time on: its bytes and layers on the card; 0 of 0 layers: it failed."""

    words: str
    held: int
    layers: int
    total: int

    @property
    def shown(self) -> str:
        if not self.total:
            return f"{self.words}: out of memory"
        return f"{self.words}: {self.layers} of {self.total} layers, {self.held / GIB:.1f} GiB"


@dataclass
class Sums:
    """Over the whole script."""

    loads: int = 0
    failed: int = 0  # loads
    short: int = 0  # seconds in which the card is out of memory
    silent: int = 0  # seconds without a model
    spilled: int = 0  # seconds with layers on the host

    def add(self, now: Loaded, others: int, seconds: int) -> None:
        self.short += seconds * (now.held + others > CARD)
        self.silent += seconds * (not now.total)
        self.spilled += seconds * (0 < now.layers < now.total)


def others_at(second: int) -> int:
    return int(next(gib for minute, gib in reversed(SCRIPT) if second >= minute * 60) * GIB)


# ----------------------------------------------------------------------------------------- autofit
def script() -> Any:
    path = shipped.folder("templates") / "autofit.py"
    spec = importlib.util.spec_from_file_location("autofit_script", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def autofit() -> Iterator[Loaded]:
    """What is loaded at each look."""
    core, settings = script(), Autofit()
    model = Model("chat", (Source(None, TAG),), Context(32768, 4096))
    host = Host("box", "192.0.2.1", gpus=(Gpu(0, "RTX 3090", "nvidia", CARD),), autofit=settings)
    rungs = plan(Inventory((host,), (model,), (), {}, Rollout(), ".", "script")).hosts[0].instances[0].rungs
    rules = core.Rules(LOOK, settings.hold, settings.margin, settings.per_hour)
    needs, known = [list(rung.need) for rung in rungs], core.mind(0)
    for second in range(0, END * 60, LOOK):
        known, decision = core.decide(needs, rules, known, second, [CARD - others_at(second)])
        if decision.to is not None:
            known = core.switched(known, decision.to, second)
        chosen, cache = rungs[known.at].placements[0], rungs[known.at].server.kv_cache or "f16"
        words = f"rung {known.at + 1}: {cache}, context {chosen.settings.context}"
        need = chosen.account
        yield Loaded(words, need.total_gpu_bytes - 1024 * MIB, need.layers, need.layers_total)


# ------------------------------------------------------------------------------------- the article
def article(shape: ModelShape) -> Iterator[Loaded]:
    """What is loaded at each look; the rule is asked once a minute."""
    now, rule = Loaded("", 0, 0, 0), ""
    for second in range(0, END * 60, LOOK):
        room = CARD - others_at(second)
        if second % CRON == 0:
            free = max(0, room - now.held) // MIB
            layers = -1 if free > SIZE else free * 100 // SIZE
            wanted = f"num_gpu {layers}" + ("" if layers < 0 else ", num_ctx 2048")
            if wanted != rule:  # another model of the same name: it is loaded anew
                rule, now = wanted, engine(shape, layers, room, wanted)
        yield now


def engine(shape: ModelShape, layers: int, room: int, words: str) -> Loaded:
    """-1: as many layers as leave a GiB free, with the context that Ollama gives a card of this size."""
    context = 32768 if layers < 0 else 2048
    counts = [min(layers, shape.layers)] if layers >= 0 else list(range(shape.layers, -1, -1))
    for count in counts:
        need = account(shape, Settings(context=context, gpu_layers=count, margin=0))
        if need.total_gpu_bytes + (1024 * MIB if layers < 0 else 0) <= room:
            return Loaded(words, need.total_gpu_bytes, count, shape.layers)
    return Loaded(words, 0, 0, 0)


# ------------------------------------------------------------------------------------------ tables
def play(states: Iterator[Loaded]) -> tuple[list[tuple[int, Loaded]], Sums]:
    """What was loaded when, and the sums."""
    changes: list[tuple[int, Loaded]] = []
    sums = Sums()
    for number, now in enumerate(states):
        second = number * LOOK
        if not changes or changes[-1][1] != now:
            changes.append((second, now))
            sums.loads += 1
            sums.failed += not now.total
        sums.add(now, others_at(second), LOOK)
    return changes, sums


def tables() -> list[str]:
    shape = find_model(TAG)
    mine, my_sums = play(autofit())
    theirs, their_sums = play(article(shape))
    steps = [(minute * 60, gib) for minute, gib in SCRIPT]
    times = sorted({second for second, _ in (*mine, *theirs, *steps)})
    lines = ["| time | others | autofit | auto_offload.sh |", "| --- | --- | --- | --- |"]
    for second in times:
        cells = [dict(steps).get(second), dict(mine).get(second), dict(theirs).get(second)]
        shown = [
            f"{cell:.1f} GiB" if isinstance(cell, float) else cell.shown if cell else "" for cell in cells
        ]
        lines.append(f"| {second // 60}:{second % 60:02d} | {' | '.join(shown)} |")
    lines += ["", "| over 75 minutes | autofit | auto_offload.sh |", "| --- | --- | --- |"]
    for words, name in (
        ("loads", "loads"),
        ("loads that failed", "failed"),
        ("seconds in which the card is out of memory", "short"),
        ("seconds without a model", "silent"),
        ("seconds with layers on the host", "spilled"),
    ):
        lines.append(f"| {words} | {getattr(my_sums, name)} | {getattr(their_sums, name)} |")
    return lines


def example() -> str:
    """The article's own call, ./auto_offload.sh llama3:70b-q4, on this card with nothing else on it."""
    shape, size = find_model("llama3:70b-instruct-q4_K_M"), 40000
    layers = CARD // MIB * 100 // size
    need = account(shape, Settings(context=2048, gpu_layers=layers, margin=0))
    return (
        f"`llama3:70b-q4` on an empty card: {CARD // MIB} MiB of {size} are {layers} %, "
        f"written as num_gpu {layers}: {layers} of {shape.layers} layers "
        f"need {need.total_gpu_bytes / GIB:.1f} GiB of {CARD // GIB}"
    )


def main() -> None:
    print("\n".join([*tables(), "", example()]))


if __name__ == "__main__":
    main()
