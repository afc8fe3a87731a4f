"""What `ogen bench` shows: a run, a sweep, two runs side by side. Pure: values to lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..plan.picture import gib
from ..release.plaintext import one_line
from .bench_compare import Change, Comparison
from .bench_figures import Figure, Step
from .bench_hosts import CardUse, Shares

BAR = 24
LATE = 0.05  # of the median latency: more than that, and the client is part of what it measures
WORDS = {
    "better": "better",
    "worse": "WORSE",
    "same": "no difference beyond noise",
    "unsure": "too few requests",
}


@dataclass(frozen=True, slots=True)
class Client:
    """How well the client itself kept up: seconds late (99 % of the time less), share of a core."""

    late: float
    cpu: float

    def slow(self, step: Step) -> bool:
        median = step.latency.get("p50")
        return bool(median and self.late > LATE * median.value) or self.cpu > 0.9


@dataclass(frozen=True, slots=True)
class Run:
    """A step with what was seen beside it."""

    step: Step
    client: Client
    shares: Shares = field(default_factory=Shares)
    cards: tuple[CardUse, ...] = ()


# ------------------------------------------------------------------------------------------ one run
def run(one: Run) -> Iterator[str]:
    """Every figure, a line for each kind."""
    step = one.step
    answered = f"{step.requests} answered, {step.failed} failed"
    yield f"{step.concurrency} at once: {answered}, in {seconds(step.seconds)}"
    for why, count in step.errors.items():
        yield f"  failed        {count} × {one_line(why)}"
    if step.requests_per_second:
        tokens = step.tokens_per_second
        yield f"  throughput    {_rate(step.requests_per_second, 'requests/s')}" + (
            f"   {_rate(tokens, 'tokens/s')}" if tokens else ""
        )
    yield from _spread("latency", step.latency)
    yield from _spread("first token", step.first_token)
    if step.speed:
        middle, least = step.speed["p50"].value, step.speed["least"].value
        yield f"  one answer    {number(middle)} tokens/s (p50), the slowest {number(least)}"
    yield from _shares(one.shares)
    yield from _cards(one.cards)
    if one.client.slow(step):
        late, cpu = seconds(one.client.late), f"{one.client.cpu:.0%} of a core"
        yield f"  note: this client was {late} late (p99) and took {cpu}: latencies are upper bounds"


def _spread(name: str, found: Mapping[str, Figure]) -> Iterator[str]:
    if found:
        parts = [f"{p} {seconds(found[p].value)}" for p in ("mean", "p50", "p95", "p99")]
        yield f"  {name:<13} {'   '.join(parts)}   most {seconds(found['most'].value)}"


def _rate(figure: Figure, unit: str) -> str:
    if figure.high is None:
        return f"{number(figure.value)} {unit}"
    share = (figure.high - figure.value) / figure.value if figure.value else 0
    return f"{number(figure.value)} {unit} ± {100 * share:.1f} %"


def _shares(found: Shares) -> Iterator[str]:
    total, wide = sum(found.by_instance.values()), max(map(len, found.by_instance), default=0)
    most = max(found.by_instance.values(), default=1)
    for index, (name, count) in enumerate(found.by_instance.items()):
        bar = "█" * max(1, round(BAR * count / most))
        head = "by instance" if not index else ""
        yield f"  {head:<13} {one_line(name):<{wide}}  {bar:<{BAR}}  {count:>6}  {count / total:>4.0%}"
    if found.others:
        yield f"  {'':<13} {found.others} requests of others were served meanwhile"
    for remark in found.remarks:
        yield f"  note: {one_line(remark)}"


def _cards(cards: Sequence[CardUse]) -> Iterator[str]:
    wide = max((len(f"{card.host} card {card.index}") for card in cards), default=0)
    for index, card in enumerate(cards):
        name = one_line(f"{card.host} card {card.index}")
        busy = "busy ?" if card.busy is None else f"busy {card.busy:3.0f} % (most {card.busy_most:.0f})"
        memory = f"VRAM {gib(card.used_most).removesuffix(' GiB')} of {gib(card.total)}"
        yield f"  {'cards' if not index else '':<13} {name:<{wide}}  {busy}   {memory}"


# ------------------------------------------------------------------------------------------ a sweep
def sweep(runs: Sequence[Run], knee: int | None) -> Iterator[str]:
    """A line for each step; the knee is marked."""
    yield (
        f"{'at once':>7}  {'requests/s':>10}  {'tokens/s':>9}  {'latency p50':>11}  {'p95':>8}  {'p99':>8}"
        f"  {'first p50':>9}  {'p95':>8}  {'failed':>6}"
    )
    for one in runs:
        step = one.step
        cells = (
            (f"{step.concurrency}", 7),
            (_value(step.requests_per_second, number), 10),
            (_value(step.tokens_per_second, number), 9),
            *((_value(step.latency.get(p), seconds), w) for p, w in (("p50", 11), ("p95", 8), ("p99", 8))),
            *((_value(step.first_token.get(p), seconds), w) for p, w in (("p50", 9), ("p95", 8))),
            (f"{step.failed}", 6),
        )
        mark = "  <- knee" if step.concurrency == knee else ""
        yield "  ".join(f"{text:>{width}}" for text, width in cells) + mark
        if one.client.slow(step):
            yield f"         note: this client was {seconds(one.client.late)} late (p99)"
    if knee is not None:
        yield f"knee: {knee} at once, the least that reaches 95 % of the best throughput"


def _value(figure: Figure | None, form: object) -> str:
    return form(figure.value) if figure and callable(form) else "-"


# ---------------------------------------------------------------------------------------- two runs
def comparison(found: Comparison, before: str, after: str) -> Iterator[str]:
    """Figures of both with their ratio, and whether that is more than noise."""
    for remark in found.remarks:
        yield f"note: {one_line(remark)}"
    yield f"A {one_line(before)}"
    yield f"B {one_line(after)}"
    shown = None
    for change in found.changes:
        if change.concurrency != shown:
            shown = change.concurrency
            yield f"{f'{shown} at once':<26}  {'A':>9}  {'B':>9}  {'B by A':>7}  {'95 % of chances':>15}"
        yield _change(change)


def _change(change: Change) -> str:
    form = seconds if change.name.startswith(("latency", "first")) else number
    span = "" if change.low is None else f"×{change.low:.2f}–{change.high:.2f}"
    return (
        f"  {change.name:<24}  {form(change.before):>9}  {form(change.after):>9}  {f'×{change.ratio:.2f}':>7}"
        f"  {span:>15}  {WORDS[change.verdict]}"
    )


# ------------------------------------------------------------------------------------------ figures
def number(value: float) -> str:
    """Three figures."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def seconds(value: float) -> str:
    """Three figures, in the unit that suits."""
    if value < 0.9995:
        return f"{number(1000 * value)} ms"
    return f"{number(value)} s" if value < 600 else f"{value / 60:.1f} min"
