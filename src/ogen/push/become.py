"""The command line that starts the agent as root, and the wait for its greeting.

Nothing is ever sent to a program that has not greeted: not to sudo, not to a login's profile. A
password goes out once, after sudo's prompt with our nonce was seen; a second prompt ends the attempt.
"""

from __future__ import annotations

import re
import secrets
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import BecomeError, HostError, RemoteError
from ..inventory.model import Host
from .bundle import BOOTSTRAP, Bundle
from .pipes import Pipe

GREETING = 30.0  # seconds until the agent's first word


class PythonMissing(RemoteError):
    """The host has no python to run the agent with; `ogen provision` installs it."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start of the agent; `nonce` tells its greeting and sudo's prompt from any other text."""

    command: tuple[str, ...]
    nonce: str
    become: bool
    password: str | None = None

    @property
    def prompt(self) -> bytes:
        return f"sudo {self.nonce}:".encode()

    @property
    def line(self) -> str:
        """As one line for a login shell."""
        return shlex.join(self.command)


def start(host: Host, agent: Bundle, password: str | None, *, local: bool = False) -> Start:
    """`password` is sudo's; without one sudo must not ask."""
    nonce = secrets.token_hex(8)
    python = (host.python, "-I", "-c", BOOTSTRAP, nonce, agent.sha256, host.root or "/")
    return program(host, python, nonce, password)


def program(host: Host, command: Sequence[str], nonce: str, password: str | None) -> Start:
    """The start of a program that greets with `nonce`; as root where the inventory says `become`."""
    become = host.ssh.become and not host.root
    if not become:
        return Start(tuple(command), nonce, False)
    if password is None:
        return Start(("sudo", "-n", "--", *command), nonce, True)
    prompt = f"sudo {nonce}:"
    return Start(("sudo", "-k", "-S", "-p", prompt, "--", *command), nonce, True, password)


def greet(pipe: Pipe, begun: Start, host: Host) -> bool:
    """Waits for the greeting; whether the host has the agent already."""
    end = time.monotonic() + GREETING
    asked = False
    wanted = re.compile(rb"^ogen %s (have|need)\n" % begun.nonce.encode(), re.MULTILINE)
    while True:
        found = wanted.search(bytes(pipe.out))
        if found:
            have = found.group(1) == b"have"
            del pipe.out[: found.end()]
            return have
        if begun.prompt in pipe.err:
            if asked or begun.password is None:
                hint = "check ssh.become_password; it was tried only once, so as not to lock the account"
                raise BecomeError(
                    f"sudo on {host.name} does not take the password", host=host.name, hint=hint
                )
            asked = True
            pipe.err.clear()
            pipe.send(begun.password.encode() + b"\n")
        if pipe.ended:
            raise refusal(pipe, begun, host)
        pipe.pump(end, "greeting of the agent")


def refusal(pipe: Pipe, begun: Start, host: Host) -> HostError:
    """Why the agent did not start, from what the host said."""
    said = pipe.said() or pipe.out.decode("utf-8", "replace").strip()
    log = said.splitlines()[-20:]
    user = host.ssh.user or "USER"
    if _lacks_python(said, host):
        return PythonMissing(
            f"{host.python} is not there", host=host.name, log=log, hint="run `ogen provision` for it"
        )
    if begun.become and "sudo" in said:
        if "tty" in said:
            hint = f"add to sudoers: Defaults:{user} !requiretty"
        elif "password is required" in said or "terminal is required" in said:
            hint = f"set ssh.become_password, or add to sudoers: {user} ALL=(root) NOPASSWD: ALL"
        elif "command not found" in said or "not found" in said:
            hint = "install sudo, or connect as root with become: false"
        else:
            hint = f"add to sudoers: {user} ALL=(root) NOPASSWD: ALL"
        last = log[-1] if log else "it says nothing"
        return BecomeError(f"root can't be had: {last}", host=host.name, log=log, hint=hint)
    why = log[-1].removeprefix("ogen: ") if log else "it says nothing"
    hint = "run the command again; if that fails too, log in and try: " + _trial(host)
    return RemoteError(f"the agent does not start: {why}", host=host.name, log=log, hint=hint)


def _trial(host: Host) -> str:
    """What starts the agent's Python by hand; it must be silent."""
    return ("sudo -n " if host.ssh.become and not host.root else "") + f"{host.python} -I -c ''"


def _lacks_python(said: str, host: Host) -> bool:
    """From what sudo (in any language) or a login's shell says about a command that is not there."""
    python = re.escape(host.python)
    wanted = rf"^sudo: {python}: |{python}: (command )?not found|not found: {python}\b"
    return re.search(wanted, said, re.MULTILINE) is not None
