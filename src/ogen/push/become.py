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
from contextlib import ExitStack
from dataclasses import dataclass, field

from ..errors import BecomeError, ConnectError, HostError
from ..inventory.model import Host
from .access import Keyring
from .bundle import BOOTSTRAP, Bundle
from .pipes import Pipe
from .prompts import Trial
from .refusals import NO_PASSWORD, REFUSED, PythonMissing, refusal

__all__ = ["PythonMissing", "Start", "greet", "program", "start"]

GREETING = 30.0  # seconds until the agent's first word


@dataclass(frozen=True, slots=True)
class Start:
    """One start of the agent; `nonce` tells its greeting and sudo's prompt from any other text."""

    command: tuple[str, ...]
    nonce: str
    become: bool
    keyring: Keyring = field(default_factory=Keyring, repr=False)

    @property
    def prompt(self) -> bytes:
        return f"sudo {self.nonce}:".encode()

    @property
    def line(self) -> str:
        """As one line for a login shell."""
        return shlex.join(self.command)


def start(host: Host, agent: Bundle, keyring: Keyring) -> Start:
    """The start of the agent."""
    nonce = secrets.token_hex(8)
    python = (host.python, "-I", "-S", "-c", BOOTSTRAP, nonce, agent.sha256, host.root or "/")
    return program(host, python, nonce, keyring)


def program(host: Host, command: Sequence[str], nonce: str, keyring: Keyring) -> Start:
    """The start of a program that greets with `nonce`; as root where the inventory says `become`.

    Where neither the inventory has a password nor a person can be asked, sudo must not ask either. Its
    words are wanted in English, whatever the login's language is.
    """
    become = host.ssh.become and not host.root
    if not become:
        return Start(tuple(command), nonce, False, keyring)
    silent = host.ssh.become_password is None and keyring.ask is None
    asking = ("-n",) if silent else ("-k", "-S", "-p", f"sudo {nonce}:")
    return Start(("env", "LC_ALL=C", "sudo", *asking, "--", *command), nonce, True, keyring)


def greet(pipe: Pipe, begun: Start, host: Host) -> bool:
    """Waits for the greeting; whether the host has the agent already."""
    wanted = re.compile(rb"ogen %s (have|need)\n" % begun.nonce.encode())
    end = time.monotonic() + GREETING + pipe.patience
    trial: Trial | None = None
    with ExitStack() as stack:
        while True:
            found = wanted.search(bytes(pipe.out))
            if found:
                if trial is not None:
                    trial.accepted = True
                del pipe.out[: found.end()]
                return found.group(1) == b"have"
            if begun.prompt in pipe.err:
                if trial is not None:
                    raise _refused(trial, host)
                trial = _send_password(pipe, begun, host, stack)
                end = time.monotonic() + GREETING
            if pipe.ended:
                raise _ended(pipe, begun, host, trial)
            _pump(pipe, end, begun, host)


def _send_password(pipe: Pipe, begun: Start, host: Host, stack: ExitStack) -> Trial:
    """Sends it once. Held by `stack` until the host's verdict: meanwhile no other host sends the same."""
    user = pipe.user or host.ssh.user or ""
    word = _word(begun.keyring, host, user)
    trial = stack.enter_context(begun.keyring.trials.trial("sudo", user, word))
    if trial.refused_by:
        raise BecomeError(
            f"sudo's password was not tried: {trial.refused_by} did not take the same one",
            host=host.name,
            hint="set ssh.become_password right and run the command again",
        )
    pipe.err.clear()
    pipe.send(word.encode() + b"\n")
    return trial


def _word(keyring: Keyring, host: Host, user: str) -> str:
    if host.ssh.become_password is not None:
        return keyring.reveal(host.ssh.become_password)
    question = f"sudo password of {user} on {host.name} (asked once for all hosts): "
    word = keyring.typed(("sudo", user), question)
    if not word:
        raise BecomeError(
            "sudo wants a password, and none was given", host=host.name, hint=NO_PASSWORD.format(user=user)
        )
    return word


def _refused(trial: Trial, host: Host) -> BecomeError:
    trial.refuse(host.name)
    return BecomeError(
        f"sudo on {host.name} does not take the password",
        host=host.name,
        hint="check ssh.become_password; it was tried only once, so as not to lock the account",
    )


def _ended(pipe: Pipe, begun: Start, host: Host, trial: Trial | None) -> HostError:
    """Why nothing greeted. sudo ends after a wrong password where it allows one attempt only."""
    said = pipe.said()
    if trial is not None and re.search(REFUSED, said):
        return _refused(trial, host)
    return pipe.failure() or refusal(pipe, host, begun.become)


def _pump(pipe: Pipe, end: float, begun: Start, host: Host) -> None:
    """Waits for more. A last line without an end is a question that we can't answer."""
    try:
        pipe.pump(end, "greeting of the agent")
    except ConnectError as late:
        asked = pipe.said().splitlines()[-1:] if begun.become else []
        if not asked or pipe.err.endswith(b"\n"):
            raise late from None
        user = pipe.user or host.ssh.user or "USER"
        raise BecomeError(
            f"something on the way to root asks a question of its own: {asked[0]}",
            host=host.name,
            log=pipe.said().splitlines()[-20:],
            hint=f"add to sudoers: Defaults:{user} passprompt_override, or {user} ALL=(root) NOPASSWD: ALL",
        ) from None
