"""From files to an Inventory: read, checked, merged, cross-checked; nothing else is touched.

Only the inventory's own files and its lock are read, and only inside their folder: a link that
leads out is refused. No secret is read, nothing is run, no host is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import OgenError, Problems, SourceError, UsageError
from ..source import Node, parse, read
from . import building, crosscheck
from . import lock as locking
from .cards import Cards
from .checking import check
from .combining import combined
from .faults import Faults
from .merging import Merger, entries, members
from .model import Inventory, Lock
from .rules import ROOT


def load(path: Path | str, instead: Mapping[Path, str] | None = None) -> Inventory:
    """The inventory at `path`, a file or a folder of files. Raises Problems with every mistake.

    `instead`: texts that are taken for what is in files, to try a change that is not written.
    """
    path = Path(path)
    faults = Faults()
    folder = path if path.is_dir() else path.parent
    top = _read(path, faults, instead or {})
    lock = _lock(path, faults)
    if top is None:
        faults.check()
    assert top is not None
    inventory = _inventory(top, folder, str(path), lock, faults)
    faults.check()
    assert inventory is not None
    return inventory


def files(path: Path) -> list[Path]:
    """The files that the inventory at `path` consists of."""
    return _files(path) if path.is_dir() else [path]


def _read(path: Path, faults: Faults, instead: Mapping[Path, str]) -> Node | None:
    """The files of the inventory as one Node; each file that can't be read is told."""
    chosen = files(path)
    nodes: list[Node] = []
    for file in chosen:
        try:
            if file in instead:
                nodes.append(parse(instead[file], str(file)))
            else:
                nodes.append(read(inside(file, file.parent), str(file)))
        except OgenError as error:
            faults.take(error)
    if len(nodes) < len(chosen):
        return None
    return combined(nodes, faults)


def _files(folder: Path) -> list[Path]:
    found = sorted(
        file
        for file in folder.iterdir()
        if file.suffix in (".yaml", ".yml")
        and not file.name.startswith(".")
        and not file.name.endswith((".lock.yaml", ".lock.yml"))
    )
    if not found:
        raise UsageError(f"{folder}: no *.yaml in this folder", hint="name the inventory's file")
    return found


def inside(file: Path, folder: Path) -> Path:
    """The file itself after links; raises SourceError where it leads out of `folder` or is no file."""
    real = file.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise SourceError(
            f"{file}: a link that leads out of the project's folder", hint="ogen reads nothing outside of it"
        )
    if real.exists() and not real.is_file():
        raise SourceError(f"{file}: not a file")
    return real


def _lock(path: Path, faults: Faults) -> Lock | None:
    file = locking.path_beside(path)
    if not (file.exists() or file.is_symlink()):
        return None
    try:
        return locking.parse(read(inside(file, file.parent), str(file)))
    except OgenError as error:
        faults.take(error)
        return None


def _inventory(top: Node, folder: Path, name: str, lock: Lock | None, faults: Faults) -> Inventory | None:
    checked = check(top, ROOT, faults)
    if checked is None:
        return None
    empty = Node({}, top.where)
    models, groups, hosts, balancers, queues = (
        checked.get(key) or empty for key in ("models", "groups", "hosts", "balancers", "queues")
    )
    found = entries(hosts, faults)
    grouped = members(groups, found, faults)
    merger = Merger(checked, groups, faults)
    builder = building.Hosts(Cards(faults), faults)
    uuids = lock.uuids if lock else {}
    built = [builder.host(e, merger.merged(e), uuids.get(e.name, {})) for e in found.values()]
    inventory = Inventory(
        hosts=tuple(host for host in built if host),
        models=tuple(m for m in (building.model(k, n, models.keys.get(k)) for k, n in models.items()) if m),
        balancers=tuple(
            b for b in (building.balancer(k, n, balancers.keys.get(k)) for k, n in balancers.items()) if b
        ),
        groups=grouped,
        rollout=building.rollout(checked.get("rollout")),
        folder=str(folder),
        name=name,
        lock=lock,
        mirror=building.mirror(checked.get("mirror")),
        **_given("registries", checked),
        queues=tuple(q for q in (building.queue(k, n, queues.keys.get(k)) for k, n in queues.items()) if q),
    )
    crosscheck.check(inventory, top, checked, found, faults)
    return inventory


def _given(key: str, checked: Node) -> dict[str, tuple[str, ...]]:
    """A list of texts, where the inventory has it."""
    node = checked.get(key)
    return {} if node is None else {key: tuple(item.value for item in node.value)}


__all__ = ["Problems", "load"]
