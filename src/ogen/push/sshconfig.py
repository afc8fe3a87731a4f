"""The user's ssh_config as OpenSSH itself reads it: `ssh -G` knows Match, Include and what wins over what.

What `ssh -G` leaves to the connection is expanded here: the tokens of file names, `~` and `${NAME}`.
OGEN_SSH_CONFIG names another file than ~/.ssh/config (`none`: no file at all), as `ssh -F` does.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConnectError

ASKING = 10.0  # seconds for `ssh -G`, whose Match may run programs
IDENTITIES = tuple(f"~/.ssh/{name}" for name in ("id_ed25519", "id_ecdsa", "id_rsa"))
KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts")
#: keywords of the system's file that change nothing for us; Debian's own file holds no others
_HARMLESS = {"host", "sendenv", "hashknownhosts", "gssapiauthentication", "forwardx11trusted"}


@dataclass(frozen=True, slots=True)
class Settings:
    """What ssh_config says about one name."""

    name: str  # as it was asked for
    said: Mapping[str, list[str]]

    def first(self, key: str) -> str | None:
        """The value; None where it is not set, or set to none."""
        value = self.said.get(key, [""])[0]
        return None if value.lower() in ("", "none") else value

    def all(self, key: str) -> list[str]:
        return [value for value in self.said.get(key, []) if value.lower() != "none"]

    def files(self, key: str) -> tuple[str, ...]:
        """A list of files in one line; a name with blanks is not quoted there, but each begins alike."""
        return tuple(re.split(r" (?=[/~])", self.first(key) or "")) if self.first(key) else ()


def flags() -> list[str]:
    """`-F FILE` where OGEN_SSH_CONFIG names one."""
    named = os.environ.get("OGEN_SSH_CONFIG")
    return ["-F", named] if named else []


def ask(name: str, user: str | None, port: int | None, host: str) -> Settings:
    """The settings for a name, as if `ssh -l user -p port name` was typed; ConnectError if ssh refuses.

    Asked only where a configuration exists: 5 ms for each of a thousand hosts are 5 s.
    """
    if name.startswith("-"):
        raise ConnectError(f"{name} is not an address", host=host)
    if not _configured() or not shutil.which("ssh"):
        return Settings(name, {"identityfile": list(IDENTITIES)})
    words = ["ssh", *flags(), "-T", "-G"]
    words += ["-l", user] if user else []
    words += ["-p", str(port)] if port else []
    try:
        done = subprocess.run(
            [*words, "--", name], stdin=subprocess.DEVNULL, capture_output=True, timeout=ASKING, check=False
        )
    except subprocess.TimeoutExpired:
        hint = "a `Match exec` of your ssh_config does not end"
        raise ConnectError(f"`ssh -G {name}` takes more than {ASKING:.0f} s", host=host, hint=hint) from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it says nothing"]
        raise ConnectError(f"ssh_config: {said[0]}", host=host, hint=_mend(said[0], name))
    return Settings(name, _parsed(done.stdout.decode("utf-8", "replace")))


def usual_kex() -> str | None:
    """The key exchanges that the client offers without any configuration."""
    words = ["ssh", "-F", "none", "-T", "-G", "--", "none"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=ASKING, check=False)
    return Settings("none", _parsed(done.stdout.decode("utf-8", "replace"))).first("kexalgorithms")


def _mend(said: str, name: str) -> str:
    if "jumphost loop" in said:
        return f"a host can't be its own jump: give {name} `ProxyJump none` before it"
    return f"`ssh -G {name}` says the same: mend ~/.ssh/config"


def _parsed(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key.lower(), []).append(value.strip().strip('"'))
    return found


def _configured() -> bool:
    """Whether any file says something; OpenSSH looks in the home of the account, whatever $HOME says."""
    named = os.environ.get("OGEN_SSH_CONFIG")
    if named:
        return named != "none"
    homes = {Path("~").expanduser(), Path(pwd.getpwuid(os.getuid()).pw_dir)}
    folder = Path("/etc/ssh/ssh_config.d")
    return (
        any((home / ".ssh/config").is_file() for home in homes)
        or (folder.is_dir() and any(folder.glob("*.conf")))
        or _says_more(Path("/etc/ssh/ssh_config"))
    )


def _says_more(path: Path) -> bool:
    """Whether the system's file differs from what distributions ship."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    words = [re.split(r"[\s=]+", line.strip(), maxsplit=1) for line in lines if line.strip()]
    return any(
        not (w[0].startswith("#") or w[0].lower() in _HARMLESS or w[1:] == ["/etc/ssh/ssh_config.d/*.conf"])
        for w in words
    )


# -------------------------------------------------------------------------------------- tokens
def tokens(name: str, hostname: str, port: int, user: str, jump: str | None, alias: str) -> dict[str, str]:
    """The tokens of ssh_config(5) that names of files may hold."""
    here = socket.gethostname()
    hashed = f"{here}{hostname}{port}{user}{jump or ''}"
    return {
        "%": "%",
        "C": hashlib.sha1(hashed.encode(), usedforsecurity=False).hexdigest(),
        "d": str(Path("~").expanduser()),
        "h": hostname,
        "i": str(os.getuid()),
        "j": jump or "",
        "k": alias,
        "L": here.split(".")[0],
        "l": here,
        "n": name,
        "p": str(port),
        "r": user,
        "u": getpass.getuser(),
    }


def expand(text: str, known: Mapping[str, str]) -> str:
    """`text` with tokens, `${NAME}` and `~` replaced; what is not known stays as it is."""
    text = re.sub(r"%(.)", lambda m: known.get(m[1], m[0]), text)
    text = re.sub(r"\$\{(\w+)\}", lambda m: os.environ.get(m[1], m[0]), text)
    return str(Path(text).expanduser())
