"""How exposed the generated units are, by systemd-analyze: at most 3.0 each; 9.6 is one without a sandbox."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from rendering import run

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
MOST = 3.0
#: what differs from host to host and is none of the sandbox
NAMES = re.compile(r"^(#|Description=|Environment=|ExecStart|IPAddressAllow=|BindReadOnlyPaths=)")


def kinds() -> dict[str, Path]:
    """One file of each kind of unit in the golden trees, where they differ in their sandbox."""
    found: dict[str, Path] = {}
    for path in sorted(GOLDEN.rglob("*.service")):
        lines = [line for line in path.read_text().splitlines() if not NAMES.match(line)]
        found.setdefault("\n".join(lines), path)
    return {"/".join(p.relative_to(GOLDEN).parts[:2] + p.parts[-1:]): p for p in found.values()}


def scores(units: Iterable[Path], folder: Path, need: Callable[[str], str]) -> list[float]:
    copies = []
    for number, path in enumerate(units):
        copies.append(folder / f"{number}-{path.name.replace('@', '')}")
        copies[-1].write_bytes(path.read_bytes())
    _, output = run(need("systemd-analyze"), "security", "--offline=yes", "--no-pager", *map(str, copies))
    found = dict(re.findall(r"exposure level for (\S+): ([\d.]+)", output))
    assert len(found) == len(copies), output
    return [float(found[copy.name]) for copy in copies]


def test_each_unit_is_exposed_little(tmp_path: Path, need: Callable[[str], str]) -> None:
    units = kinds()
    found = dict(zip(units, scores(units.values(), tmp_path, need), strict=True))
    for name, score in sorted(found.items(), key=lambda pair: -pair[1]):
        print(f"{score:4.1f}  {name}")
    kinds_seen = {name.rpartition("/")[2].split("-gpu")[0].split("@")[0] for name in found}
    assert {"ogen-ollama", "ogen-balancer-api.service", "ogen-monitor.service", "ogen-preload"} <= kinds_seen
    assert {"ogen-leases.service", "ogen-probe.service", "ogen-librarian.service"} <= kinds_seen
    assert {f"ogen-queue-{part}-jobs.service" for part in ("redis", "front")} <= kinds_seen
    assert "ogen-queue-worker-jobs" in kinds_seen
    assert max(found.values()) <= MOST


@pytest.mark.parametrize("lost", ["", "SystemCallFilter=", "CapabilityBoundingSet="])
def test_a_unit_without_its_sandbox_would_be_seen(
    lost: str, tmp_path: Path, need: Callable[[str], str]
) -> None:
    path = next(path for name, path in kinds().items() if name.endswith("ogen-ollama-gpu0.service"))
    weaker = tmp_path / path.name
    text = path.read_text()
    kept = [line for line in text.splitlines() if lost and not line.startswith(lost)]
    weaker.write_text("\n".join(kept) if lost else "[Service]\nExecStart=/bin/true\n")
    before, after = scores([path, weaker], tmp_path, need)
    assert after > before
    assert lost or after > MOST
