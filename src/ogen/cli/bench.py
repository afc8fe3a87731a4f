"""`ogen bench`: load through a balancer, and what it is worth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from . import bench_options, console, options
from . import bench_work as work
from . import output as files
from .bench_place import Place, Wanted, place
from .exits import Exit, worst

if TYPE_CHECKING:
    from ..observe.bench_compare import Comparison


@click.command()
@bench_options.all_of_them
@options.shape("text", "json")
@options.parallel
def command(
    path: Path | None,
    compare: tuple[Path, Path] | None,
    against: Path | None,
    output: Path | None,
    shape: str,
    **said: Any,
) -> Exit:
    """Measure a fleet under load: throughput, tokens, latencies, shares, cards.

    So many requests are under way at once, each followed by the next; answers are streamed. Nothing is
    changed on the hosts. Exit code 3 if requests failed, 2 if --compare or --against find something worse
    beyond noise, 130 after Ctrl-C, which prints what was measured so far.
    """
    if compare:
        return _compare(_saved(compare[0]), _saved(compare[1]), compare, shape)
    before = _saved(against) if against else None
    if output:
        files.check(output)
    names = ("balancer", "url", "model", "key", "hosts", "parallel")
    where = place(Wanted(path, **{name: said[name] for name in names}))
    job = work.job(where, said)
    _same_steps(before, job)
    done = work.measure(where, job)
    document = work.document(where, job, done)
    compared = _with(before, document)
    if shape == "json":
        console.document(document | ({"against": _as_json(compared)} if compared else {}))
    else:
        _show(where, job, done)
        if compared:
            _show_comparison(compared, str(against), "this run")
    if output:
        files.write(output, console.json_text(document))
    return _code(done, compared)


# ------------------------------------------------------------------------------------- what is told
def _show(where: Place, job: work.Job, done: work.Done) -> None:
    from ..observe import view_bench
    from ..observe.bench_figures import knee
    from . import failure

    console.out(f"{where.url}{job.asked.path}, {job.asked.model}, answers of up to {job.asked.tokens} tokens")
    if len(job.steps) > 1 and len(done.runs) > 1:
        at = knee([run.step for run in done.runs])
        lines = [*view_bench.sweep(done.runs, at)]
        lines += [line for run in done.runs if run.step.concurrency == at for line in view_bench.run(run)]
    else:
        lines = [line for run in done.runs for line in view_bench.run(run)]
    for line in lines:
        console.out(line)
    if done.interrupted:
        console.say("interrupted" + ("" if done.runs else " before anything was measured"))
    for error in done.errors:
        console.tell(failure.as_text(error))


def _code(done: work.Done, compared: Comparison | None) -> Exit:
    codes: list[int] = [error.exit_code for error in done.errors]
    codes += [Exit.FAILED] if any(run.step.failed for run in done.runs) else []
    codes += [Exit.CHANGES] if compared and compared.worse else []
    return worst([*codes, Exit.INTERRUPTED] if done.interrupted else codes)


# --------------------------------------------------------------------------------- two runs compared
_SAVES = "`ogen bench … -o FILE` saves one"


def _saved(path: Path) -> dict[str, Any]:
    from ..observe.bench_compare import steps

    try:
        found = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        steps(found if isinstance(found, dict) else {})
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or str(error)).lower()}", hint=_SAVES) from None
    except (ValueError, UsageError):
        raise UsageError(f"{path} is no saved run", hint=_SAVES) from None
    return dict(found)


def _same_steps(before: Mapping[str, Any] | None, job: work.Job) -> None:
    """Said before the load, not after it."""
    from ..observe.bench_compare import steps

    if before and not steps(before).keys() & set(job.steps):
        there = ",".join(map(str, steps(before)))
        hint = f"--concurrency or --sweep {there}"
        raise UsageError("the saved run has none of these concurrencies", hint=hint)


def _with(before: Mapping[str, Any] | None, document: dict[str, Any]) -> Comparison | None:
    """None where there is nothing to compare: not asked for, or interrupted before a common step."""
    from ..observe.bench_compare import steps

    after = json.loads(console.json_text(document))
    if before is None or not after["steps"] or not steps(before).keys() & steps(after).keys():
        return None
    return _compared(before, after)


def _compared(before: Mapping[str, Any], after: Mapping[str, Any]) -> Comparison:
    from ..observe.bench_compare import compare

    return compare(before, after)


def _compare(
    before: Mapping[str, Any], after: Mapping[str, Any], paths: tuple[Path, Path], shape: str
) -> Exit:
    found = _compared(before, after)
    if shape == "json":
        console.document(_as_json(found) | {"errors": []})
    else:
        _show_comparison(found, *map(str, paths))
    return Exit.CHANGES if found.worse else Exit.DONE


def _show_comparison(found: Comparison, before: str, after: str) -> None:
    from ..observe.view_bench import comparison

    for line in comparison(found, before, after):
        console.out(line)


def _as_json(found: Comparison) -> dict[str, Any]:
    changes = [asdict(change) | {"ratio": change.ratio} for change in found.changes]
    return {"changes": changes, "remarks": list(found.remarks), "worse": found.worse}
