"""What nobody needs any more: files that a killed run left half made, and releases without a use."""

from __future__ import annotations

from typing import Iterator, List, Set

from . import keys, links, store
from .disk import NEW
from .errors import Broken
from .journal import idle
from .machine import Machine
from .transaction import Host

STAGING = store.RELEASES + "/.new"
GONE = store.RELEASES + "/.gone"  # a release that is being removed
_UNITS = (
    store.RECOVER + NEW,
    store.UNITS + "/basic.target.wants/ogen-recover.service" + NEW,
)


def sweep(host: Host) -> None:
    """Removes what was half made or half removed; both locks are held, so that it is nobody's work."""
    for folder in (STAGING, GONE):
        host.disk.remove_tree(folder)
    for path in (
        *_UNITS,
        *_half_made(host, store.HOME),
        *_half_made(host, store.AGENTS),
        *_half_made(host, keys.KEYS),
    ):
        host.disk.remove(path, sync=False)
    for path in _half_made(host, links.EDITED, deep=True):
        host.disk.remove(path, sync=False)


def _half_made(host: Host, folder: str, deep: bool = False) -> Iterator[str]:
    for name in host.disk.names(folder):
        if name.endswith(NEW):
            yield "%s/%s" % (folder, name)
        elif deep:
            yield from _half_made(host, "%s/%s" % (folder, name), deep)


def discard(host: Host, name: str) -> None:
    """Removes a release; out of sight first, so that half of one is never taken for a release.

    Not synced: what comes back after a power cut is collected by the recovery at boot.
    """
    host.disk.remove_tree(GONE)
    host.disk.rename("%s/%s" % (store.RELEASES, name), GONE, sync=False)
    host.disk.remove_tree(GONE)


def collect(host: Host) -> List[str]:
    """Removes releases that nobody needs, and agents of other versions of ogen. Kept are the release in
    force, the one before, those whose keys are in force, what runs, and what an unfinished transaction is
    about."""
    gone = needless(host)
    for name in gone:
        discard(host, name)
    _collect_agents(host)
    return gone


def needless(host: Host) -> List[str]:
    """Releases that nobody needs."""
    keep = {host.store.current, host.store.previous, *keys.releases(host.disk), *_under_way(host)}
    names = [name for name in host.store.names() if name not in keep]
    running = "".join(_mounts(host.machine)) if names and host.live else ""
    return [name for name in names if "/releases/%s/" % name not in running]


def collect_versions(host: Host) -> List[str]:
    """Removes versions of Ollama that no release names any more. Only for the end of an apply that is in
    force: before it, what `ogen provision` has put there may be waiting for its release."""
    place = store.PROGRAMS + "/.gone"  # out of sight first: half of one is never taken for a version
    host.disk.remove_tree(place)
    there = [name for name in host.disk.names(store.PROGRAMS) if not name.startswith(".")]
    kept = {host.store.version(name) for name in host.store.names()} if there else set()
    gone = [name for name in there if name not in kept]
    for name in gone:
        host.disk.rename("%s/%s" % (store.PROGRAMS, name), place, sync=False)
        host.disk.remove_tree(place)
    return gone


def _collect_agents(host: Host) -> None:
    """But the one that runs here, and the one that the recovery at boot starts."""
    started = host.disk.read_or(store.RECOVER).decode("utf-8", "replace")
    for name in host.disk.names(store.AGENTS):
        if name.endswith(".pyz") and name != host.agent + ".pyz" and name not in started:
            host.disk.remove("%s/%s" % (store.AGENTS, name), sync=False)


def _under_way(host: Host) -> Set[str]:
    try:
        records = host.journal.records()
    except Broken:
        return set(host.store.names())
    ends = (records[0].get("from"), records[0].get("to")) if not idle(records) else ()
    return {str(name) for name in ends if name}


def _mounts(machine: Machine) -> Iterator[str]:
    done = machine.run(["systemctl", "show", "--property=MainPID", "--value", "--", "ogen-*.service"])
    for text in done.lines:
        if text.strip().isdigit() and int(text):
            yield machine.mounts(int(text))
