"""Services that run only while a session needs them, from the [Service] lines of a unit file.

Each has a guard that lives as long as the agent, and takes the service with it.
"""

from __future__ import annotations

import os
import shlex
from typing import List, Tuple

from . import disk
from .errors import AgentError
from .machine import Machine


def start(machine: Machine, name: str, what: str, unit_text: str) -> None:
    """Starts the unit `name`; one of an earlier session goes first. `what` is its name for people."""
    for line in unit_text.splitlines():
        if line.startswith("User="):  # systemd would say nothing but that it fails
            disk.uid(line.partition("=")[2])
    stop(machine, name)
    machine.run(["systemctl", "reset-failed", *_units(name)])
    guard = ["tail", "-s", "1", "--pid=%d" % os.getpid(), "-f", "/dev/null"]
    machine.run(["systemd-run", "--quiet", "--collect", "--unit=" + _guard(name), "--", *guard])
    done = machine.run(command(name, unit_text))
    if done.code:
        hint = None
        if "Failed to find executable" in done.text:
            hint = "install Ollama there, say where it is (ollama: {binary: /path/of/ollama}), or where "
            hint += "`ogen provision` gets it from (ollama: {source: …})"
        if "nginx" in done.text:
            hint = "`ogen provision` installs nginx on a mirror's host"
        said = done.text.strip() or "see its log"
        raise AgentError("%s does not start: %s" % (what, said), hint, log(machine, name))


def stop(machine: Machine, name: str) -> None:
    machine.run(["systemctl", "stop", *_units(name)])


def log(machine: Machine, name: str) -> List[str]:
    return machine.run(["journalctl", "--no-pager", "-q", "-o", "cat", "-n", "20", "-u", name]).lines


def _guard(name: str) -> str:
    return name + "-guard"


def _units(name: str) -> List[str]:
    return [name + ".service", _guard(name) + ".service"]


def command(name: str, unit_text: str) -> List[str]:
    """The systemd-run command that starts the [Service] of a unit file; pure."""
    words = ["systemd-run", "--quiet", "--collect", "--unit=" + name]
    program: List[str] = []
    for key, value in service_lines(unit_text):
        if key == "ExecStart":
            program = shlex.split(value)
        elif key not in ("Restart", "RestartSec"):
            words += ["-p", "%s=%s" % (key, value)]
    if not program:
        raise AgentError("the unit of %s has no ExecStart" % name)
    guard = _guard(name) + ".service"
    return [*words, "-p", "BindsTo=" + guard, "-p", "After=" + guard, "--", *program]


def service_lines(text: str) -> List[Tuple[str, str]]:
    """Keys and values of a unit's [Service] section; continued lines are joined."""
    section, found = "", []
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            found.append((key.strip(), value.strip()))
    return found
