"""How exact the VRAM account is: against llama.cpp's own figures, beside other estimators; public CUDA logs.

python benchmarks/fit.py            the tables
python benchmarks/fit.py --table    the quick-reference table of docs/fit.md
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence

from _reference import quick_reference
from _rivals import RIVALS, Parts
from _truth import MIB, NEW, OLD, Run, document, runs

from ogen.catalog import ModelShape, find_model
from ogen.fit import Settings, account


def ogen(shape: ModelShape, settings: Settings) -> Parts:
    """The account, without the reserve, which no engine's figure holds."""
    need = account(shape, settings)
    return need.weights_bytes / MIB, need.kv_bytes / MIB, need.compute_bytes / MIB


def errors(
    estimate: Callable[[ModelShape, Settings], Parts], chosen: Iterable[Run]
) -> dict[str, list[float]]:
    """Percent off, by part; parts whose truth is zero are left out."""
    found: dict[str, list[float]] = {"weights": [], "KV": [], "compute": [], "total": []}
    for run in chosen:
        parts = estimate(run.shape, run.settings)
        truth = (run.weights, run.kv, run.compute, run.total)
        for name, value, true in zip(found, (*parts, sum(parts)), truth, strict=True):
            if true:
                found[name].append((value / true - 1) * 100)
    return found


def mape(values: Sequence[float]) -> float:
    """Mean of the absolute values."""
    return sum(map(abs, values)) / len(values)


def cell(values: Sequence[float]) -> str:
    """Mean absolute error, and the least and the most."""
    return f"{mape(values):7.2f} [{min(values):+8.2f} … {max(values):+8.2f}]"


def side_by_side() -> list[str]:
    """ogen and the others on the same runs; % as mean absolute error [least … most]."""
    lines = []
    for flash in (True, False):
        for version, name in ((NEW, "from 0.30: a row for each slot"), (OLD, "to 0.24: n_batch rows")):
            chosen = [
                run
                for run in runs()
                if run.is_full
                and not run.settings.swa_full  # no other estimator can be told
                and run.settings.flash_attention is flash
                and run.settings.version == version
            ]
            lines.append(f"\nflash attention {'on' if flash else 'off'}, Ollama {name}: {len(chosen)} runs")
            lines.append(f"{'':38}{'weights':>32}{'KV':>32}{'compute':>32}{'total':>32}")
            for estimator, estimate in {"ogen": ogen, **RIVALS}.items():
                found = errors(estimate, chosen)
                lines.append(f"{estimator:38}" + "".join(f"{cell(v):>32}" for v in found.values()))
    return lines


def partial() -> list[str]:
    """Partial offload, one cache for all slots, cache on the host: compute in MiB beside the truth."""
    groups: dict[str, Callable[[Run], bool]] = {
        "layers on the host": lambda r: r.settings.gpu_layers is not None,
        "one cache for all slots": lambda r: r.settings.kv_unified,
        "cache on the host": lambda r: r.settings.kv_on_host,
    }
    lines = ["\nnot everything on the card: MiB off, worst part"]
    for name, belongs in groups.items():
        chosen = [run for run in runs() if belongs(run)]
        off = [(ogen(run.shape, run.settings), run) for run in chosen]
        weights = max(abs(p[0] - r.weights) for p, r in off)
        cache = max(abs(p[1] - r.kv) for p, r in off)
        compute = [p[2] - r.compute for p, r in off]
        lines.append(
            f"{name:26} {len(chosen):4} runs   weights {weights:.4f}   KV {cache:.4f}   "
            f"compute {min(compute):+.1f} … {max(compute):+.1f}"
        )
    return lines


def logged() -> list[tuple[str, float, float]]:
    """(what, predicted MiB, logged MiB) of the public logs that hold all three parts."""
    found = []
    for log in document()["cuda_logs"]:
        compute = log.get("compute_mib", log.get("compute_mib_derived"))
        if "n_ctx" not in log or compute is None:
            continue
        shape = find_model("", log.get("quant", "Q4_K_M"), log["model"].replace("3.x", "3.1"))
        slots = log.get("n_parallel", 1)
        settings = Settings(
            context=log["n_ctx"] // slots,
            parallel=slots,
            batch=log.get("n_ubatch", 512),
            kv_cache=log.get("type_k", "f16"),
            flash_attention=bool(log["fa"]),
            version=NEW if "n_outputs" in str(log) or "b9918" in str(log) else OLD,
            backend="vulkan" if "Vulkan" in str(log) else "cuda",
            kv_unified=bool(log.get("kv_unified", False)),
        )
        parts = ogen(shape, settings)
        weights = log.get("cuda_model_mib", log.get("model_mib", parts[0]))
        name = f"{log['model']} @{log['n_ctx']}" + (f" × {slots}" if slots > 1 else "")
        found.append((name, sum(parts), weights + log["kv_mib"] + compute))
    return found


def public_logs() -> list[str]:
    """Predicted beside logged."""
    lines = ["\npublic logs of real cards: weights + KV + compute in MiB"]
    for name, predicted, true in logged():
        off = (predicted / true - 1) * 100
        lines.append(f"{name:24} predicted {predicted:9.2f}   logged {true:9.2f}   {off:+.2f} %")
    return lines


def main() -> None:
    if "--table" in sys.argv[1:]:
        print(quick_reference())
        return
    for part in (side_by_side(), partial(), public_logs()):
        print("\n".join(part))


if __name__ == "__main__":
    main()
