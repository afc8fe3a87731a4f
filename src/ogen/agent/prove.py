"""Proofs: an instance runs stably, on its cards and no other, with its models loaded as planned;
a balancer answers the hash of the configuration that it was given.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from . import rungs, systemd
from .errors import Unproven
from .machine import Machine
from .store import Manifest

Proof = Dict[str, Any]


class Patience(NamedTuple):
    """Seconds: how long a unit must stay up from its start on, and how long each wait may take."""

    settle: float = 6.0
    answer: float = 60.0
    load: float = 300.0
    reload: float = 15.0  # nginx tries to bind for about 2.5 s before it gives up
    drain: float = 600.0  # until an instance that goes down has ended what it had begun


def instance(machine: Machine, proof: Proof, patience: Patience) -> None:
    """Raises Unproven, naming what is wrong, with the unit's last lines. It was started just now."""
    steady_from = machine.now() + patience.settle
    try:
        first = _up(machine, proof["unit"])
        _answers(machine, proof, patience.answer)
        _on_its_cards(machine, proof, first.invocation, patience.answer)
        for served in proof["models"]:
            if served["resident"]:
                _loaded(machine, proof, rungs.served(proof["instance"], served), patience.load)
        _stays(machine, proof["unit"], first, steady_from)
    except Unproven as error:
        log = error.log or systemd.Systemd(machine).log([proof["unit"]])
        hint = error.hint or other_version(machine, proof)
        raise Unproven("instance %s: %s" % (proof["instance"], error.message), hint, log) from None


def other_version(machine: Machine, proof: Proof) -> Optional[str]:
    """Said when an instance is of another version than the release was written for."""
    answer = machine.ask(proof["port"], "GET", "/api/version", timeout=2.0)
    found = str(answer.json().get("version") or "") if answer.status == 200 else ""
    if found.lstrip("v") in ("", proof["version"].lstrip("v")):
        return None
    return "Ollama %s runs here, and the inventory is for ollama.version %s" % (found, proof["version"])


def steady(machine: Machine, names: List[str], patience: Patience) -> None:
    """Services without a proof of their own: active, and still the same process after a while. They load
    nothing: half of an instance's time will do."""
    end = machine.now() + patience.settle / 2
    for name, first in {name: _up(machine, name) for name in names}.items():
        _stays(machine, name, first, end)


def _up(machine: Machine, unit: str) -> systemd.State:
    found = systemd.states(machine, [unit])[unit]
    if not found.up or not found.pid:
        log = systemd.Systemd(machine).log([unit])
        state = "failed, and is being started again" if found.active == "activating" else found.active
        raise Unproven("%s is %s" % (unit, state), log=log)
    return found


def _stays(machine: Machine, unit: str, first: systemd.State, end: float) -> None:
    """Looks until the monotonic time `end`, and at least once."""
    while True:
        now = systemd.states(machine, [unit])[unit]
        if not now.up or now.pid != first.pid or now.restarts != first.restarts:
            raise Unproven("%s died soon after its start" % unit, log=systemd.Systemd(machine).log([unit]))
        if machine.now() >= end:
            return
        machine.wait(min(0.5, max(0.05, end - machine.now())))


def _answers(machine: Machine, proof: Proof, seconds: float) -> None:
    end = machine.now() + seconds
    while True:
        answer = machine.ask(proof["port"], "GET", "/api/version", timeout=5.0)
        if answer.status == 200 and answer.json().get("version"):
            return
        _up(machine, proof["unit"])
        if machine.now() > end:
            raise Unproven(
                "no answer on port %d after %d s: %s" % (proof["port"], seconds, answer.text[:200])
            )
        machine.wait(0.1)


def _on_its_cards(machine: Machine, proof: Proof, invocation: str, seconds: float) -> None:
    """The journal may be a little behind the process."""
    from . import cards  # whoever only looks at the host starts without it

    known = cards.list_cards(machine)
    end = machine.now() + min(seconds, 10.0)
    while True:
        lines = _journal(machine, proof["unit"], invocation)
        if cards.inference(lines) or machine.now() > end:
            break
        machine.wait(0.1)
    wrong = cards.check(lines, proof["gpus"], known)
    if wrong:
        raise Unproven(wrong, log=lines[-20:])


def _journal(machine: Machine, unit: str, invocation: str) -> List[str]:
    """What the unit has logged since this start."""
    chosen = "_SYSTEMD_INVOCATION_ID=" + invocation if invocation else "_SYSTEMD_UNIT=" + unit
    return machine.run(["journalctl", "--no-pager", "-q", "-o", "cat", chosen]).lines


def _loaded(machine: Machine, proof: Proof, served: Proof, seconds: float) -> None:
    path, body = load_request(served)
    answer = machine.ask(proof["port"], "POST", path, body, timeout=seconds)
    if answer.status != 200:
        why = answer.json().get("error") or answer.text[:200]
        raise Unproven("%s does not load: %s" % (served["model"], why))
    running = machine.ask(proof["port"], "GET", "/api/ps").json().get("models") or []
    wrong = check_loaded(served, running)
    if wrong:
        raise Unproven(wrong)


def load_request(served: Proof) -> Tuple[str, Dict[str, Any]]:
    """The request that loads a model and generates nothing."""
    text = str(served["keep_alive"])
    try:
        keep: Any = int(text)
    except ValueError:
        keep = text
    if served["embedding"]:
        return "/api/embed", {"model": served["model"], "input": "ready", "keep_alive": keep}
    return "/api/generate", {"model": served["model"], "keep_alive": keep, "stream": False}


def check_loaded(served: Proof, running: List[Dict[str, Any]]) -> Optional[str]:
    """What is wrong with a model according to /api/ps; None if it is where it was planned."""
    name = served["model"] if ":" in served["model"].rsplit("/", 1)[-1] else served["model"] + ":latest"
    found = next((m for m in running if name in (m.get("name"), m.get("model"))), None)
    if found is None:
        return "%s is not loaded" % served["model"]
    size, vram = int(found.get("size") or 0), int(found.get("size_vram") or 0)
    if served["verdict"] != "cpu" and vram <= 0:
        return "%s is loaded, but nothing of it is on the card" % served["model"]
    if served["verdict"] == "full" and vram < size:
        part = 100.0 * vram / size
        return "%s is only to %.0f %% on the card, planned was all of it" % (served["model"], part)
    return None


# ------------------------------------------------------------------------------------- balancers
def balancer_hash(machine: Machine, proof: Proof) -> str:
    """The hash that the running nginx answers; empty if it does not."""
    answer = machine.ask_socket(proof["socket"], "/release")
    return answer.text.strip() if answer.status == 200 else ""


def balancer(machine: Machine, proof: Proof, patience: Patience, master: int = 0) -> None:
    """Waits for the right hash; `master` is the process that must have lived through a reload."""
    end = machine.now() + patience.reload
    while balancer_hash(machine, proof) != proof["hash"]:
        if machine.now() > end:
            raise Unproven(
                "balancer %s still answers with another configuration" % proof["balancer"],
                log=balancer_log(machine, proof),
            )
        machine.wait(0.1)
    now = _up(machine, proof["unit"])
    if master and now.pid != master:
        raise Unproven(
            "balancer %s: nginx died in the reload" % proof["balancer"], log=balancer_log(machine, proof)
        )


def balancer_log(machine: Machine, proof: Proof) -> List[str]:
    """The unit's journal and nginx's own error log, their last lines."""
    lines = systemd.Systemd(machine).log([proof["unit"]], lines=10)
    done = machine.run(
        ["sh", "-c", "tail -qn 10 /var/log/ogen/*%s*error* 2>/dev/null" % _plain(proof["balancer"])]
    )
    return lines + done.lines[-10:]


def _plain(name: str) -> str:
    return "".join(c for c in name if c.isalnum() or c in "-_")


def instances(manifest: Manifest) -> Dict[str, Proof]:
    """Proofs by unit."""
    return {p["unit"]: p for p in manifest["instances"]}
