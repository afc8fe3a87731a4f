"""systemd: what runs, from which unit text, and what must therefore start, restart, or be left alone."""

from __future__ import annotations

from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from .errors import AgentError, Unproven
from .machine import Machine
from .store import CURRENT, Manifest

HASH = "OGEN_UNIT_HASH"
#: kinds of units whose process shows the hash of the text that it was started from
RUNNING = ("instance", "balancer", "service")
_SHOWN = (
    "Id,LoadState,ActiveState,SubState,MainPID,InvocationID,NRestarts,Result,UnitFileState,IPAddressAllow"
)


class State(NamedTuple):
    """A unit as systemd sees it; `hash` is read from the running process, "" if it shows none.

    stale: an instance whose view of the models is not that of the release in force: the folder that it
    has bound was removed, or somebody edited it. admits: networks that may talk to it, None where systemd
    does not say.
    """

    name: str
    active: str = "inactive"
    pid: int = 0
    invocation: str = ""
    restarts: int = 0
    loaded: str = "not-found"
    hash: str = ""
    stale: bool = False
    admits: Optional[Tuple[str, ...]] = None

    @property
    def up(self) -> bool:
        return self.active in ("active", "reloading")


def states(machine: Machine, names: Sequence[str]) -> Dict[str, State]:
    """The state of each unit of `names`."""
    if not names:
        return {}
    done = machine.run(["systemctl", "show", "--property=" + _SHOWN, "--", *names])
    if done.code:
        raise AgentError("systemctl show failed: %s" % done.text.strip())
    blocks = [_block(b) for b in done.text.strip().split("\n\n")]
    return {name: _state(machine, name, block) for name, block in zip(names, blocks)}  # noqa: B905 (python 3.8)


def _block(text: str) -> Dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _state(machine: Machine, name: str, block: Dict[str, str]) -> State:
    pid = int(block.get("MainPID") or 0)
    environment = machine.environment(pid) if pid else {}
    return State(
        name=name,
        active=block.get("ActiveState", "inactive"),
        pid=pid,
        invocation=block.get("InvocationID", ""),
        restarts=int(block.get("NRestarts") or 0),
        loaded=block.get("LoadState", "not-found"),
        hash=environment.get(HASH, ""),
        stale=bool(pid) and name.startswith("ogen-ollama-") and _unlinked(machine.mounts(pid)),
        admits=tuple(block["IPAddressAllow"].split()) if "IPAddressAllow" in block else None,
    )


def _unlinked(mounts: str) -> bool:
    """Whether a folder of a release that a process has bound is not there any more."""
    return any("/releases/" in line and "//deleted " in line for line in mounts.splitlines())


def edited(seen: Dict[str, State], manifest: Manifest, damage: Iterable[str]) -> Dict[str, State]:
    """`seen`, where instances are stale whose view of the models is among the edited paths."""
    paths = list(damage)
    folders = {i["unit"]: "%s/instances/%s/" % (CURRENT, i["instance"]) for i in manifest["instances"]}
    bad = {unit for unit, folder in folders.items() if any(p.startswith(folder) for p in paths)}
    return {n: state._replace(stale=True) if n in bad else state for n, state in seen.items()}


def decide(kind: str, wanted: str, state: State, believed: Optional[str]) -> str:
    """ "start", "restart" or "keep" for a unit of the release.

    What runs tells its hash itself; nginx overwrites its environment, timers have no process: for
    these `believed`, the hash that the last proven release (or this transaction) gave it, counts.
    """
    if kind == "oneshot":
        return "keep" if believed == wanted else "start"
    if not state.up:
        return "start"
    if state.stale:
        return "restart"
    running = state.hash if kind in RUNNING and state.hash else believed
    return "keep" if running == wanted else "restart"


def plan(wish: Manifest, force: Manifest, seen: Dict[str, State], done: Dict[str, str]) -> Dict[str, str]:
    """What to do with each enabled unit of `wish`.

    `force` is the release that was proven last; `done` maps the units that this transaction has
    started to the hashes that they were started with.
    """
    believed = {u["name"]: u["hash"] for u in force["units"]}
    believed.update(done)
    return {
        u["name"]: decide(
            u["kind"], u["hash"], seen.get(u["name"], State(u["name"])), believed.get(u["name"])
        )
        for u in wish["units"]
        if u["enable"]
    }


def of_kind(manifest: Manifest, *kinds: str) -> List[str]:
    """Names of the enabled units of these kinds, in the manifest's order."""
    return [u["name"] for u in manifest["units"] if u["kind"] in kinds and u["enable"]]


def removed(wish: Manifest, force: Manifest) -> List[str]:
    """Units of `force` that `wish` has no more."""
    kept = {u["name"] for u in wish["units"]}
    return [u["name"] for u in force["units"] if u["name"] not in kept]


def in_the_way(wish: Manifest, force: Manifest) -> List[str]:
    """Removed instances that hold the port or a card of an instance of `wish`: they stop first."""
    gone = set(removed(wish, force))
    ports = {i["port"] for i in wish["instances"]}
    cards = {gpu for i in wish["instances"] for gpu in i["gpus"]}
    return [
        i["unit"]
        for i in force["instances"]
        if i["unit"] in gone and (i["port"] in ports or cards & set(i["gpus"]))
    ]


def held_off(manifest: Manifest) -> List[str]:
    """Services of others that the release holds off by a drop-in of its own."""
    ours = {u["name"] for u in manifest["units"]}
    found = []
    for entry in manifest["files"]:
        folder, _, name = entry["path"].rpartition("/")
        unit = folder.rpartition("/")[2]
        if name == "ogen.conf" and unit.endswith(".service.d") and unit[:-2] not in ours:
            found.append(unit[:-2])
    return found


class Systemd:
    """Commands to systemd; with `quick` they do not wait for jobs to end (at boot)."""

    def __init__(self, machine: Machine, timeout: float = 120.0, quick: bool = False) -> None:
        self.machine = machine
        self.timeout = timeout
        self.quick = quick

    def reload_files(self) -> None:
        done = self.machine.run(["systemctl", "daemon-reload"], self.timeout)
        if done.code:
            raise AgentError("systemctl daemon-reload failed: %s" % done.text.strip())

    def do(self, verb: str, names: Iterable[str]) -> None:
        """start, restart, stop, reload; Unproven with the units' last lines when one fails."""
        units = list(names)
        if not units:
            return
        wait = ["--no-block"] if self.quick else []
        if verb in ("start", "restart"):  # what failed before may have run into its start limit
            self.machine.run(["systemctl", "reset-failed", "--", *units], self.timeout)
        done = self.machine.run(["systemctl", verb, *wait, "--", *units], self.timeout)
        if done.code:
            bad = self._failed(units)
            raise Unproven("%s of %s failed" % (verb, ", ".join(bad)), log=self.log(bad, done.lines))

    def forget(self, instances: Iterable[str], units: Iterable[str] = ()) -> None:
        """Timers that are gone, and those of instances that are, fail when the file of what they start goes
        first; that is no failure."""
        stems = [unit[len("ogen-ollama-") : -len(".service")] for unit in instances]
        names = ["ogen-preload@%s.timer" % stem for stem in stems]
        names += [unit for unit in units if unit.endswith(".timer")]
        if names:
            self.machine.run(["systemctl", "reset-failed", "--", *names], self.timeout)

    def _failed(self, units: List[str]) -> List[str]:
        found = states(self.machine, units)
        return [n for n in units if found[n].active in ("failed", "activating")] or units

    def log(self, units: Sequence[str], before: Sequence[str] = (), lines: int = 20) -> List[str]:
        """The last lines of the units' journals."""
        chosen = [part for unit in units for part in ("-u", unit)]
        done = self.machine.run(["journalctl", "--no-pager", "-q", "-o", "cat", "-n", str(lines), *chosen])
        return (list(before) + done.lines)[-(lines + len(before)) :]
