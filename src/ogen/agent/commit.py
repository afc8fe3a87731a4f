"""From the flip to the end: forward to proven, or back to what was; and recovery, which is the same.

BEGIN, PREPARED          FLIP … RELOADED               PROVEN              END
abort: nothing changed   forward once, else back       forward to END      nothing to do
"""

from __future__ import annotations

import contextlib
import traceback
from typing import Any, Dict, List, Optional

from . import prove, store, systemd
from .errors import AgentError, Broken, disk_failed
from .journal import Record, idle
from .prove import Patience
from .systemd import Systemd
from .transaction import (
    Host,
    Result,
    Tell,
    abort,
    add_links,
    audit,
    collect,
    drop_links,
    flip,
    late,
    quiet,
)

_STUCK = "read the unit's journal on the host, mend what it names, then apply again"
NGINX = "nginx.service"  # the machine's own


class Transaction:
    """One transaction after its COMMIT; `first` is its BEGIN record, `done` units started by it."""

    def __init__(self, host: Host, records: List[Record], tell: Tell = quiet, quick: bool = False) -> None:
        self.host = host
        self.records = records
        self.first = records[0]
        self.tell = tell
        self.quick = quick
        self.patience = Patience(**self.first["patience"])
        self.systemd = Systemd(host.machine, quick=quick)
        self.wish = host.store.manifest(self.first["to"])
        self.force = host.store.manifest(self.first["from"])
        self.notes: List[str] = []
        self.started = host.machine.now()
        self.done: Dict[str, str] = {r["unit"]: r["hash"] for r in records if r["rec"] == "RESTARTED"}

    def record(self, rec: str, **more: Any) -> None:
        self.host.journal.add(rec, **more)

    # ------------------------------------------------------------------------------ forward
    def run(self) -> Result:
        """Forward; back if something can't be proven, or goes wrong in any other way."""
        try:
            self.forward()
        except AgentError as error:
            return self.back(error)
        except OSError as error:
            return self.back(disk_failed(error))
        except Exception as error:  # a mistake of ours must not leave the host in between
            traceback.print_exc()
            return self.back(AgentError("the agent failed: %r" % error))
        return self.finish()

    def forward(self) -> None:
        self.tell("commit", "flip", None)
        self.record("FLIP")
        flip(self.host, self.first["to"])
        drop_links(self.host, late(self.first["remove"]))
        add_links(self.host, self.first["add"], after_flip=True)
        if self.host.live:
            self.systemd.reload_files()
            self.hold_off()
            self.instances(self.wish, self.force)
            self.versions()
            self.balancers(self.wish, self.force)
            self.rest(self.wish, self.force)
            self.tell("commit", "stop what is no longer listed", None)
            self.stop(systemd.removed(self.wish, self.force))
            self.reload_shared()
        self.record("PROVEN")

    def hold_off(self) -> None:
        """Services of others that the release replaces, and removed instances in the way."""
        others = [u for u in systemd.held_off(self.wish) if u in self.first["active"]]
        self.stop(others + systemd.in_the_way(self.wish, self.force))

    def stop(self, units: List[str]) -> None:
        """A unit whose file is gone already ("not-found") may still run, and is stopped like any other."""
        seen = systemd.states(self.host.machine, units)
        self.systemd.do("stop", [u for u in units if seen[u].active not in ("inactive", "failed")])

    def move(self, wish: store.Manifest, force: store.Manifest, kinds: List[str]) -> Dict[str, str]:
        """Starts and restarts the units of these kinds that need it; returns what it did."""
        names = systemd.of_kind(wish, *kinds)
        seen = systemd.states(self.host.machine, names)
        edits = [] if self.done.keys() & set(names) else self.first["edited"]  # once is enough
        chosen = systemd.plan(wish, force, systemd.edited(seen, force, edits), self.done)
        moves = {n: chosen[n] for n in names if chosen[n] != "keep"}
        for verb in ("restart", "start"):
            units = [n for n, what in moves.items() if what == verb]
            if units:
                self.tell(verb, ", ".join(units), None)
                self.systemd.do(verb, units)
        self.note(wish, list(moves))
        return moves

    def note(self, wish: store.Manifest, names: List[str]) -> None:
        hashes = {u["name"]: u["hash"] for u in wish["units"]}
        for name in names:
            self.done[name] = hashes[name]
            self.record("RESTARTED", unit=name, hash=hashes[name])

    def instances(self, wish: store.Manifest, force: store.Manifest, must: bool = True) -> None:
        moves = self.move(wish, force, ["instance"])
        proofs = [p for p in wish["instances"] if p["unit"] in moves]
        if proofs and not self.quick:
            self.prove_all(proofs)

    def prove_all(self, proofs: List[Record]) -> None:
        """All at once: a model's load takes its time."""
        from concurrent.futures import ThreadPoolExecutor

        self.tell("prove", ", ".join(p["instance"] for p in proofs), None)
        with ThreadPoolExecutor(max_workers=min(16, len(proofs))) as pool:
            ends = [pool.submit(prove.instance, self.host.machine, p, self.patience) for p in proofs]
            errors = [e for e in (end.exception() for end in ends) if e is not None]
        for error in errors:
            raise error

    def versions(self) -> None:
        """Another version than the planned one serves, if it serves at all; but whoever looks must know."""
        said = [prove.other_version(self.host.machine, p) for p in self.wish["instances"]]
        self.notes = sorted({note for note in said if note})

    def balancers(self, wish: store.Manifest, force: store.Manifest) -> None:
        gone = set(systemd.removed(wish, force))
        self.stop([p["unit"] for p in force["balancers"] if p["unit"] in gone and wish["balancers"]])
        before = systemd.states(self.host.machine, [p["unit"] for p in wish["balancers"]])
        moves = self.move(wish, force, ["balancer"])
        for proof in wish["balancers"]:
            if proof["unit"] not in moves and prove.balancer_hash(self.host.machine, proof) != proof["hash"]:
                verb = "reload" if before[proof["unit"]].up else "start"
                self.tell(verb, proof["unit"], None)
                self.systemd.do(verb, [proof["unit"]])
                prove.balancer(self.host.machine, proof, self.patience, before[proof["unit"]].pid)
                self.record("RELOADED", unit=proof["unit"])
            elif proof["unit"] in moves and not self.quick:
                prove.balancer(self.host.machine, proof, self.patience)

    def rest(self, wish: store.Manifest, force: store.Manifest) -> None:
        moves = self.move(wish, force, ["service"])
        if moves and not self.quick:
            prove.steady(self.host.machine, list(moves), self.patience)
        self.move(wish, force, ["target", "timer"])
        self.move(wish, force, ["oneshot"])

    def finish(self) -> Result:
        """After PROVEN: what is left can be done again at any time."""
        drop_links(self.host, self.first["remove"])
        if self.host.live and self.first["remove"]:
            self.systemd.reload_files()
        if self.first["from"] not in (None, self.first["to"]):
            self.host.disk.symlink("releases/%s/tree" % self.first["from"], store.PREVIOUS)
        result = self.result("applied", "; ".join(self.notes))
        audit(self.host, self.first, result, self.host.machine.now() - self.started)
        self.record("END", how="applied")
        with contextlib.suppress(OSError):  # what is left now goes at the next apply
            collect(self.host)
        return result

    # --------------------------------------------------------------------------------- back
    def back(self, error: AgentError) -> Result:
        """Restores the previous release and proves it; only then it says rolled back.

        OSError: the disk does not let it; the way back is to be taken up again when it does.
        """
        self.tell("revert", error.message, None)
        try:
            self.record("REVERTING", why=error.message)
            self.restore()
        except OSError:
            raise
        except Exception as worse:  # whatever it is: the host is not what it was
            return self.stuck(error, worse)
        result = self.result("rolled_back", error.message, error)
        audit(self.host, self.first, result, self.host.machine.now() - self.started)
        self.record("END", how="rolled back", why=error.message)
        return result

    def restore(self) -> None:
        wish, force = self.force, self.wish  # the other way round
        drop_links(self.host, late(self.first["add"]))
        flip(self.host, self.first["from"])
        old = self.host.store.links(self.first["from"])
        drop_links(self.host, {p: t for p, t in self.first["add"].items() if p not in old})
        for after_flip in (False, True):
            add_links(self.host, old, after_flip)
        if self.host.live:
            self.restart_old(wish, force)
        self.read_back()

    def restart_old(self, wish: store.Manifest, force: store.Manifest) -> None:
        """Units that were active before must be so again, from the old text."""
        self.stop_new(systemd.removed(wish, force))
        self.systemd.reload_files()
        active = set(self.first["active"])
        # What this transaction has started runs with the new hash; all else as it was.
        old = {**wish, "units": [u for u in wish["units"] if u["name"] in active]}
        self.instances(old, old)
        self.balancers({**old, "balancers": [p for p in old["balancers"] if p["unit"] in active]}, old)
        self.rest(old, old)
        ours = {u["name"] for u in wish["units"]}
        others = [u for u in self.first["active"] if u not in ours]
        seen = systemd.states(self.host.machine, others)
        self.systemd.do("start", [u for u in others if not seen[u].up])
        self.reload_shared()

    def reload_shared(self) -> None:
        """The machine's own nginx, when a file of ours in it came or went without a proof of its own."""
        changed = late(self.first["add"]) or late(self.first["remove"])
        if changed and systemd.states(self.host.machine, [NGINX])[NGINX].up:
            self.systemd.do("reload", [NGINX])

    def stop_new(self, units: List[str]) -> None:
        """Stopping what the new release brought must not keep the old one from coming back."""
        seen = systemd.states(self.host.machine, units)
        loaded = [u for u in units if seen[u].loaded != "not-found" or seen[u].up]
        if loaded:
            self.host.machine.run(["systemctl", "stop", "--", *loaded], 120.0)
            self.host.machine.run(["systemctl", "reset-failed", "--", *loaded])

    def read_back(self) -> None:
        """What is in force again is what was in force before: links, and every file's hash."""
        name = self.first["from"]
        if self.host.store.current != name:
            raise AgentError("current names %s, not %s" % (self.host.store.current, name))
        for path, target in self.host.store.links(name).items():
            if self.host.disk.link(path) != target:
                raise AgentError("%s does not lead to the release" % path)
        damage = set(self.host.store.damage(name)) - set(self.first["edited"]) if name else set()
        if damage:
            raise AgentError("files of the release have changed: %s" % ", ".join(sorted(damage)))

    def stuck(self, error: AgentError, worse: Exception) -> Result:
        message = "%s; and the previous release could not be proven: %s" % (error.message, worse)
        log = list(error.log) + list(getattr(worse, "log", ()))
        result = self.result(
            "stuck",
            message,
            AgentError(message, "; ".join(hint for hint in (error.hint, _STUCK) if hint), log),
        )
        audit(self.host, self.first, result, self.host.machine.now() - self.started)
        self.record("STUCK", why=message)
        return result

    def result(self, status: str, message: str, error: Optional[AgentError] = None) -> Result:
        return {
            "tx": self.first["tx"],
            "status": status,
            "message": message,
            "from": self.first["from"],
            "to": self.first["to"],
            "current": self.host.store.current,
            "log": list(error.log)[-20:] if error else [],
            "hint": error.hint if error else None,
            "restarted": sorted(self.done),
            "seconds": round(self.host.machine.now() - self.started, 1),
        }


# ------------------------------------------------------------------------------------- recovery
def recover(host: Host, tell: Tell = quiet, boot: bool = False) -> Optional[Result]:
    """Brings an unfinished transaction to its end; None if there is none. Both locks must be held."""
    try:
        records = host.journal.records()
    except Broken as error:
        return _unreadable(host, error)
    if idle(records):
        return None
    how = outcome(records, host.store.current, host.machine.boot())
    tell("recover", "an earlier apply did not end: " + how, None)
    if how == "abort":
        abort(host, records[0], "recovered")
        return None
    transaction = Transaction(host, records, tell, quick=boot)
    if how == "finish":
        return transaction.finish()
    if how == "forward":
        transaction.record("AGAIN")
        return transaction.run()
    why = next((str(r["why"]) for r in records if r["rec"] == "REVERTING"), "the apply was interrupted")
    return transaction.back(AgentError(why, "apply again"))


def outcome(records: List[Record], current: Optional[str], boot: str) -> str:
    """What recovery does: abort, forward, back or finish; pure, see the table in the module's head."""
    first, seen = records[0], [r["rec"] for r in records]
    if "REVERTING" in seen:
        return "back"
    if "PROVEN" in seen:
        return "finish"
    flipped = "FLIP" in seen and (current == first["to"])
    if not flipped:
        return "abort"
    same_boot = first["boot"] == boot
    return "forward" if same_boot and "AGAIN" not in seen else "back"


def _unreadable(host: Host, error: Broken) -> Result:
    """Nobody knows what happened: what is in force stays, and the next apply starts from it."""
    host.disk.rename("/etc/ogen/journal", "/etc/ogen/journal.broken")
    host.journal.begin({"tx": "", "epoch": 0, "from": host.store.current, "to": host.store.current})
    host.journal.add("STUCK", why=error.message)
    return {"status": "stuck", "message": error.message, "hint": error.hint, "log": []}
