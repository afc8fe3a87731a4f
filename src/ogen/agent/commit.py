"""From the flip to the end: forward to proven, or back to what was."""

from __future__ import annotations

import contextlib
from typing import Any, Dict, Iterator, List, Optional

from . import admission, alarm, gate, keys, leases, prove, stock, store, systemd
from .errors import AgentError, disk_failed, plainly
from .gate import Gate, Lost, Say
from .journal import Record
from .links import add_links, drop_links, late
from .prove import Patience
from .systemd import Systemd
from .transaction import Host, Result, Tell, audit, flip, quiet

_STUCK = "read the unit's journal on the host, mend what it names, then apply again"
NGINX = "nginx.service"  # the machine's own


class Transaction:
    """One transaction after its COMMIT; `first` is its BEGIN record, `done` units started by it."""

    def __init__(
        self,
        host: Host,
        records: List[Record],
        tell: Tell = quiet,
        quick: bool = False,
        say: Optional[Say] = None,
    ) -> None:
        self.host = host
        self.records = records
        self.first = records[0]
        self.tell = tell
        self.quick = quick
        self.patience = Patience(**self.first["patience"])
        self.systemd = Systemd(host.machine, quick=quick)
        self.wish = host.store.manifest(self.first["to"])
        self.force = host.store.manifest(self.first["from"])
        self.beside = admission.union(self.wish, self.force, self.first.get("leaving", {}))
        self.notes: List[str] = []
        self.on_its_own = False
        self.behind: Optional[List[AgentError]] = None  # on the way back: what could not be had again
        self.gate = Gate(host.machine, self._ask(say), self.patience.drain)
        self.started = host.machine.now()
        self.done: Dict[str, str] = {r["unit"]: r["hash"] for r in records if r["rec"] == "RESTARTED"}

    def _ask(self, say: Optional[Say]) -> Optional[gate.Ask]:
        if not self.first.get("gated") or not self.host.live or self.quick:
            return None
        return gate.through_session(self.host.disk, self.host.machine, say) if say else gate.closed

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
            import traceback

            traceback.print_exc()
            return self.back(AgentError("the agent failed: %r" % error))
        return self.finish()

    def forward(self) -> None:
        self.tell("commit", "flip", None)
        admission.put(self.host.disk, self.beside)
        self.record("FLIP")
        keys.take(self.host.disk, self.first)
        flip(self.host, self.first["to"])
        drop_links(self.host.disk, late(self.first["remove"]))
        add_links(self.host.disk, self.first["add"], after_flip=True)
        if self.host.live:
            self.systemd.reload_files()
            admission.prove(self.host.machine, self.wish, self.beside)
            self.hold_off()
            self.instances(self.wish, self.force)
            self.versions()
            self.balancers(self.wish, self.force)
            self.rest(self.wish, self.force)
            self.tell("commit", "stop what is no longer listed", None)
            self.take_down(systemd.removed(self.wish, self.force), must=True)
            self.reload_shared()
        self.record("PROVEN")

    def hold_off(self) -> None:
        """Services of others that the release replaces, and removed instances in the way."""
        others = [u for u in systemd.held_off(self.wish) if u in self.first["active"]]
        stock.note(self.host, others)
        self.stop(others)
        self.take_down(systemd.in_the_way(self.wish, self.force), must=False)

    def take_down(self, units: List[str], must: bool) -> None:
        """Stops instances of the old release (and other units) when nobody is served by them any more."""
        seen = systemd.states(self.host.machine, units)
        left = [p for p in self.force["instances"] if p["unit"] in units and seen[p["unit"]].up]
        while left:
            ready = self.gate.admit(left, "stop", must)
            self.stop([p["unit"] for p in left if p["instance"] in ready])
            left = [p for p in left if p["instance"] not in ready]
        self.stop(units)
        self.systemd.forget([p["unit"] for p in self.force["instances"] if p["unit"] in units], units)

    def stop(self, units: List[str]) -> None:
        """A unit whose file is gone already ("not-found") may still run, and is stopped like any other."""
        seen = systemd.states(self.host.machine, units)
        self.systemd.do("stop", [u for u in units if seen[u].active not in ("inactive", "failed")])

    def moves(self, wish: store.Manifest, force: store.Manifest, kinds: List[str]) -> Dict[str, str]:
        """Which units of these kinds must "start" or "restart"."""
        names = systemd.of_kind(wish, *kinds)
        seen = systemd.states(self.host.machine, names)
        edits = [] if self.done.keys() & set(names) else self.first["edited"]  # once is enough
        chosen = systemd.plan(wish, force, systemd.edited(seen, force, edits), self.done)
        return {n: chosen[n] for n in names if chosen[n] != "keep"}

    def move(self, wish: store.Manifest, force: store.Manifest, kinds: List[str]) -> Dict[str, str]:
        """Starts and restarts the units of these kinds that need it; returns what it did."""
        return self.make(wish, self.moves(wish, force, kinds))

    def make(self, wish: store.Manifest, moves: Dict[str, str]) -> Dict[str, str]:
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

    def instances(self, wish: store.Manifest, force: store.Manifest, must: bool = False) -> None:
        """Those that are down start at once; those that serve are restarted as the gate admits them."""
        moves = self.moves(wish, force, ["instance"])
        self.make_and_prove(wish, {n: verb for n, verb in moves.items() if verb == "start"})
        left = [p for p in wish["instances"] if moves.get(p["unit"]) == "restart"]
        while left:
            try:
                ready = self.gate.admit(left, "restart", must)
            except Lost:
                if self.alone():
                    continue
                names = ", ".join(p["instance"] for p in left)
                self.notes.append("the controller was lost: not restarted yet is %s; apply again" % names)
                return
            self.make_and_prove(wish, {p["unit"]: "restart" for p in left if p["instance"] in ready})
            left = [p for p in left if p["instance"] not in ready]
        if self.on_its_own:
            leases.end(self.host, ["tx-" + self.first["tx"]], 0.0)

    def alone(self) -> bool:
        """Whether it goes on without its controller: only balancers of this very host are concerned."""
        if not self.first.get("local") or self.gate.ask is None or self.quick or self.on_its_own:
            return False
        self.gate.ask, self.on_its_own = gate.by_itself(self.host, self.first["tx"]), True
        return True

    def make_and_prove(self, wish: store.Manifest, moves: Dict[str, str]) -> None:
        with self.going_on():
            self.make(wish, moves)
            proofs = [p for p in wish["instances"] if p["unit"] in moves]
            if proofs and not self.quick:
                self.prove_all(proofs)

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """On the way back, one thing that fails does not keep all others from coming back."""
        try:
            yield
        except AgentError as error:
            if self.behind is None:
                raise
            self.behind.append(error)

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
        self.notes += sorted({note for note in said if note})

    def balancers(self, wish: store.Manifest, force: store.Manifest) -> None:
        gone = set(systemd.removed(wish, force))
        self.stop([p["unit"] for p in force["balancers"] if p["unit"] in gone and wish["balancers"]])
        before = systemd.states(self.host.machine, [p["unit"] for p in wish["balancers"]])
        moves = self.move(wish, force, ["balancer"])
        for proof in wish["balancers"]:
            if proof["unit"] not in moves and self.other(proof):
                verb = "reload" if before[proof["unit"]].up else "start"
                self.tell(verb, proof["unit"], None)
                self.systemd.do(verb, [proof["unit"]])
                prove.balancer(self.host.machine, proof, self.patience, before[proof["unit"]].pid)
                self.record("RELOADED", unit=proof["unit"])
            elif proof["unit"] in moves and not self.quick:
                prove.balancer(self.host.machine, proof, self.patience)

    def other(self, proof: Record) -> bool:
        """Whether a balancer serves another configuration than it should, or lets others in."""
        served = prove.balancer_hash(self.host.machine, proof)
        return served != proof["hash"] or keys.untaken(self.host.disk, proof, self.first)

    def rest(self, wish: store.Manifest, force: store.Manifest) -> None:
        moves = self.move(wish, force, ["service"])
        if moves and not self.quick:
            prove.steady(self.host.machine, list(moves), self.patience)
        self.move(wish, force, ["target", "timer"])
        self.move(wish, force, ["oneshot"])

    def finish(self) -> Result:
        """After PROVEN: what is left can be done again at any time, by whoever comes next."""
        try:
            drop_links(self.host.disk, self.first["remove"])
            if self.host.live and self.first["remove"]:
                self.systemd.reload_files()
            if self.first["from"] not in (None, self.first["to"]):
                self.host.disk.symlink("releases/%s/tree" % self.first["from"], store.PREVIOUS)
            alarm.end(self.host.disk)
            result = self.result("applied", "; ".join(self.notes))
            audit(self.host, self.first, result, self.host.machine.now() - self.started)
            self.record("END", how="applied")
        except (AgentError, OSError) as error:
            why = "the release is in force and proven, but its end could not be written: %s" % plainly(error)
            return self.alarm(AgentError(why, alarm.UNFINISHED), error)
        return result

    # --------------------------------------------------------------------------------- back
    def back(self, error: AgentError) -> Result:
        """Restores the previous release and proves it; only then it says rolled back."""
        self.tell("revert", error.message, None)
        try:
            with contextlib.suppress(OSError):  # the way back does not depend on its record
                self.record("REVERTING", why=error.message)
            self.restore()
        except Exception as worse:  # whatever it is: the host is not what it was
            return self.stuck(error, worse)
        result = self.result("rolled_back", error.message, error)
        if not self.quick:  # proven: whatever was the matter before is over
            with contextlib.suppress(OSError):
                alarm.end(self.host.disk)
        self.end(result, "END", how="rolled back", why=error.message)
        return result

    def end(self, result: Result, rec: str, **more: Any) -> None:
        """What can't be written now is done, and written, at the next contact: the journal is not idle."""
        try:
            audit(self.host, self.first, result, self.host.machine.now() - self.started)
            self.record(rec, **more)
        except OSError as error:
            result["message"] += "; it could not be recorded, and the next contact does it again: %s" % error

    def restore(self) -> None:
        wish, force, disk = self.force, self.wish, self.host.disk  # the other way round
        drop_links(disk, late(self.first["add"]))
        keys.give_back(disk, self.first)
        flip(self.host, self.first["from"])
        admission.put_back(disk, self.host.machine, self.first)
        old = self.host.store.links(self.first["from"])
        drop_links(disk, {p: t for p, t in self.first["add"].items() if p not in old})
        for after_flip in (False, True):
            add_links(disk, old, after_flip)
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
        serving = {**old, "balancers": [p for p in old["balancers"] if p["unit"] in active]}
        ours = {u["name"] for u in wish["units"]}
        others = [u for u in self.first["active"] if u not in ours]
        self.behind = []
        with self.going_on():
            self.disown(serving)
        self.instances(old, old, must=True)
        with self.going_on():
            self.balancers(serving, old)
        with self.going_on():
            self.rest(old, old)
        with self.going_on():
            seen = systemd.states(self.host.machine, others)
            self.systemd.do("start", [u for u in others if not seen[u].up])
        with self.going_on():
            self.reload_shared()
        if self.behind:
            raise self.behind[0]

    def disown(self, old: store.Manifest) -> None:
        """Takes back what a balancer was given and its nginx did not take (its port was taken, say), before
        the next lease has nginx reload it."""
        names = [p["unit"] for p in old["balancers"] if self.not_taken(p)]
        if names:
            self.tell("reload", ", ".join(names), None)
            self.systemd.do("reload", names)

    def not_taken(self, proof: Record) -> bool:
        machine, disk = self.host.machine, self.host.disk
        if not systemd.states(machine, [proof["unit"]])[proof["unit"]].up:
            return False
        given = disk.read_or(leases.ADOPTED % proof["balancer"])
        released = disk.read_or(leases.RELEASED % proof["balancer"])
        return given not in (b"", released) and prove.balancer_hash(machine, proof) == proof["hash"]

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
        links = self.host.store.links(name)
        for path, target in links.items():
            if self.host.disk.link(path) != target:
                raise AgentError("%s does not lead to the release" % path)
        for path, target in self.first["add"].items():
            if path not in links and self.host.disk.link(path) == target:
                raise AgentError("%s of the other release is still there" % path)
        damage = set(self.host.store.damage(name)) - set(self.first["edited"]) if name else set()
        if damage:
            raise AgentError("files of the release have changed: %s" % ", ".join(sorted(damage)))

    def stuck(self, error: AgentError, worse: Exception) -> Result:
        message = "%s; and the previous release could not be proven: %s" % (error.message, plainly(worse))
        log = list(error.log) + list(getattr(worse, "log", ()))
        hint = "; ".join(hint for hint in (error.hint, _STUCK) if hint)
        result = self.alarm(AgentError(message, hint, log), worse)
        try:
            self.read_back()
        except (AgentError, OSError):
            return result  # not wholly old: the journal says REVERTING, and the next contact goes on with it
        self.end(result, "STUCK", why=message)
        return result

    def alarm(self, error: AgentError, cause: Exception) -> Result:
        """`disk` tells that the disk is the cause: what can't be done now can be when it is mended."""
        alarm.sound(self.host, error.message, error.hint or _STUCK)
        return {**self.result("stuck", error.message, error), "disk": isinstance(cause, OSError)}

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
            "leaving": sorted({a for some in admission.leaving(self.host.disk).values() for a in some}),
            "seconds": round(self.host.machine.now() - self.started, 1),
        }
