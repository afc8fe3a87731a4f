"""How a rollout ended: a row for each host, the failures with their hosts' last words, one exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import console, failure, steps
from .exits import Exit, worst

if TYPE_CHECKING:
    from ..push.results import HostResult, Outcome

_COLOUR = {
    "applied": "green",
    "unchanged": "",
    "planned": "yellow",
    "withheld": "yellow",
    "not_started": "yellow",
    "skipped": "yellow",
}


def show(outcome: Outcome, shape: str, *, applied: str = "applied") -> Exit:
    """Prints the outcome; `applied` is the word for a host on which it went well."""
    results = outcome.results
    if shape == "json":
        console.document(as_json(outcome))
    else:
        tell(outcome)
        words = [_word(result, applied) for result in results]
        _table(results, words)
        console.out(_summary(words))
    return exit_of(outcome)


def tell(outcome: Outcome) -> None:
    """The failures alone, for people."""
    for result in outcome.results:
        if result.error:
            console.tell(failure.as_text(result.error))


def as_json(outcome: Outcome) -> dict[str, Any]:
    errors = [failure.as_json(r.error) for r in outcome.results if r.error]
    return {"hosts": [row(r) for r in outcome.results], "errors": errors}


def exit_of(outcome: Outcome) -> Exit:
    """A host that is withheld, or was not started, only follows from others' failures: it counts where
    nothing else does."""
    late = ("withheld", "not_started")
    code = worst(r.error.exit_code for r in outcome.results if r.error and r.status not in late)
    return code or (Exit.FAILED if any(r.status in late for r in outcome.results) else Exit.DONE)


def row(result: HostResult) -> dict[str, Any]:
    return {
        "host": result.host,
        "status": result.status,
        "message": result.message,
        "before": result.before,
        "after": result.after,
        "seconds": round(result.seconds, 2),
        "restarted": list(result.restarted),
        "skipped": list(result.skipped),
        "without": list(result.without),
        "unused": {"models": list(result.unused.models), "bytes": result.unused.bytes},
        "steps": [step.document() for step in result.steps],
    }


def _word(result: HostResult, applied: str) -> str:
    return applied if result.status == "applied" else result.status.replace("_", " ")


def _table(results: Sequence[HostResult], words: Sequence[str]) -> None:
    """Aligned columns: host, how it ended, from which release to which, and what was restarted."""
    wide = max((len(console.safe(result.host)) for result in results), default=0)
    span = max(map(len, words), default=0)
    for result, word in zip(results, words, strict=True):
        colour = _COLOUR.get(result.status, "red")
        shown = console.paint(word.ljust(span), colour) if colour else word.ljust(span)
        rest = "  ".join(part for part in (_releases(result), _time(result), _more(result)) if part)
        console.raw(f"{console.safe(result.host).ljust(wide)}  {shown}  {console.safe(rest)}".rstrip() + "\n")
        steps.lines(result.steps, check=False)


def _releases(result: HostResult) -> str:
    if result.before == result.after:
        return result.after or ""
    return f"{result.before or 'nothing'} → {result.after or 'nothing'}"


def _time(result: HostResult) -> str:
    if result.status in ("unchanged", "withheld", "planned", "not_started", "interrupted"):
        return ""
    return f"{result.seconds:.1f} s" if result.seconds >= 0.95 else f"{result.seconds * 1000:.0f} ms"


def _more(result: HostResult) -> str:
    parts = [result.message] if result.message and not result.error else []
    if result.restarted:
        parts.append("restarted " + ", ".join(result.restarted))
    if result.skipped and result.status == "applied":
        parts.append("left out: " + ", ".join(result.skipped))
    if result.without:
        parts.append("does without " + ", ".join(result.without) + ", not in force")
    return "; ".join(parts)


def _summary(words: Sequence[str]) -> str:
    if set(words) == {"unchanged"}:
        return f"nothing to do: {console.count(len(words), 'host')} unchanged"
    return ", ".join(f"{number} {word}" for word, number in Counter(words).items())
