"""Why a program did not start on a host: from what sudo, the login's shell or the program said."""

from __future__ import annotations

import re

from ..errors import BecomeError, HostError, RemoteError
from ..inventory.model import Host
from .pipes import Pipe

_LINE = "add to sudoers (visudo -f /etc/sudoers.d/ogen): "
NOPASSWD = _LINE + "{user} ALL=(root) NOPASSWD: ALL"
NO_PASSWORD = "set ssh.become_password, run this on a terminal, or " + NOPASSWD
REFUSED = r"incorrect password attempt|Sorry, try again|Authentication failure|maximum \d+ incorrect"
#: what sudo says (in English: it runs with LC_ALL=C), and how to mend it; {user} is who logged in
_SUDO = (
    (r"must have a tty", _LINE + "Defaults:{user} !requiretty"),
    (r"not in the sudoers file", NOPASSWD),
    (r"is not allowed to (?:execute|run)|not allowed to run sudo", NOPASSWD),
    (REFUSED, "check ssh.become_password; it was tried only once, so as not to lock the account"),
    (r"password is required|terminal is required|no password was provided|askpass", NO_PASSWORD),
    (r"account validation failure|account or password is expired|is your account locked",
     "unlock the account on the host: passwd -S {user}, chage -l {user}, faillock --user {user}"),
    (r"sudo: (?:command )?not found|sudo: No such file|not found: sudo\b|env: .sudo.: ",
     "install sudo, or connect as root with become: false"),
    (r"effective uid is not 0|no new privileges|must be setuid root|must be owned by uid 0",
     "sudo itself is broken there: chmod 4755 /usr/bin/sudo, owned by root, not mounted nosuid"),
    (r"no valid sudoers sources|parse error|syntax error|sudoers is (?:world writable|owned by)",
     "mend sudoers on the host: visudo -c says where"),
    (r"timed out reading password", "the answer took too long: run the command again"),
    (r"^sudo: (?!unable to resolve host)", NOPASSWD),
)  # fmt: skip


class PythonMissing(RemoteError):
    """The host has no python to run the agent with; `ogen provision` installs it."""


def refusal(pipe: Pipe, host: Host, become: bool) -> HostError:
    """Why the agent did not start, from what the host said."""
    said = pipe.said() or pipe.out.decode("utf-8", "replace").strip()
    log = said.splitlines()[-20:]
    if _lacks_python(said, host):
        return PythonMissing(
            f"{host.python} is not there", host=host.name, log=log, hint="run `ogen provision` for it"
        )
    if become:
        user = pipe.user or host.ssh.user or "USER"
        for pattern, hint in _SUDO:
            found = next((line for line in log if re.search(pattern, line)), None)
            if found is not None:
                hint = hint.format(user=user)
                return BecomeError(f"root can't be had: {found.strip()}", host=host.name, log=log, hint=hint)
    why = log[-1].removeprefix("ogen: ") if log else "it says nothing"
    todo = None if log else f"`ssh {host.address} {host.python} -V` should print a version"
    return RemoteError(f"the agent does not start: {why}", host=host.name, log=log, hint=todo)


def _lacks_python(said: str, host: Host) -> bool:
    """From what sudo or env (in any language) or a login's shell says about a command that is not there."""
    python = re.escape(host.python)
    wanted = (
        rf"^sudo: {python}: |{python}[’']?: (command )?not found|not found: {python}\b|^env: .{python}.: "
    )
    return re.search(wanted, said, re.MULTILINE) is not None
