"""The stock ollama.service, which ogen holds off: how it was before, noted once, and given back by retire.

`ogen provision` writes the same note: the words that Ansible's service_facts has for its state and status.
"""

from __future__ import annotations

from typing import Iterable, List

from . import store, systemd
from .transaction import Host

NOTES = "stock-"  # and the unit's name, in HOME


def note(host: Host, units: Iterable[str]) -> None:
    """Of units that run and are about to be stopped; the first note stays."""
    for unit in units:
        path = "%s/%s%s" % (store.HOME, NOTES, unit)
        if host.disk.lstat(path) is None:
            shown = host.machine.run(["systemctl", "show", "-p", "UnitFileState", "--value", "--", unit])
            host.disk.replace(path, ("running %s\n" % shown.text.strip()).encode(), 0o644)


def give_back(host: Host) -> List[str]:
    """Enables and starts what was so before ogen; what became of each, in words."""
    said = []
    for name in host.disk.names(store.HOME):
        unit, text = name[len(NOTES) :], host.disk.read_or("%s/%s" % (store.HOME, name))
        verbs = [v for v, word in (("enable", b"enabled"), ("start", b"running")) if word in text.split()]
        if name.startswith(NOTES) and verbs:
            said.append(_again(host, unit, verbs))
    return said


def _again(host: Host, unit: str, verbs: List[str]) -> str:
    if systemd.states(host.machine, [unit])[unit].loaded == "not-found":
        return "%s is not there any more" % unit
    for verb in verbs:
        done = host.machine.run(["systemctl", verb, "--", unit], 120.0)
        if done.code:
            return "%s can't be brought back: %s" % (unit, done.text.strip())
    words = {"enable": "enabled", "start": "running"}
    return "%s is %s again" % (unit, " and ".join(words[verb] for verb in verbs))
