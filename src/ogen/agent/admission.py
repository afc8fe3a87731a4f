"""Whom instances let in: the balancers of the release in force and, while balancers change, those of before.

systemd applies `IPAddressAllow=` to what runs at daemon-reload, without a restart, and drops a value that it
does not take without a word: what it shows is compared with what was meant. A release that takes balancers
away leaves their addresses admitted, by a drop-in under /run, until the controller says that nobody is routed
through them any more (closing.py), or the machine boots.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, List

from . import locks, systemd
from .disk import Disk, above
from .errors import Unproven
from .machine import Machine
from .store import Manifest

RUN = "/run/systemd/system"
NAME = "ogen-leaving.conf"
UNDER_WAY = "/run/ogen/leaving.lock"  # held by the session of a rollout that is going to close
_HEAD = "# Written by ogen: balancers of the release before, until all balancers have changed.\n[Service]\n"
_LOOPBACK = ("127.0.0.0/8", "::1/128")

Leaving = Dict[str, List[str]]  # unit → addresses of balancers that are none any more


# ------------------------------------------------------------------------------------- the drop-ins
def leaving(disk: Disk) -> Leaving:
    """What is admitted beside the release in force."""
    found = {}
    for folder in disk.names(RUN):
        if folder.startswith("ogen-") and folder.endswith(".service.d"):
            text = disk.read_or("%s/%s/%s" % (RUN, folder, NAME)).decode("utf-8", "replace")
            pairs = [line.partition("=") for line in text.splitlines()]
            addresses = sorted(value.strip() for key, _, value in pairs if key == "IPAddressAllow")
            if addresses:
                found[folder[:-2]] = addresses
    return found


def union(wish: Manifest, force: Manifest, before: Leaving) -> Leaving:
    """What `wish` must go on admitting: all that `force` does, with what was leaving then already."""
    old = {p["unit"]: p.get("admits") or () for p in force["instances"]}
    found = {}
    for proof in wish["instances"]:
        unit = proof["unit"]
        extra = {*old.get(unit, ()), *before.get(unit, ())} - set(proof.get("admits") or ())
        if extra:
            found[unit] = sorted(extra)
    return found


def put(disk: Disk, wanted: Leaving) -> None:
    """Exactly these drop-ins. /run is in memory: nothing is synced."""
    now = leaving(disk)
    for unit in sorted({*now, *wanted}):
        path = "%s/%s.d/%s" % (RUN, unit, NAME)
        if unit not in wanted:
            disk.remove(path, sync=False)
            disk.remove_empty(above(path))
        elif wanted[unit] != now.get(unit):
            lines = ["IPAddressAllow=%s\n" % address for address in wanted[unit]]
            disk.folder(above(path), sync=False)
            disk.replace(path, (_HEAD + "".join(lines)).encode(), 0o644, sync=False)


def put_back(disk: Disk, machine: Machine, first: Dict[str, Any]) -> None:
    """As it was before a transaction (its BEGIN record); a boot since then has ended it."""
    put(disk, first.get("leaving", {}) if first["boot"] == machine.boot() else {})


# ---------------------------------------------------------------------------------- what systemd has
def lets_in(state: systemd.State, address: str) -> bool:
    """Whether systemd shows that it admits an address, or a network around it; True where it does not say."""
    if state.admits is None or _whole(address) in state.admits:
        return True
    import ipaddress

    try:
        one = ipaddress.ip_address(address)
        return any(one in ipaddress.ip_network(shown, strict=False) for shown in state.admits)
    except ValueError:
        return False


def _whole(address: str) -> str:
    return address + ("/128" if ":" in address else "/32")


def prove(machine: Machine, manifest: Manifest, beside: Leaving) -> None:
    """After a daemon-reload: systemd has taken every address that was meant."""
    proofs = [p for p in manifest["instances"] if p.get("admits") or beside.get(p["unit"])]
    seen = systemd.states(machine, [p["unit"] for p in proofs])
    for proof in proofs:
        meant = [*(proof.get("admits") or ()), *beside.get(proof["unit"], ())]
        lost = [address for address in meant if not lets_in(seen[proof["unit"]], address)]
        if lost:
            shown = " ".join(seen[proof["unit"]].admits or ()) or "nobody"
            raise Unproven(
                "%s does not admit %s: systemd shows %s" % (proof["unit"], ", ".join(lost), shown),
                "look for a drop-in that clears IPAddressAllow: `systemctl cat %s`" % proof["unit"],
            )


def reasons(
    own: Manifest, seen: Dict[str, systemd.State], beside: Leaving, foreign: Iterable[str]
) -> Dict[str, str]:
    """Why instances do not admit just whom the release in force says, by unit. Addresses that somebody's own
    drop-in adds are told of as that drop-in."""
    theirs = {path.split("/")[-2][:-2] for path in foreign}
    found = {}
    for proof in own["instances"]:
        state = seen.get(proof["unit"])
        if "admits" not in proof or state is None or not state.up or state.admits is None:
            continue
        extra = beside.get(proof["unit"], [])
        meant = [*proof["admits"], *extra]
        lost = [address for address in meant if not lets_in(state, address)]
        stray = sorted(set(state.admits) - {_whole(address) for address in meant} - set(_LOOPBACK))
        if lost:
            found[proof["unit"]] = "does not admit %s: daemon-reload pending" % ", ".join(lost)
        elif stray and proof["unit"] not in theirs:
            found[proof["unit"]] = "admits %s as well: daemon-reload pending" % ", ".join(stray)
    return found


def behind(disk: Disk, beside: Leaving) -> Dict[str, str]:
    """What a rollout that is over has left open, by unit."""
    if not beside or locks.Lock(disk, UNDER_WAY).held():
        return {}
    text = "still admits %s, no balancer of the release in force: left by a rollout that did not end"
    return {unit: text % ", ".join(addresses) for unit, addresses in beside.items()}
